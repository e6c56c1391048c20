"""How far rounding moves features that are averages of larger activations."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd.distance.centring import noise_level
from captum_kd.features import FeatureTransform, global_average_pool

__all__ = ["rounding_of"]

# Share by which activations grow to measure what a feature is made of.
_GROWTH = 2.0**-8


def rounding_of(
    feature_transform: FeatureTransform, activations: Tensor, features: Tensor, dtype: torch.dtype
) -> Optional[Tensor]:
    r"""Distance by which rounding alone may have moved each input's features, where these are averages.

    A mean over positions is rounded at the size of what it was averaged from, however small the mean itself is: the pooled
    output of an InstanceNorm layer is 0 up to rounding. With s_c the mean absolute value of the activations behind feature c
    and P the number of positions, the distance is

    .. math:: \Bigl(32\,\epsilon + \epsilon_{layer} / \sqrt P\Bigr) \Bigl(\sum_c s_c^2\Bigr)^{1/2},

    where the second term counts for layers in half types only: their single activations are rounded independently. A norm that
    takes a mean away rounds it to about an epsilon times mean over spread of its input; 32 leaves room for that.

    Args:
        feature_transform (callable): one that the user wrote is called a second time: s_c is then how far feature c moves when
            all activations grow by a share of their size.
        activations (Tensor): (N, C, ...), float32 or float64.
        features (Tensor): (N, d), what the transform made of them.
        dtype (torch.dtype): the layer's own.

    Returns:
        Tensor, optional: (N,) without graph; None where there are as many features as activations, so that none is an average.
    """
    activations, features = activations.detach(), features.detach()
    positions = activations.numel() / features.numel()
    if positions <= 1:
        return None
    with torch.no_grad():
        if feature_transform is global_average_pool:
            size = torch.linalg.vector_norm(activations, 1, tuple(range(2, activations.dim()))) / positions
        else:
            moved = feature_transform(torch.add(activations, activations.abs(), alpha=_GROWTH))
            size = (moved.to(features) - features).abs() / _GROWTH
    share = noise_level(activations.dtype)
    if dtype not in (torch.float32, torch.float64):
        share += torch.finfo(dtype).eps / positions**0.5
    largest = size.amax()  # squares of the sizes may leave the dtype
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    rounding: Tensor = torch.linalg.vector_norm(size / unit, dim=1) * unit * share
    return rounding.nan_to_num(0, 0, 0)
