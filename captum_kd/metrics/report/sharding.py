"""Sharding of a report's inputs over ranks.

What each process has read becomes one population here, whose inputs are numbered process after process.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterable, Mapping, Optional, Sequence

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from captum_kd._distributed import ProcessGroup
from captum_kd._utils.batches import Unpack, length_of, unpack_batch
from captum_kd.distance.block_sums import LocalTiles, TileIterator
from captum_kd.distance.sharded import Shards, RingTiles
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics._sharding import FeatureSpecs, common_specs, spec_of, shared_distances
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.scores import distance_source
from captum_kd.metrics.report.storage import FeatureStore, Placement

Stores = Mapping[str, Sequence[FeatureStore]]


class Spread:
    """All inputs in one process.

    Attributes:
        walk (TileIterator): iterates over the pairs of inputs.
    """

    walk: TileIterator = LocalTiles()

    def labels(self, own: Sequence[Tensor]) -> Tensor:
        """(n,) of all inputs, from those of this process' batches."""
        return torch.cat(list(own)) if own else torch.empty(0, dtype=torch.long, device="cpu")

    def placement(self, own: Placement, stores: Stores) -> Placement:
        """How all processes keep features and distances."""
        return own

    def keys(self, stores: Stores) -> Sequence[str]:
        """Of all views, also where this process has seen no inputs."""
        return list(stores)

    def source(self, key: str, place: int, stores: Stores, placement: Placement) -> DistanceSource:
        """The distances between all inputs."""
        return distance_source(stores[key][place], held=placement.held)


class _Sharded(Spread):
    """Each process has some of the inputs; maybe none.

    Args:
        processes (ProcessGroup): all of them.
        device (torch.device): where features are scored.
        way_to_one_width (str): what can be done about inputs of several sizes.
    """

    def __init__(self, processes: ProcessGroup, device: torch.device, way_to_one_width: str) -> None:
        self._remedy = f"{way_to_one_width} Load the models in one dtype."
        self._processes = processes
        self._device = device
        self._kinds: FeatureSpecs = {}
        self._shards = Shards([0] * processes.size, processes.rank)

    def labels(self, own: Sequence[Tensor]) -> Tensor:
        shares = self._processes.gather(super().labels(own))
        self._shards = Shards([len(share) for share in shares], self._processes.rank)
        return torch.cat(shares)

    def placement(self, own: Placement, stores: Stores) -> Placement:
        seen = {key: [spec_of(store) for store in of_layers] for key, of_layers in stores.items()}
        everyone: list[tuple[Placement, FeatureSpecs]] = self._processes.gather((own, seen))
        self._kinds = common_specs([kinds for _, kinds in everyone], self._remedy)
        found = [placement for placement, _ in everyone]
        common = Placement(any(each.in_file for each in found), all(each.held for each in found), found[0].block_size)
        widest = max(sum(kind.width for kind in of_layer) for of_layer in zip(*self._kinds.values()))
        self.walk = RingTiles(self._shards, self._processes, 2 * widest, self._file if common.in_file else None)
        return common

    def keys(self, stores: Stores) -> Sequence[str]:
        return list(self._kinds)

    def source(self, key: str, place: int, stores: Stores, placement: Placement) -> DistanceSource:
        own = stores[key][place] if stores else None
        found = shared_distances(own, self._kinds[key][place], self._device, self._shards, self._processes)
        if placement.held:
            assert isinstance(self.walk, RingTiles)
            found.hold(self.walk, placement.block_size)
        return found

    def _file(self, device: torch.device) -> FeatureStore:
        store = FeatureStore(device)
        store.move_to_file()
        return store


def as_input_sharding(processes: ProcessGroup, device: torch.device, way_to_one_width: str) -> Spread:
    """One process that has nobody to speak to takes the shorter way."""
    return Spread() if type(processes) is ProcessGroup else _Sharded(processes, device, way_to_one_width)


def all_reduce_counts(processes: ProcessGroup, counts: Mapping[int, int]) -> dict[int, int]:
    """Inputs of each class over all processes."""
    total: Counter[int] = Counter()
    for each in processes.gather(dict(counts)):
        total.update(each)
    return dict(total)


def repeated_by_sampler(data: Iterable[Any]) -> int:
    """Inputs that a DistributedSampler gives a second time, so that all processes get as many."""
    sampler = getattr(data, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    return max(0, int(sampler.total_size) - len(sampler.dataset))  # type: ignore[arg-type]


def sampler_replicas(data: Iterable[Any]) -> int:
    """How many shares a DistributedSampler makes of its data set."""
    sampler = getattr(data, "sampler", None)
    return int(sampler.num_replicas) if isinstance(sampler, DistributedSampler) else 1


def announced_inputs(data: Iterable[Any], unpack: Optional[Unpack]) -> Optional[int]:
    """How many inputs are to come, before any is read; None where nobody can say so."""
    if isinstance(data, (list, tuple)):
        return sum(len(unpack_batch(batch, unpack).labels) for batch in data)
    batch_size = getattr(data, "batch_size", None)
    count = length_of(getattr(data, "sampler", None))
    if batch_size is None or count is None:
        return None
    return count // batch_size * batch_size if getattr(data, "drop_last", False) else count


def begin_noise(localizer: Localizer, processes: ProcessGroup, announced: Optional[int]) -> bool:
    """Lets imputed pixels have the noise that they would have in one process; whether that is possible."""
    everyone = processes.gather(announced)
    before = everyone[: processes.rank]
    if any(count is None for count in everyone) and processes.size > 1:
        localizer.begin_apart(processes.rank)
        return False
    localizer.begin(sum(before))
    return True
