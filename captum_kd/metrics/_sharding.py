"""Features that are sharded over ranks. A rank without inputs has none."""

from __future__ import annotations

from itertools import zip_longest
from typing import Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.sharded import ShardedDistances, ShardedFeatures, Shards
from captum_kd.distance.sources import Features, TensorFeatures, is_to_be_widened


class FeatureSpec(NamedTuple):
    """Width and dtype of a set of features."""

    width: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.width} features of {self.dtype}"


FeatureSpecs = Mapping[str, Sequence[FeatureSpec]]
"""For each layer of each named set of features."""


def spec_of(features: Union[Tensor, Features]) -> FeatureSpec:
    return FeatureSpec(features.shape[1], features.dtype)


def common_specs(of_ranks: Sequence[FeatureSpecs], advice: str) -> FeatureSpecs:
    """The specs of all ranks, without those that have no inputs.

    Args:
        of_ranks (sequence): specs of each rank; empty for a rank without inputs, but not for all.
        advice (str): the end of the error message.

    Raises:
        ValueError: the features of two ranks differ.
    """
    known = [(rank, specs) for rank, specs in enumerate(of_ranks) if specs]
    first_rank, first = known[0]
    for rank, specs in known[1:]:
        for name in {**first, **specs}:
            for one, other in zip_longest(first.get(name, ()), specs.get(name, ())):
                if one != other:
                    raise ValueError(
                        f"{name} gives {one or 'nothing'} in rank {first_rank} and {other or 'nothing'} in rank {rank}: the "
                        f"inputs differ in size, or the models in precision. {advice}"
                    )
    return first


def sharded_distances(
    own: Optional[Features], spec: FeatureSpec, device: torch.device, shards: Shards, group: ProcessGroup
) -> ShardedDistances:
    """Distances between all inputs, from the features of each rank; None for a rank without inputs."""
    if own is None:
        own = TensorFeatures(torch.empty((0, spec.width), dtype=spec.dtype, device=device))
    features = ShardedFeatures(own, shards, group)
    return ShardedDistances(features, is_to_be_widened(features))
