"""Inputs that are sharded over ranks, in the ranks' order. A rank may have none."""

from __future__ import annotations

from itertools import zip_longest
from typing import Callable, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.block_sums import LocalTiles, TileIterator
from captum_kd.distance.sharded import RemoteBuffer, RingTiles, ShardedDistances, ShardedFeatures, Shards
from captum_kd.distance.sources import FeatureDistances, Features, TensorFeatures


class FeatureSpec(NamedTuple):
    """Width and dtype of a set of features."""

    width: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.width} features of {self.dtype}"


FeatureSpecs = Mapping[str, Sequence[FeatureSpec]]
"""The specs of each layer, by the name of the set of features."""


class InputSharding:
    """The inputs of all ranks as one population. All ranks must call the methods in the order of their definitions.

    Args:
        group (ProcessGroup): the group of all ranks.
        device (torch.device): device on which features are scored.
        advice (str): advice at the end of the error about features that differ between ranks.

    Attributes:
        specs (mapping): the specs of all sets of features, also in a rank without inputs; empty if no rank has inputs.
    """

    def __init__(self, group: ProcessGroup, device: torch.device, advice: str) -> None:
        self.specs: FeatureSpecs = {}
        self._group = group
        self._device = device
        self._advice = advice
        self._shards = Shards([0], 0)

    def gather_labels(self, own: Tensor) -> Tensor:
        """The labels (n,) of all ranks' inputs, from this rank's own labels."""
        of_ranks = self._group.gather(own)
        self._shards = Shards([len(labels) for labels in of_ranks], self._group.rank)
        return torch.cat(of_ranks)

    def gather_size(self, own: int) -> int:
        """The number of inputs of all ranks, from this rank's own number; for inputs without labels."""
        of_ranks = self._group.gather(own)
        self._shards = Shards(of_ranks, self._group.rank)
        return sum(of_ranks)

    def gather_specs(self, features: Mapping[str, Sequence[Features]]) -> None:
        """Sets ``specs`` from this rank's features of each layer, by name; an empty mapping without inputs.

        Raises:
            ValueError: the widths or dtypes of two ranks differ. It is raised in all ranks.
        """
        own = {name: [FeatureSpec(each.shape[1], each.dtype) for each in layers] for name, layers in features.items()}
        self.specs = _common_specs(self._group.gather(own), self._advice)

    def tile_iterator(
        self, width: int, make_buffer: Optional[Callable[[torch.device], RemoteBuffer]] = None
    ) -> TileIterator:
        """Iterates over the pairs of inputs. The arguments are those of :class:`RingTiles`."""
        return RingTiles(self._shards, self._group, width, make_buffer) if self._group.is_distributed else LocalTiles()

    def distances(
        self, name: str, layer: int, own: Optional[Features], dtype: Optional[torch.dtype] = None
    ) -> FeatureDistances:
        """The distances between all inputs, from this rank's features (None without inputs); ``dtype`` as for the distances."""
        spec = self.specs[name][layer]
        if own is None:
            own = TensorFeatures(torch.empty((0, spec.width), dtype=spec.dtype, device=self._device))
        if not self._group.is_distributed:
            return FeatureDistances(own, dtype=dtype)
        return ShardedDistances(ShardedFeatures(own, self._shards, self._group), dtype)


def _common_specs(of_ranks: Sequence[FeatureSpecs], advice: str) -> FeatureSpecs:
    """The specs of all ranks that have inputs."""
    known = [(rank, specs) for rank, specs in enumerate(of_ranks) if specs]
    first_rank, first = known[0] if known else (0, {})
    for rank, specs in known[1:]:
        for name in {**first, **specs}:
            for one, other in zip_longest(first.get(name, ()), specs.get(name, ())):
                if one != other:
                    raise ValueError(
                        f"{name} gives {one or 'nothing'} in rank {first_rank} and {other or 'nothing'} in rank {rank}: the "
                        f"inputs differ in size, or the models in dtype. {advice}"
                    )
    return first
