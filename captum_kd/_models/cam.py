"""Weighting of activations by gradients, as in Grad-CAM and its relatives, and the numerical precision that it needs."""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._utils.warnings import warn_user

# Below this, float16 keeps fewer than the 8 bits that bfloat16 always has; its smallest step is 2^-24.
_FEW_BITS_OF_FLOAT16 = 2.0**-16


WEIGHTS = ("mean", "elementwise", "pooled")
"""How gradients become weights: means over positions (Grad-CAM, Selvaraju et al. 2017), the gradient at each position
(HiResCAM, Draelos & Carin 2020), or its means over windows of two positions a side, interpolated back to the grid, as in
AdvGradCAM.py of https://github.com/gadhane/UniCAM."""


def precise(value: Tensor) -> Tensor:
    """The value, converted to float32 if its dtype is a half type, which has too few digits for distances and gradients."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def weighted_activations(
    gradient: Tensor,
    activations: Tensor,
    attr_dim_summation: bool,
    baselines: Optional[Tensor] = None,
    token_mask: Optional[Tensor] = None,
    weights: str = "mean",
) -> Tensor:
    """Activations (N, C, ...) weighted by their gradient, by default by its means over positions, summed over channels.

    Baselines in the shape of the weights are subtracted from the activations first. With a mask (N, T) for activations
    (N, C, T), means are over unmasked positions, and the others get 0. ``weights`` is one of WEIGHTS.
    """
    if weights == "pooled" and token_mask is not None:
        raise ValueError(
            'weights="pooled" averages gradients of neighboring positions, and sentences have positions that do not count; take '
            '"mean" or "elementwise".'
        )
    if weights == "pooled":
        gradient = _locally_averaged(gradient)
    elif weights == "mean" and token_mask is not None:
        gradient = masked_mean(gradient, token_mask)[..., None]
    elif weights == "mean" and gradient.dim() > 2:
        gradient = gradient.mean(tuple(range(2, gradient.dim())), keepdim=True)
    if baselines is None:
        weighted = gradient * activations
    else:
        weighted = (activations - baselines.to(activations).reshape(gradient.shape)).mul_(gradient)
    if token_mask is not None:
        weighted = weighted.masked_fill(~token_mask[:, None], 0)
    return weighted.sum(1, keepdim=True) if attr_dim_summation else weighted


def _locally_averaged(gradient: Tensor) -> Tensor:
    """Means over windows of two positions a side, linearly interpolated back to the grid. A last odd row has no window."""
    grid = gradient.shape[2:]
    if len(grid) == 0:
        return gradient
    pool = (nn.functional.avg_pool1d, nn.functional.avg_pool2d, nn.functional.avg_pool3d)[len(grid) - 1]
    windows = [min(2, side) for side in grid]
    mode = ("linear", "bilinear", "trilinear")[len(grid) - 1]
    return nn.functional.interpolate(pool(gradient, windows, windows), grid, mode=mode, align_corners=False)


def masked_mean(values: Tensor, token_mask: Tensor) -> Tensor:
    """Means (N, C) of values (N, C, T) over the positions where a mask (N, T) is True."""
    kept = values.masked_fill(~token_mask[:, None], 0)
    return kept.sum(2) / token_mask.sum(1, keepdim=True)


def warn_of_lost_digits(largest: Sequence[Tensor], layer: str) -> None:
    """Warns if maps overflow float16, the dtype of their layer, or keep only a few bits in it.

    Args:
        largest (sequence of Tensor): scalars, the largest magnitudes of the maps before they were cast.
        layer (str): description of the layer.

    Warns:
        UserWarning: maps whose largest value is below 1.5e-5 or above the largest of float16.
    """
    if not largest:
        return
    reach = float(torch.stack([single.to(largest[0].device) for single in largest]).amax())
    if 0 < reach < _FEW_BITS_OF_FLOAT16 or reach > torch.finfo(torch.float16).max:
        lost = "are lost" if reach > 1 else "keep only a few of their bits"
        warn_user(
            f"The maps of {layer} reach {reach:.1e}, where values of its type, float16, {lost}. Explain the model in "
            "bfloat16 or float32: model.bfloat16(), or model.float()."
        )
