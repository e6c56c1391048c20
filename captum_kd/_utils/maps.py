"""Checks of the attributions that a metric takes, their interpolation, and correlations of maps."""

from __future__ import annotations

from typing import Any, Iterable, Optional

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_kd._utils.inputs import ModelInputs, find_ids
from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import check_dense, check_untransformed


def mapped_place(inputs: ModelInputs, purpose: str) -> int:
    """The index of the input that maps describe: the only images (N, C, H, W), or else the ids (N, T) of tokens.

    Raises:
        ValueError: neither, or several images; an error begins with ``purpose``.
    """
    tensors = {place: value for place, value in enumerate(inputs) if isinstance(value, Tensor)}
    places = [place for place, value in tensors.items() if value.dim() == 4 and value.is_floating_point()]
    if not places and inputs.is_text:
        return ids_place(inputs, purpose)
    if len(places) != 1:
        raise ValueError(
            f"{purpose} exactly one input of images (N, C, H, W), floating point, but {len(places)} of the inputs are; they "
            f"have the shapes {_shapes(tensors.values())}. Text needs ids (N, T) of tokens, integers."
        )
    return places[0]


def ids_place(inputs: ModelInputs, purpose: str) -> int:
    """The index of the ids (N, T) of tokens, as :func:`find_ids` returns it.

    Raises:
        ValueError: no ids; an error begins with ``purpose``.
    """
    place = find_ids(inputs)
    if place is None:
        shapes = _shapes(value for value in inputs if isinstance(value, Tensor))
        raise ValueError(
            f"{purpose} ids (N, T) of tokens, integers, but the inputs have the shapes {shapes}. Single tokens of embeddings "
            "(inputs_embeds) cannot be replaced: pass input_ids."
        )
    return place


def _shapes(values: Iterable[Tensor]) -> str:
    return ", ".join(str(tuple(value.shape)) for value in values)


def maps_of(attributions: Any, argument: str, of: Tensor) -> Tensor:
    """Validated maps of images (N, C, H, W) or of ids (N, T), on their device, as :func:`as_maps` gives them."""
    return as_maps(attributions, argument, len(of), tuple(of.shape[1:] if of.dim() == 2 else of.shape[2:])).to(of.device)


def as_maps(
    attributions: Any,
    argument: str,
    n: Optional[int],
    size: Optional[tuple[int, ...]] = None,
    *,
    is_text: bool = False,
    flat_too: bool = False,
) -> Tensor:
    """Validated and detached maps (N, 1, h, w), or (N, 1, T) of tokens, float32 or float64.

    Args:
        attributions (Any): the result of a Captum layer attribution.
        argument (str): its name, for messages.
        n (int, optional): expected number of maps.
        size (tuple, optional): (H, W) that maps must not exceed, or (T,), the number of tokens.
        is_text (bool): expect maps of tokens if there is no size.
        flat_too (bool): also accept maps without the axis of one channel.
    """
    is_text = is_text if size is None else len(size) == 1
    axes = "T" if is_text else "h, w"
    if isinstance(attributions, (tuple, list)):
        raise TypeError(
            f"{argument} is a {type(attributions).__name__} of {len(attributions)}, with one tensor per layer, per output "
            f"of a layer or per direction of a transfer; choose one, for example {argument}[0]."
        )
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = f"a tensor of {attributions.dtype}" if isinstance(attributions, Tensor) else type(attributions).__name__
        raise TypeError(f"{argument} must be a floating point tensor of shape (N, 1, {axes}), got {kind}.")
    check_dense(attributions, argument)
    check_untransformed(attributions, argument)
    dims = 3 if is_text else 4
    if flat_too and attributions.dim() == dims - 1:
        attributions = attributions.unsqueeze(1)
    shape = tuple(attributions.shape)
    if attributions.dim() != dims or shape[1] != 1 or 0 in shape:
        hint = " Sum over channels first, by .sum(1, keepdim=True)." if len(shape) == dims and shape[1] > 1 else ""
        hint = " Add the dimension of channels, by .unsqueeze(1)." if len(shape) == dims - 1 else hint
        if is_text and len(shape) == 4:
            hint = " These are maps of images, but the inputs are tokens."
        elif not is_text and len(shape) == 3 and shape[1] == 1:
            hint = " These are maps of tokens, but the inputs are images."
        expected = f"(N, 1, {axes}) or (N, {axes})" if flat_too else f"(N, 1, {axes})"
        raise ValueError(f"{argument} must have shape {expected}, one map per input, got {shape}.{hint}")
    if n is not None and shape[0] != n:
        raise ValueError(f"{argument} has {shape[0]} maps for {n} inputs; pass the maps of these inputs, one each.")
    if size is not None and is_text and shape[2:] != size:
        raise ValueError(
            f"{argument} has maps of {shape[2]} tokens for {size[0]} ids; pass maps of these inputs, from a layer with one "
            "position for each id. To leave out tokens such as [CLS], pass the tokenizer's special_tokens_mask in the inputs "
            "instead of prefix_tokens."
        )
    if size is not None and not is_text and (shape[2] > size[0] or shape[3] > size[1]):
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
    return unit_length(torch.where(has_shape, centered, 0.0))


def unit_length(values: Tensor) -> Tensor:
    """Rows (N, p) at length 1; rows of zeros as they are."""
    size = values.abs().amax(1, keepdim=True)
    is_zero = size == 0
    scaled = values / torch.where(is_zero, 1.0, size)  # no overflow of squares
    return scaled / torch.where(is_zero, 1.0, scaled.norm(dim=1, keepdim=True))


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
