"""Sharding of a report's inputs over ranks. Inputs are numbered rank after rank."""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterable, Mapping, Optional, Sequence

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from captum_kd._distributed import ProcessGroup
from captum_kd._utils.batches import Unpack, length_of, unpack_batch
from captum_kd.distance.block_sums import LocalTiles, TileIterator
from captum_kd.distance.sharded import RingTiles, Shards
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics._sharding import FeatureSpecs, common_specs, sharded_distances, spec_of
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.scores import distance_source
from captum_kd.metrics.report.storage import FeatureStore, Placement

Stores = Mapping[str, Sequence[FeatureStore]]
"""Features of this rank's inputs at each layer, by the key of the feature set; empty without inputs."""


class InputSharding:
    """The inputs of all ranks as one population. Methods are called in all ranks, in the order in which they stand here.

    Args:
        group (ProcessGroup): all ranks.
        device (torch.device): where features are scored.
        advice (str): advice for inputs of several sizes.

    Attributes:
        keys (sequence of str): of all feature sets.
        tile_iterator (TileIterator): over the pairs of inputs.
    """

    def __init__(self, group: ProcessGroup, device: torch.device, advice: str) -> None:
        self._group = group
        self._device = device
        self._advice = f"{advice} Load the models in one dtype."
        self._specs: FeatureSpecs = {}
        self._shards = Shards([0], 0)
        self.tile_iterator: TileIterator = LocalTiles()

    def labels(self, batches: Sequence[Tensor]) -> Tensor:
        """(n,) labels of all inputs, from those of this rank's batches."""
        own = torch.cat(list(batches)) if batches else torch.empty(0, dtype=torch.long, device="cpu")
        of_ranks = self._group.gather(own)
        self._shards = Shards([len(labels) for labels in of_ranks], self._group.rank)
        return torch.cat(of_ranks)

    def placement(self, own: Placement, stores: Stores) -> Placement:
        """The placement of features and distances in all ranks, from that of each."""
        specs = {key: [spec_of(store) for store in of_layers] for key, of_layers in stores.items()}
        of_ranks: list[tuple[Placement, FeatureSpecs]] = self._group.gather((own, specs))
        self._specs = common_specs([specs for _, specs in of_ranks], self._advice)
        placements = [placement for placement, _ in of_ranks]
        in_file, held = any(each.in_file for each in placements), all(each.held for each in placements)
        if self._group.is_distributed:
            width = max(sum(spec.width for spec in of_layer) for of_layer in zip(*self._specs.values()))
            # Progression compares a layer with the last one, whose features are exchanged too.
            self.tile_iterator = RingTiles(self._shards, self._group, 2 * width, _file_buffer if in_file else None)
        return Placement(in_file, held, placements[0].block_size)

    @property
    def keys(self) -> Sequence[str]:
        return list(self._specs)

    def source(self, key: str, layer: int, stores: Stores, placement: Placement) -> DistanceSource:
        """The distances between all inputs."""
        own = stores[key][layer] if stores else None
        if not isinstance(self.tile_iterator, RingTiles):
            assert own is not None
            return distance_source(own, held=placement.held)
        source = sharded_distances(own, self._specs[key][layer], self._device, self._shards, self._group)
        if placement.held:
            source.hold(self.tile_iterator, placement.block_size)
        return source


def _file_buffer(device: torch.device) -> FeatureStore:
    store = FeatureStore(device)
    store.move_to_file()
    return store


def all_reduce_counts(group: ProcessGroup, counts: Mapping[int, int]) -> dict[int, int]:
    """Inputs of each class over all ranks."""
    total: Counter[int] = Counter()
    for of_rank in group.gather(dict(counts)):
        total.update(of_rank)
    return dict(total)


def repeated_by_sampler(data: Iterable[Any]) -> int:
    """Inputs that a DistributedSampler gives a second time, so that all ranks have equally many."""
    sampler = getattr(data, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    return max(0, int(sampler.total_size) - len(sampler.dataset))  # type: ignore[arg-type]


def sampler_replicas(data: Iterable[Any]) -> int:
    """The number of shards that a DistributedSampler makes of its data set."""
    sampler = getattr(data, "sampler", None)
    return int(sampler.num_replicas) if isinstance(sampler, DistributedSampler) else 1


def announced_inputs(data: Iterable[Any], unpack: Optional[Unpack]) -> Optional[int]:
    """The number of inputs in the data, or None if it is not known before they are read."""
    if isinstance(data, (list, tuple)):
        return sum(len(unpack_batch(batch, unpack).labels) for batch in data)
    batch_size = getattr(data, "batch_size", None)
    count = length_of(getattr(data, "sampler", None))
    if batch_size is None or count is None:
        return None
    return count // batch_size * batch_size if getattr(data, "drop_last", False) else count


def begin_noise(localizer: Localizer, group: ProcessGroup, announced: Optional[int]) -> bool:
    """Gives imputed pixels the noise that they would have in one process. Returns False if a number of inputs is not known."""
    of_ranks = group.gather(announced)
    if group.size > 1 and None in of_ranks:
        localizer.begin_apart(group.rank)
        return False
    localizer.begin(sum(of_ranks[: group.rank]))
    return True
