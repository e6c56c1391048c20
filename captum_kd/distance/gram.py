r"""Scores as functions of a Gram matrix of centered distances: the formula of removal and correlation.

A Gram matrix holds the inner products of k geometries. There may be one, or one for each of n inputs that is left out
or added; all functions work on the last two dimensions. With :math:`Q = P_{x|Z}` and :math:`T = P_{y|W}` what is left
of two geometries after others were removed,

.. math:: R = \frac{\langle Q, T\rangle}{\|Q\| \|T\|}, \qquad
          \frac{\partial R}{\partial P_x} = \frac{1}{\|Q\| \|T\|}
          \Bigl( T_{|Z} - \frac{\langle Q, T\rangle}{\langle Q, Q\rangle}\, Q \Bigr).

Both are linear combinations of the k geometries, so no matrix of distances is needed to find them. Centering is an
orthogonal projection: the gradient with respect to the distances is the same matrix.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

# A squared norm that fell to this share of what it was computed from is rounding: it is the difference of two numbers
# that agree to 10 digits.
_REMOVED_SHARE = 1e-10


class Remainder(NamedTuple):
    """What is left of one geometry after others were removed from it.

    Attributes:
        coefficients (Tensor): (..., k), of the k geometries, whose combination it is.
        square (Tensor): (...), its squared norm.
        defined (Tensor): (...), whether that is more than rounding.
        directions (list of tuple): the removed directions, orthogonal to each other: their coefficients (..., k) and the
            reciprocal (...) of their squared norm, 0 where there is no such direction.
    """

    coefficients: Tensor
    square: Tensor
    defined: Tensor
    directions: list[tuple[Tensor, Tensor]]


class Slope(NamedTuple):
    """A correlation and its gradient.

    Attributes:
        values (Tensor): (...), 0 where one side has no geometry.
        coefficients (Tensor): (..., k), so that the gradient with respect to geometry x is their combination of the k
            geometries; 0 where a value is not defined or its gradient is rounding.
        is_left (Tensor): (...), whether anything of x is left after removal.
        has_target (Tensor): (...), whether anything of y is left, also after the removal of what is removed from x.
    """

    values: Tensor
    coefficients: Tensor
    is_left: Tensor
    has_target: Tensor


def partial_correlation(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: Sequence[int] = (), y_given: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    r"""Correlation of two geometries, after the span of others has been removed from each.

    Args:
        gram (Tensor): (..., k, k) inner products.
        noise (Tensor): (k,) or (..., k), squared norms that are rounding.
        x, y (int): indices of the two geometries.
        x_given, y_given (sequence of int): indices of the geometries that are removed from x and from y. One that is
            rounding, or that the earlier ones span, removes nothing.

    Returns:
        tuple: values (...) in [-1, 1], differentiable, and booleans (...), whether each is defined. Not defined, and 0
        with a gradient of 0: a side without geometry, or with at most a share of 1e-10 of its squared norm left.
    """
    # A report's Gram matrices hold many models, of which a score needs few.
    used = sorted({x, y, *x_given, *y_given})
    gram, noise = gram[..., used, :][..., used], noise[..., used]
    left = remainder(gram, noise, used.index(x), [used.index(z) for z in x_given])
    right = remainder(gram, noise, used.index(y), [used.index(z) for z in y_given])
    return _correlation(gram, left, right)


def correlation_slope(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: Sequence[int] = (), y_given: Sequence[int] = ()
) -> Slope:
    """:func:`partial_correlation` and its gradient with respect to geometry x, in closed form.

    The norm of the gradient is a multiple of sqrt(1 - R^2). Where that is rounding, so is the gradient's direction; the
    gradient is 0 there, and where the target is a combination of what is removed from x.
    """
    left, right = remainder(gram, noise, x, x_given), remainder(gram, noise, y, y_given)
    aim = _less(gram, right, left.directions)
    aim_square = _product(gram, aim, aim)
    has_target = right.defined & (aim_square > torch.maximum(noise[..., y], _REMOVED_SHARE * right.square))
    values, defined = _correlation(gram, left, right)
    defined = defined & has_target
    values = torch.where(defined, values, 0.0)
    has_room = defined & (1 - values.square() > _REMOVED_SHARE)
    per_norms = torch.where(has_room, left.square.sqrt() * right.square.sqrt(), torch.inf).reciprocal()
    per_square = torch.where(has_room, left.square, torch.inf).reciprocal()
    coefficients = aim * per_norms[..., None] - left.coefficients * (values * per_square)[..., None]
    return Slope(values, coefficients, left.defined, has_target)


def remainder(gram: Tensor, noise: Tensor, x: int, given: Sequence[int]) -> Remainder:
    """What is left of geometry x after the span of others was removed, by the Gram-Schmidt process."""
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    directions: list[tuple[Tensor, Tensor]] = []
    for z in given:
        direction, square = _without(gram, unit[z], gram[..., z, z], directions)
        present = square > torch.maximum(noise[..., z], _REMOVED_SHARE * gram[..., z, z])
        directions.append((direction, torch.where(present, square, torch.inf).reciprocal()))
    whole = gram[..., x, x]
    coefficients, square = _without(gram, unit[x], whole, directions)
    least = torch.maximum(noise[..., x], _REMOVED_SHARE * whole) if directions else noise[..., x]
    return Remainder(coefficients, square, square > least, directions)


def _without(
    gram: Tensor, coefficients: Tensor, square: Tensor, directions: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Coefficients and squared norm after the removal of directions that are orthogonal to each other."""
    for direction, per_square in directions:
        product = _product(gram, coefficients, direction)
        slope = product * per_square
        coefficients = coefficients - slope[..., None] * direction
        square = square - slope * product
    return coefficients, square


def _less(gram: Tensor, side: Remainder, directions: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return _without(gram, side.coefficients, side.square, directions)[0]


def _product(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Inner product of two combinations of the geometries."""
    return ((gram * right[..., None, :]).sum(-1) * left).sum(-1)


def _correlation(gram: Tensor, left: Remainder, right: Remainder) -> tuple[Tensor, Tensor]:
    defined = left.defined & right.defined
    product = _product(gram, left.coefficients, right.coefficients)
    # Square roots first: the product of the two squares may overflow.
    norms = torch.where(defined, left.square, 1.0).sqrt() * torch.where(defined, right.square, 1.0).sqrt()
    return torch.where(defined, product / norms, 0.0).clamp(-1, 1), defined
