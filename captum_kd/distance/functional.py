"""Distance correlation and partial distance correlation of features."""

from __future__ import annotations

import math
from typing import Literal, Optional

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd._utils.validation import check_choice, check_dense
from captum_kd.distance.blockwise import block_correlation, check_block_size, chosen_block
from captum_kd.distance.centering import MIN_INPUTS, Estimator, check_estimator, correlation, geometry, remove
from captum_kd.distance.pairwise import has_float64

__all__ = ["as_real", "distance_correlation", "partial_distance_correlation"]


def distance_correlation(
    x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased", block_size: Optional[int] = None
) -> Tensor:
    r"""Squared distance correlation of two sets of features of the same inputs.

    Args:
        x (Tensor): (n, ...) features, n >= 4; trailing dimensions are flattened.
        y (Tensor): (n, ...) features of the same inputs, of any other width.
        estimator (str): "unbiased" (bias-corrected, in [-1, 1], about 0 for independent
            features) or "biased" (in [0, 1], tends to 1 for few inputs and wide features).
            Both are the squared quantity; the literature's dCor is the biased one's square root.
        block_size (int, optional): distances are computed in blocks of this many inputs a side, and no (n, n) matrix
            is held. The value is the same to rounding; a gradient computes every block again.
            Default: None, whole matrices up to 4,096 inputs, blocks of 512 (4,096 on a GPU) beyond

    Returns:
        Tensor: scalar, differentiable once in both arguments. Half types are computed in float32,
        integers of 32 bits and more in float64.

    Raises:
        ValueError: fewer than 4 inputs, different numbers of inputs, non-finite features,
            different devices, an unknown estimator, or a block size below 1.
        TypeError: an argument is no real tensor.

    Source: Szekely, Rizzo & Bakirov 2007 (biased); Szekely & Rizzo 2014 (unbiased).

    Example::

        >>> x = torch.randn(100, 64)
        >>> distance_correlation(x, 3 * x + 1)  # same geometry up to scale
        tensor(1.)
    """
    check_estimator(estimator)
    check_block_size(block_size)
    (x, y), largest = _as_features(x=x, y=y)
    block = chosen_block(x, block_size)
    if block is not None:
        return block_correlation([x, y], estimator, block)
    return correlation(geometry(x, estimator, largest[0]), geometry(y, estimator, largest[1]))


def partial_distance_correlation(
    x: Tensor,
    y: Tensor,
    given: Tensor,
    *,
    remove_from: Literal["x", "both"] = "x",
    block_size: Optional[int] = None,
) -> Tensor:
    r"""Unbiased distance correlation of ``x`` and ``y`` after ``given`` has been removed.

    Args:
        x (Tensor): (n, ...) features, n >= 4.
        y (Tensor): (n, ...) features of the same inputs.
        given (Tensor): (n, ...) features whose geometry is removed.
        remove_from (str): "x" removes it from ``x`` alone, a semi-partial correlation, as
            UniCAM's relevance of distilled features does; "both" removes it from ``x`` and
            ``y``, the partial distance correlation of Szekely & Rizzo 2014.
        block_size (int, optional): as for :func:`distance_correlation`. In blocks, what is left after removal
            counts as nothing below a share of 1e-10 of the squared norm.

    Returns:
        Tensor: scalar in [-1, 1], differentiable once. 0 with a warning where nothing is left.

    Raises:
        ValueError, TypeError: as :func:`distance_correlation`.

    Example::

        >>> student, base = torch.randn(100, 64), torch.randn(100, 32)
        >>> partial_distance_correlation(student, student, given=base)  # nearly 1: little to remove
    """
    check_choice(remove_from, "remove_from", ("x", "both"))
    check_block_size(block_size)
    (x, y, given), largest = _as_features(x=x, y=y, given=given)
    block = chosen_block(x, block_size)
    if block is not None:
        return block_correlation([x, y, given], "unbiased", block, given=2, from_both=remove_from == "both")
    own, right, removed = (geometry(each, largest=size) for each, size in zip((x, y, given), largest))
    left = remove(own, removed)
    return correlation(left, remove(right, removed) if remove_from == "both" else right)


def _as_features(**features: Tensor) -> tuple[list[Tensor], list[float]]:
    """Checks named (n, ...) tensors against each other; gives (n, d) ones of one real dtype and their largest values."""
    for name, value in features.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor of shape (n, ...), got {type(value).__name__}.")
        check_dense(value, name)
        if value.is_complex():
            raise TypeError(f"{name} must be real, got dtype {value.dtype}; pass torch.view_as_real({name}).")
        if value.dim() == 0 or value.shape[0] < MIN_INPUTS:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; distance correlation needs at least "
                f"{MIN_INPUTS} inputs along the first dimension."
            )
        if value.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: its inputs have no features, but must have some.")
    first_name, first = next(iter(features.items()))
    for name, value in features.items():
        if value.shape[0] != first.shape[0]:
            raise ValueError(
                f"{first_name} has {first.shape[0]} inputs but {name} has {value.shape[0]}; "
                "both must describe the same inputs in the same order."
            )
        if value.device != first.device:
            raise ValueError(f"{first_name} is on {first.device} but {name} is on {value.device}; both must be on one.")
    prepared = {name: as_real(value) for name, value in features.items()}
    prepared = {
        name: value if value.dim() == 2 else value.reshape(value.shape[0], -1) for name, value in prepared.items()
    }
    largest = [largest_of(value) for value in prepared.values()]
    for name, size in zip(prepared, largest):
        if not math.isfinite(size):
            raise ValueError(f"{name} has non-finite values (NaN or infinity); all must be finite.")
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in prepared.values()) else torch.float32
    return [value if value.dtype == dtype else value.to(dtype) for value in prepared.values()], largest


def as_real(value: Tensor) -> Tensor:
    """In float32 or float64, whichever holds the values of a real tensor's dtype exactly (float64 those of int64 up to 2^53)."""
    if value.dtype in (torch.float32, torch.float64):
        return value
    # float32 holds half types and small integers exactly, not those of 32 bits and more.
    wide = not value.is_floating_point() and value.element_size() > 2 and has_float64(value.device)
    return value.double() if wide else value.float()
