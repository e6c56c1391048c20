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


class Combination(NamedTuple):
    """A linear combination of the k geometries.

    Attributes:
        coefficients (Tensor): (..., k).
        products (Tensor): (..., k), its inner products with the k geometries.
        square (Tensor): (...), its squared norm.
    """

    coefficients: Tensor
    products: Tensor
    square: Tensor


class Remainder(NamedTuple):
    """What is left of one geometry after others were removed from it.

    Attributes:
        rest (Combination): what is left.
        defined (Tensor): (...), whether that is more than rounding.
        directions (list of tuple): the removed directions, orthogonal to each other, and the reciprocal (...) of their
            squared norm, 0 where there is no such direction.
    """

    rest: Combination
    defined: Tensor
    directions: list[tuple[Combination, Tensor]]


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
    defined = left.defined & right.defined
    return _correlation(left.rest, right.rest, defined)[0], defined


def correlation_slope(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: Sequence[int] = (), y_given: Sequence[int] = ()
) -> Slope:
    """:func:`partial_correlation` and its gradient with respect to geometry x, in closed form.

    The gradient is 0 where what is left of the target is a multiple of what is left of x (R = 1 is one such case), or
    where nothing is left of it: what the formula gives there is rounding.
    """
    left, right = remainder(gram, noise, x, x_given), remainder(gram, noise, y, y_given)
    aim = _without(right.rest, left.directions)
    has_target = right.defined & (aim.square > torch.maximum(noise[..., y], _REMOVED_SHARE * right.rest.square))
    defined = left.defined & has_target
    values, norms = _correlation(left.rest, right.rest, defined)
    # The squared cosine of what is left of x and of the target.
    has_room = defined & (values.square() * right.rest.square < (1 - _REMOVED_SHARE) * aim.square)
    share = values / torch.where(defined, left.rest.square, 1.0)
    coefficients = aim.coefficients / norms[..., None] - share[..., None] * left.rest.coefficients
    return Slope(values, torch.where(has_room[..., None], coefficients, 0.0), left.defined, has_target)


def remainder(gram: Tensor, noise: Tensor, x: int, given: Sequence[int]) -> Remainder:
    """What is left of geometry x after the span of others was removed, by the Gram-Schmidt process."""
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    directions: list[tuple[Combination, Tensor]] = []
    for z in given:
        whole = Combination(unit[z], gram[..., z, :], gram[..., z, z])
        direction = _without(whole, directions)
        least = torch.maximum(noise[..., z], _REMOVED_SHARE * whole.square) if directions else noise[..., z]
        is_there = direction.square > least
        directions.append((direction, torch.where(is_there, direction.square, torch.inf).reciprocal()))
    whole = Combination(unit[x], gram[..., x, :], gram[..., x, x])
    rest = _without(whole, directions)
    least = torch.maximum(noise[..., x], _REMOVED_SHARE * whole.square) if directions else noise[..., x]
    return Remainder(rest, rest.square > least, directions)


def _without(side: Combination, directions: Sequence[tuple[Combination, Tensor]]) -> Combination:
    """What is left after the removal of directions that are orthogonal to each other."""
    for direction, per_square in directions:
        product = (side.coefficients * direction.products).sum(-1)
        slope = product * per_square
        side = Combination(
            side.coefficients - slope[..., None] * direction.coefficients,
            side.products - slope[..., None] * direction.products,
            side.square - slope * product,
        )
    return side


def _correlation(left: Combination, right: Combination, defined: Tensor) -> tuple[Tensor, Tensor]:
    """The correlation, and the product of the norms; 0 and 1 where it is not defined."""
    product = (left.coefficients * right.products).sum(-1)
    # Square roots first: the product of the two squares may overflow.
    norms = torch.where(defined, left.square, 1.0).sqrt() * torch.where(defined, right.square, 1.0).sqrt()
    return torch.where(defined, product / norms, 0.0).clamp(-1, 1), norms
