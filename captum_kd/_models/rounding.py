"""The rounding error of features that are averages of larger activations."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform, flatten, flatten_to_unit_length, global_average_pool
from captum_kd._models.hooks import same_random_state
from captum_kd.distance.sources import widest

__all__ = ["moved_features", "rounding_of"]

# By which share of their size rounding may move all activations of a channel alike. A norm that takes a mean away rounds it to
# some epsilons times mean over spread of its input. Measured with InstanceNorm2d and GroupNorm, where the mean is 10 times the
# spread: 4 epsilons in float32, 28 in float64. In half types norms may keep the mean itself in half precision.
_SHARES = {torch.float32: 2.0**-19, torch.float64: 2.0**-42, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def moved_features(feature_transform: FeatureTransform, activations: Tensor, dtype: torch.dtype) -> Optional[Tensor]:
    """Features of activations that all grew by as much as rounding may move them; None for the package's own transforms.

    A transform that draws random numbers draws the same ones again in the next call.
    """
    if feature_transform in (flatten, flatten_to_unit_length, global_average_pool):
        return None
    activations = activations.detach()
    with torch.no_grad(), same_random_state((activations,)):
        return feature_transform(torch.add(activations, activations.abs(), alpha=_share(activations, dtype)))


def rounding_of(activations: Tensor, features: Tensor, moved: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    r"""The distance by which rounding alone may have moved each input, where its features are averages.

    A mean over positions is rounded at the size of what it was averaged from, however small the mean itself is: the pooled
    output of an InstanceNorm layer is 0 up to rounding. With :math:`s_c` the mean absolute value of the activations behind
    feature c the distance is :math:`2^{-19} (\sum_c s_c^2)^{1/2}` in float32, with other shares in other types.

    Args:
        activations (Tensor): (N, C, ...), float32 or float64.
        features (Tensor): (N, d), what the transform made of them.
        moved (Tensor, optional): (N, d), of :func:`moved_features`; None where the features are the activations' means.
        dtype (torch.dtype): the layer's own.

    Returns:
        Tensor, optional: (N,) without graph, in float64 where the device has it; None where there are as many features as
        activations, so that none is an average.
    """
    activations, features = activations.detach(), features.detach()
    positions = activations.numel() / features.numel()
    if positions <= 1:
        return None
    wide = widest(activations.device)
    if moved is None:
        # Divided first: sums of what is near the end of the dtype overflow. A 1-norm takes ten times as long.
        size = activations.abs().div_(positions).sum(tuple(range(2, activations.dim())))
        shift = size.to(wide) * _share(activations, dtype)
    else:
        shift = moved.to(features.device, wide) - features.to(wide)
    rounding: Tensor = torch.linalg.vector_norm(shift, dim=1).nan_to_num(0, 0, 0)
    return rounding


def _share(activations: Tensor, dtype: torch.dtype) -> float:
    return max(_SHARES[activations.dtype], _SHARES.get(dtype, 0.0))
