"""Sharding of a report's inputs over ranks. Inputs are numbered rank after rank."""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterable, Mapping, Optional, Sequence

import torch
from torch.utils.data import DistributedSampler

from captum_kd._distributed import ProcessGroup
from captum_kd._utils.batches import Unpack, length_of, unpack_batch
from captum_kd.distance.block_sums import TileIterator
from captum_kd.distance.sharded import RingTiles, ShardedDistances
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics._sharding import InputSharding
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.storage import FeatureStore, Placement

Stores = Mapping[str, Sequence[FeatureStore]]
"""Features of this rank's inputs at each layer, by the key of the feature set; empty without inputs."""


class ReportSharding(InputSharding):
    """The inputs of all ranks, and the placement of their features and distances.

    Attributes:
        tiles (TileIterator): over the pairs of inputs, once there is a placement.
    """

    tiles: TileIterator

    def placement(self, own: Placement, stores: Stores) -> Placement:
        """The placement in all ranks, from that of each."""
        self.gather_specs(stores)
        of_ranks: list[Placement] = self._group.gather(own)
        in_file = any(each.in_file for each in of_ranks)
        width = max(sum(spec.width for spec in of_layer) for of_layer in zip(*self.specs.values()))
        # Progression compares a layer with the last one, whose features are exchanged too.
        self.tiles = self.tile_iterator(2 * width, _file_buffer if in_file else None)
        return Placement(in_file, all(each.held for each in of_ranks), of_ranks[0].block_size)

    def source(self, key: str, layer: int, stores: Stores, placement: Placement) -> DistanceSource:
        """The distances between all inputs."""
        source = self.distances(key, layer, stores[key][layer] if stores else None)
        if not placement.held:
            return source
        if not isinstance(source, ShardedDistances):
            return source.matrix()
        assert isinstance(self.tiles, RingTiles)
        source.hold(self.tiles, placement.block_size)
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
