r"""Scores as functions of a Gram matrix of centered distances: the formula of removal and correlation.

A Gram matrix holds the inner products of k geometries. All functions work on the last two dimensions, so that they take one
matrix or a batch, such as one matrix for each input that is left out. Let :math:`Q = P_{x|Z}` and :math:`T = P_{y|W}` be the
remainders of two geometries after others were removed. Then

.. math:: R = \frac{\langle Q, T\rangle}{\|Q\| \|T\|}, \qquad
          \frac{\partial R}{\partial P_x} = \frac{T_{|Z,x}}{\|Q\| \|T\|}
          = \frac{1}{\|Q\| \|T\|} \Bigl( T_{|Z} - \frac{\langle Q, T\rangle}{\langle Q, Q\rangle}\, Q \Bigr):

the gradient is the remainder of the target after x is removed as well. All of these are linear combinations of the k
geometries, and their coefficients follow from the Gram matrix alone. Centering is an orthogonal projection: the gradient with
respect to the distances is the same matrix.

Removal is Gaussian elimination on a table with one row for each geometry: its inner products with the k geometries and
its coefficients as their combination.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple, Sequence

import torch
from torch import Tensor

# A squared norm below this fraction of the original one counts as rounding: it is the difference of two numbers that agree
# to 10 digits.
_REMOVED_SHARE = 1e-10


class Remainder(NamedTuple):
    """The remainder of one geometry after others were removed from it.

    Attributes:
        coefficients (Tensor): (..., k), the remainder as a linear combination of the k geometries.
        square (Tensor): (...), its squared norm.
        defined (Tensor): (...), True if that norm is more than rounding.
        removal (Tensor): (..., k, k), removes the same geometries from any other matrix: the matrix's inner products with the
            k geometries times ``removal`` are the coefficients of the combination to add to it.
    """

    coefficients: Tensor
    square: Tensor
    defined: Tensor
    removal: Tensor


class Slope(NamedTuple):
    """A correlation and its gradient.

    Attributes:
        values (Tensor): (...), 0 if one side has no geometry.
        coefficients (Tensor): (..., k), the gradient with respect to geometry x as a linear combination of the k
            geometries; 0 if the value is not defined or the gradient is only rounding.
        is_left (Tensor): (...), True if x has a remainder after removal.
        has_target (Tensor): (...), True if y has a remainder after removal, including the geometries removed from x.
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
        noise (Tensor): (k,) or (..., k), the largest squared norms that count as rounding.
        x, y (int): indices of the two geometries.
        x_given, y_given (sequence of int): indices of the geometries that are removed from x and from y. A geometry that is
            only rounding, or that is in the span of earlier ones, removes nothing.

    Returns:
        tuple: values (...) in [-1, 1], differentiable, and booleans (...), True if the value is defined. It is undefined,
        and 0 with gradient 0, if a side has no geometry or keeps at most 1e-10 of its squared norm after removal.
    """
    if not (x_given or y_given):
        product, squares = gram[..., x, y], (gram[..., x, x], gram[..., y, y])
        defined = (squares[0] > noise[..., x]) & (squares[1] > noise[..., y])
    else:
        # A report's Gram matrices hold many models; a score needs only a few of them.
        used = sorted({x, y, *x_given, *y_given})
        gram, noise = gram[..., used, :][..., used], noise[..., used]
        left = remainder(gram, noise, used.index(x), [used.index(z) for z in x_given])
        right = remainder(gram, noise, used.index(y), [used.index(z) for z in y_given])
        product = ((gram @ right.coefficients[..., None])[..., 0] * left.coefficients).sum(-1)
        squares, defined = (left.square, right.square), left.defined & right.defined
    return correlation_of(product, *squares, defined), defined


def correlations_given(gram: Tensor, noise: Tensor, y: int, given: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Correlations of geometry y with all geometries, after the span of some was removed from each of them, but not from y.

    Args:
        gram, noise: as for :func:`partial_correlation`.
        y (int): index of a geometry that is not removed.
        given (sequence of int): indices of the geometries that are removed.

    Returns:
        tuple: values (..., k) in [-1, 1] and booleans (..., k), True if the value is defined. It is undefined, and 0, for the
        removed geometries.
    """
    least = _least(gram, noise)
    left = _without(gram, least, given)
    squares, target = left.diagonal(dim1=-2, dim2=-1), gram[..., y, y, None]
    defined = (squares > least[..., 0, :]) & (target > least[..., 0, y, None])
    return correlation_of(left[..., y], squares, target, defined), defined


