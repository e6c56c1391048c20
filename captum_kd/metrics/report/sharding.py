"""Sharding of a report's inputs over ranks. The first inputs are those of rank 0, then those of rank 1, and so on."""

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
"""Features of this rank's inputs at each layer, by the key of the feature set; empty if the rank has no inputs."""


class ReportSharding(InputSharding):
    """The inputs of all ranks, and the placement of their features and distances.

    Attributes:
        tiles (TileIterator): iterates over the pairs of inputs; set by :meth:`placement`.
    """

    tiles: TileIterator

    def placement(self, own: Placement, stores: Stores) -> Placement:
        """The common placement of all ranks, from this rank's ``own`` placement."""
        self.gather_specs(stores)
        of_ranks: list[Placement] = self._group.gather(own)
        in_file = any(each.in_file for each in of_ranks)
        width = max(sum(spec.width for spec in of_layer) for of_layer in zip(*self.specs.values()))
        # With progression, the features of the last layer are exchanged too.
        self.tiles = self.tile_iterator(2 * width, _file_buffer if in_file else None)
        return Placement(in_file, all(each.held for each in of_ranks), of_ranks[0].block_size)

    def source(
        self, key: str, layer: int, stores: Stores, placement: Placement, dtype: Optional[torch.dtype] = None
    ) -> DistanceSource:
        """The distances between the inputs of all ranks."""
        source = self.distances(key, layer, stores[key][layer] if stores else None, dtype)
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
    """The number of inputs of each class over all ranks."""
    total: Counter[int] = Counter()
    for of_rank in group.gather(dict(counts)):
        total.update(of_rank)
    return dict(total)


def repeated_by_sampler(data: Iterable[Any]) -> int:
    """The number of inputs that a DistributedSampler repeats to give all ranks the same number."""
    sampler = getattr(data, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    return max(0, int(sampler.total_size) - len(sampler.dataset))  # type: ignore[arg-type]


def sampler_replicas(data: Iterable[Any]) -> int:
    """The number of shards of a DistributedSampler; 1 for other data."""
    sampler = getattr(data, "sampler", None)
    return int(sampler.num_replicas) if isinstance(sampler, DistributedSampler) else 1


def announced_inputs(data: Iterable[Any], unpack: Optional[Unpack], labeled: bool) -> Optional[int]:
    """The number of inputs in the data, or None if it is unknown before they are read."""
    if isinstance(data, (list, tuple)):
        return sum(len(unpack_batch(batch, unpack, labeled=labeled).inputs.student[0]) for batch in data)
    batch_size = getattr(data, "batch_size", None)
    count = length_of(getattr(data, "sampler", None))
    if batch_size is None or count is None:
        return None
    return count // batch_size * batch_size if getattr(data, "drop_last", False) else count


def begin_noise(localizer: Localizer, group: ProcessGroup, announced: Optional[int]) -> bool:
    """Gives imputed pixels the same noise as in one process. Returns False if a rank's number of inputs is unknown."""
    of_ranks = group.gather(announced)
    if group.size > 1 and None in of_ranks:
        localizer.begin_own_stream(group.rank)
        return False
    localizer.begin(sum(of_ranks[: group.rank]))
    return True
