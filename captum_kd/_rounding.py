"""How far rounding moves features that are averages of larger activations."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd.features import FeatureTransform, flatten, flatten_to_unit_length, global_average_pool
from captum_kd.layers import same_random_state

__all__ = ["moved_features", "rounding_of"]

# By which share of their size rounding may move all activations of a channel alike. A norm that takes a mean away rounds it
# to some epsilons times mean over spread of its input. Measured over inputs, with InstanceNorm2d and GroupNorm: 3 epsilons in
# float32 and 20 in float64 where the mean is 10 times the spread, 36 and 190 where it is 100 times.
_SHARES = {torch.float32: 2.0**-19, torch.float64: 2.0**-42}


def moved_features(feature_transform: FeatureTransform, activations: Tensor) -> Optional[Tensor]:
    """Features of activations that all grew by as much as rounding may move them; None for the package's own transforms.

    A transform that draws random numbers draws the same ones again in the next call.
    """
    if feature_transform in (flatten, flatten_to_unit_length, global_average_pool):
        return None
    activations = activations.detach()
    with torch.no_grad(), same_random_state((activations,)):
        return feature_transform(torch.add(activations, activations.abs(), alpha=_SHARES[activations.dtype]))


def rounding_of(activations: Tensor, features: Tensor, moved: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    r"""The distance by which rounding alone may have moved each input, where its features are averages.

    A mean over positions is rounded at the size of what it was averaged from, however small the mean itself is: the pooled
    output of an InstanceNorm layer is 0 up to rounding. With :math:`s_c` the mean absolute value of the activations behind
    feature c and P the number of positions, the distance is

    .. math:: (2^{-19} + \epsilon_{layer} / \sqrt P) \max_c s_c,

    with :math:`2^{-42}` in float64. The second term is that of layers in half types, whose single activations are rounded
    independently. It is the largest :math:`s_c` that counts, not the sum: where many channels move, most of what they do to
    distances is the same for all pairs of inputs.

    Args:
        activations (Tensor): (N, C, ...), float32 or float64.
        features (Tensor): (N, d), what the transform made of them.
        moved (Tensor, optional): (N, d), of :func:`moved_features`; None where the features are the activations' means.
        dtype (torch.dtype): the layer's own.

    Returns:
        Tensor, optional: (N,) without graph; None where there are as many features as activations, so that none is an average.
    """
    activations, features = activations.detach(), features.detach()
    positions = activations.numel() / features.numel()
    if positions <= 1:
        return None
    share = _SHARES[activations.dtype]
    if moved is None:
        # Multiplied first: sums of what is near the end of the dtype overflow. A 1-norm takes ten times as long.
        shift = activations.abs().mul_(share / positions).sum(tuple(range(2, activations.dim())))
    else:
        shift = (moved.to(features) - features).abs()
    more = 0.0 if dtype in _SHARES else torch.finfo(dtype).eps / positions**0.5
    return (shift.amax(1) * (1 + more / share)).nan_to_num(0, 0, 0)