def correlation_slope(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: Sequence[int] = (), y_given: Sequence[int] = ()
) -> Slope:
    """:func:`partial_correlation` and its gradient with respect to geometry x, in closed form.

    The gradient is 0 if the target has no remainder, or if its remainder is a multiple of the remainder of x, as for R = 1.
    The formula gives only rounding in these cases.
    """
    k, least = gram.shape[-1], _least(gram, noise)
    basis = torch.eye(k, dtype=gram.dtype, device=gram.device)
    if y_given:  # the target's remainder takes its place
        left = remainder(gram, noise, y, y_given).coefficients
        basis = torch.where(basis[:, y, None] > 0, left[..., None, :], basis)
        gram = basis @ gram @ basis.mT
    table = _without(torch.cat([gram, basis.expand_as(gram)], -1), least, x_given)
    square, product, aim_square = table[..., x, x], table[..., y, x], table[..., y, y]
    is_left, has_target = square > least[..., 0, x], aim_square > least[..., 0, y]
    aim = _without(table, least, [x])[..., y, :]
    has_room = aim[..., y] > _REMOVED_SHARE * aim_square
    norms = torch.where(is_left & has_target, square.sqrt() * gram[..., y, y].sqrt(), torch.inf)
    return Slope((product / norms).clamp(-1, 1), aim[..., k:] * (has_room / norms)[..., None], is_left, has_target)


def gram_of(rows: Sequence[Tensor]) -> Tensor:
    """Gram matrix (k, k) of k long rows, by one dot product per pair; differentiable."""
    pairs = combinations_with_replacement(range(len(rows)), 2)
    products = {pair: torch.dot(*(rows[place] for place in pair)) for pair in pairs}
    places = range(len(rows))
    return torch.stack([products[min(i, j), max(i, j)] for i in places for j in places]).view(len(rows), len(rows))


def remainder(gram: Tensor, noise: Tensor, x: int, given: Sequence[int]) -> Remainder:
    """The remainder of geometry x after the span of others was removed."""
    k, least = gram.shape[-1], _least(gram, noise)
    # Each further row stands for a matrix outside the k geometries whose only nonzero product is with one of them.
    others = torch.eye(2 * k, dtype=gram.dtype, device=gram.device).roll(k, 0)
    table = _without(torch.nn.functional.pad(gram, (0, k, 0, k)) + others, least, given)
    row = table[..., x, :]
    return Remainder(row[..., k:], row[..., x], row[..., x] > least[..., 0, x], table[..., k:, k:])


def correlation_of(product: Tensor, x_square: Tensor, y_square: Tensor, defined: Tensor) -> Tensor:
    """The correlation of two geometries from their inner product and squared norms; 0 where it is undefined."""
    # Square roots first: the product of the two squares may overflow.
    norms = torch.where(defined, x_square, 1.0).sqrt() * torch.where(defined, y_square, 1.0).sqrt()
    return torch.where(defined, product / norms, 0.0).clamp(-1, 1)


def _least(gram: Tensor, noise: Tensor) -> Tensor:
    """The largest squared norms that count as rounding, (..., 1, k)."""
    return torch.maximum(noise, _REMOVED_SHARE * gram.diagonal(dim1=-2, dim2=-1))[..., None, :]


def _without(table: Tensor, least: Tensor, given: Sequence[int]) -> Tensor:
    """Removes geometries from all rows."""
    for z in given:
        row = table[..., z : z + 1, :]
        square = row[..., z : z + 1]
        square = torch.where(square > least[..., z : z + 1], square, torch.inf)
        table = torch.addcmul(table, table[..., z : z + 1] / square, row, value=-1)
    return table
