"""Scores as functions of a Gram matrix of centered distances.

A Gram matrix holds the inner products of k geometries, one of them or one for each of n inputs left out; all functions
work on the last two dimensions and are differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gram_correlation"]

# A squared norm that fell to this share of what it was computed from is rounding: the difference of two numbers that
# agree to 10 digits (a geometry removed, whose slope is itself rounded).
_REMOVED_SHARE = 1e-10


def gram_correlation(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: int | None = None, y_given: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""Correlation of two geometries, after others have been removed from them.

    .. math:: R(P_{x|z}, P_{y|w}) = \frac{\langle P_{x|z}, P_{y|w}\rangle}{\|P_{x|z}\|\,\|P_{y|w}\|}

    Args:
        gram (Tensor): (..., k, k) inner products.
        noise (Tensor): (k,), squared norms that are rounding and nothing else.
        x, y (int): places of the geometries.
        x_given, y_given (int, optional): places of what is removed from x and from y.

    Returns:
        tuple: values (...) in [-1, 1] and booleans (...), whether each is defined. Not defined, and 0 with a gradient
        of 0: one side has no geometry, or not more than a share of 1e-10 of it is left after removal.
    """
    z, w = (x if x_given is None else x_given), (y if y_given is None else y_given)
    slope_x, slope_y = _slope(gram, noise, x, z), _slope(gram, noise, y, w)
    # <x - a z, y - b w>; without removal the slope is 0 and the place does not matter.
    product = gram[..., x, y] - slope_x * gram[..., z, y]
    product = product - slope_y * (gram[..., x, w] - slope_x * gram[..., z, w])
    square_x, defined_x = _squared_norm(gram, noise, x, z, slope_x)
    square_y, defined_y = _squared_norm(gram, noise, y, w, slope_y)
    defined = defined_x & defined_y
    norms = torch.where(defined, square_x, 1.0).sqrt() * torch.where(defined, square_y, 1.0).sqrt()
    return torch.where(defined, product / norms, 0.0).clamp(-1, 1), defined


def _slope(gram: Tensor, noise: Tensor, of: int, given: int) -> Tensor:
    """Coefficient of what is removed; 0 where nothing is, or where it has no geometry."""
    square = gram[..., given, given]
    if of == given:
        return torch.zeros_like(square)
    present = square > noise[given]
    return torch.where(present, gram[..., of, given] / torch.where(present, square, 1.0), 0.0)


def _squared_norm(gram: Tensor, noise: Tensor, of: int, given: int, slope: Tensor) -> tuple[Tensor, Tensor]:
    whole = gram[..., of, of]
    if of == given:
        return whole, whole > noise[of]
    square = whole - slope * gram[..., of, given]
    return square, square > torch.maximum(noise[of], _REMOVED_SHARE * whole)
