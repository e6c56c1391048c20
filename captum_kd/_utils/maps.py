"""Checks of the attributions that a metric takes, their interpolation, and correlations of maps."""

from __future__ import annotations

from typing import Any, Optional

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import check_dense, check_untransformed


def image_place(inputs: tuple[Tensor, ...], purpose: str) -> int:
    """The index of the only image (N, C, H, W) among a model's inputs; a ValueError if there are none or several."""
    tensors = {place: value for place, value in enumerate(inputs) if isinstance(value, Tensor)}
    places = [place for place, value in tensors.items() if value.dim() == 4 and value.is_floating_point()]
    if len(places) != 1:
        shapes = ", ".join(str(tuple(value.shape)) for value in tensors.values())
        raise ValueError(
            f"{purpose} exactly one input of images (N, C, H, W), floating point, but {len(places)} of the inputs are; they "
            f"have the shapes {shapes}."
        )
    return places[0]


def as_maps(
    attributions: Any, argument: str, n: Optional[int], size: Optional[tuple[int, int]] = None, *, flat_too: bool = False
) -> Tensor:
    """Validated and detached maps (N, 1, h, w), float32 or float64.

    Args:
        attributions (Any): the result of a Captum layer attribution.
        argument (str): its name, for messages.
        n (int, optional): expected number of maps.
        size (tuple, optional): (H, W) that maps must not exceed.
        flat_too (bool): also accept (N, h, w).
    """
    if isinstance(attributions, (tuple, list)):
        raise TypeError(
            f"{argument} is a {type(attributions).__name__} of {len(attributions)}, with one tensor per layer, per output "
            f"of a layer or per direction of a transfer; choose one, for example {argument}[0]."
        )
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = f"a tensor of {attributions.dtype}" if isinstance(attributions, Tensor) else type(attributions).__name__
        raise TypeError(f"{argument} must be a floating point tensor of shape (N, 1, h, w), got {kind}.")
    check_dense(attributions, argument)
    check_untransformed(attributions, argument)
    if flat_too and attributions.dim() == 3:
        attributions = attributions.unsqueeze(1)
    shape = tuple(attributions.shape)
    if attributions.dim() != 4 or shape[1] != 1 or 0 in shape:
        hint = " Sum over channels first, by .sum(1, keepdim=True)." if attributions.dim() == 4 and shape[1] > 1 else ""
        hint = " Add the dimension of channels, by .unsqueeze(1)." if attributions.dim() == 3 else hint
        expected = "(N, 1, h, w) or (N, h, w)" if flat_too else "(N, 1, h, w)"
        raise ValueError(f"{argument} must have shape {expected}, one map per input, got {shape}.{hint}")
    if n is not None and shape[0] != n:
        raise ValueError(f"{argument} has {shape[0]} maps for {n} inputs; pass the maps of these inputs, one each.")
    if size is not None and (shape[2] > size[0] or shape[3] > size[1]):
        raise ValueError(
            f"{argument} has maps of {shape[2]}x{shape[3]} for {size[0]}x{size[1]} pixels; maps are upsampled, never "
            "reduced: pass the maps of these inputs, at the layer's resolution or the input's."
        )
    maps: Tensor = attributions.detach()
    if not is_finite(maps):
        index = int((~torch.isfinite(maps)).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{argument} has non-finite values (NaN or infinity) in map {index}; all must be finite.")
    return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 1, h, w) maps enlarged bilinearly to (H, W), by Captum's ``LayerAttribution.interpolate``."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    upsampled: Tensor = LayerAttribution.interpolate(maps, tuple(size), interpolate_mode="bilinear")
    return upsampled


def unit_maps(values: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """(N, p) values of maps minus their means, at length 1, in float64 on the CPU; 0 for constant maps.

    The product of two rows is then their correlation, and 0 if one of the maps is constant. Positions where a mask (N, p) is
    False do not count and are 0.
    """
    wide = values.detach().cpu().double()
    if mask is None:
        means = wide.mean(1, keepdim=True)
        centered = wide - means
    else:
        mask = mask.cpu()
        means = torch.where(mask, wide, 0.0).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        centered = torch.where(mask, wide - means, 0.0)
    size = centered.abs().amax(1, keepdim=True)
    has_shape = size > 32 * torch.finfo(wide.dtype).eps * means.abs()
    centered = torch.where(has_shape, centered / torch.where(has_shape, size, 1.0), 0.0)  # no overflow of squares
    return centered / torch.where(has_shape, centered.norm(dim=1, keepdim=True), 1.0)


def correlations(first: Tensor, second: Tensor, mask: Optional[Tensor] = None) -> tuple[Tensor, Optional[float]]:
    """Correlations of :func:`unit_maps` of the same inputs, (N,), and their null: the mean over maps of different inputs.

    The null is what remains of the correlation if the maps are dealt to the wrong inputs: the part that all inputs share, such as
    a common place of the objects. It is None for a single input. With a mask (N, p), two inputs are compared over the positions
    that both have; pairs of inputs with fewer than two of them do not count.
    """
    n = len(first)
    same = (first * second).sum(1).clamp(-1.0, 1.0)
    if n == 1:
        return same, None
    if mask is None:
        return same, float((first.sum(0) @ second.sum(0) - same.sum()) / (n * (n - 1)))
    kept = mask.to(first)
    common = (kept @ kept.T).clamp_min(1)
    of_first, of_second = first @ kept.T, kept @ second.T
    products = first @ second.T - of_first * of_second / common
    squares = (
        first.square() @ kept.T - of_first.square() / common,
        kept @ second.square().T - of_second.square() / common,
    )
    has_shape = (squares[0] > 1e-12) & (squares[1] > 1e-12)
    pairs = torch.where(has_shape, products / torch.where(has_shape, squares[0] * squares[1], 1.0).sqrt(), 0.0)
    counted = (common > 1) & ~torch.eye(n, dtype=torch.bool, device=first.device)
    return same, float(pairs[counted].mean()) if bool(counted.any()) else None
