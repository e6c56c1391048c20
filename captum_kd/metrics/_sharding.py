"""Features that are sharded over ranks; some ranks may have none."""

from __future__ import annotations

from itertools import zip_longest
from typing import Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.sharded import Shards, ShardedDistances, ShardedFeatures
from captum_kd.distance.sources import Features, TensorFeatures

__all__ = ["FeatureSpec", "FeatureSpecs", "common_specs", "spec_of", "shared_distances"]


class FeatureSpec(NamedTuple):
    """What a set of features is like, however many inputs it has."""

    width: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.width} features of {self.dtype}"


FeatureSpecs = Mapping[str, Sequence[FeatureSpec]]
"""Of sets of features by name, of each layer one."""


def spec_of(features: Union[Tensor, Features]) -> FeatureSpec:
    return FeatureSpec(features.shape[1], features.dtype)


def common_specs(everyone: Sequence[FeatureSpecs], remedy: str) -> FeatureSpecs:
    """The kinds that all processes have, but for those that have seen no inputs.

    Args:
        everyone (sequence): every process' kinds, empty where it has seen no inputs; of one at least not.
        remedy (str): what the caller's user can do about different ones, for the error.

    Raises:
        ValueError: other features in one process than in another.
    """
    known = [(rank, kinds) for rank, kinds in enumerate(everyone) if kinds]
    first_rank, first = known[0]
    for rank, other in known[1:]:
        for name in {**first, **other}:
            for one, two in zip_longest(first.get(name, ()), other.get(name, ())):
                if one != two:
                    raise ValueError(
                        f"{name} gives {one or 'nothing'} in process {first_rank} and {two or 'nothing'} in process {rank}: the "
                        f"inputs differ in size, or the models in precision. {remedy}"
                    )
    return first


def shared_distances(
    own: Optional[Features], kind: FeatureSpec, device: torch.device, shards: Shards, processes: ProcessGroup
) -> ShardedDistances:
    """Distances between all inputs, from each process' own features, None where it has seen no inputs."""
    if own is None:
        own = TensorFeatures(torch.empty((0, kind.width), dtype=kind.dtype, device=device))
    shared = ShardedFeatures(own, shards, processes)
    return ShardedDistances(shared)
