r"""Scores as functions of a Gram matrix of centered distances: the formula of removal and correlation.

A Gram matrix holds the inner products of k geometries. There may be one, or one for each of n inputs that is left out
or added; all functions work on the last two dimensions. With :math:`Q = P_{x|Z}` and :math:`T = P_{y|W}` what is left
of two geometries after others were removed,

.. math:: R = \frac{\langle Q, T\rangle}{\|Q\| \|T\|}, \qquad
          \frac{\partial R}{\partial P_x} = \frac{T_{|Z,x}}{\|Q\| \|T\|}
          = \frac{1}{\|Q\| \|T\|} \Bigl( T_{|Z} - \frac{\langle Q, T\rangle}{\langle Q, Q\rangle}\, Q \Bigr):

the gradient is what is left of the target once x is removed as well. All of these are linear combinations of the k
geometries, so no matrix of distances is needed to find them. Centering is an orthogonal projection: the gradient with
respect to the distances is the same matrix.

Removal is Gaussian elimination on a table with one row for each geometry: its inner products with the k geometries and
its coefficients as their combination.
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
        removal (Tensor): (..., k, k), for any other matrix: its inner products with the geometries times this are the
            coefficients of what has to be added to remove the same others from it.
    """

    coefficients: Tensor
    square: Tensor
    defined: Tensor
    removal: Tensor


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
    product = gram[..., x, y]
    squares = gram[..., x, x], gram[..., y, y]
    defined = (squares[0] > noise[..., x]) & (squares[1] > noise[..., y])
    if x_given or y_given:
        # A report's Gram matrices hold many models, of which a score needs few.
        used = sorted({x, y, *x_given, *y_given})
        gram, noise = gram[..., used, :][..., used], noise[..., used]
        left = remainder(gram, noise, used.index(x), [used.index(z) for z in x_given])
        right = remainder(gram, noise, used.index(y), [used.index(z) for z in y_given])
        product = ((gram @ right.coefficients[..., None])[..., 0] * left.coefficients).sum(-1)
        squares, defined = (left.square, right.square), left.defined & right.defined
    # Square roots first: the product of the two squares may overflow.
    norms = torch.where(defined, squares[0], 1.0).sqrt() * torch.where(defined, squares[1], 1.0).sqrt()
    return torch.where(defined, product / norms, 0.0).clamp(-1, 1), defined


def correlation_slope(
    gram: Tensor, noise: Tensor, x: int, y: int, x_given: Sequence[int] = (), y_given: Sequence[int] = ()
) -> Slope:
    """:func:`partial_correlation` and its gradient with respect to geometry x, in closed form.

    The gradient is 0 where what is left of the target is a multiple of what is left of x (R = 1 is one such case), or
    where nothing is left of it: what the formula gives there is rounding.
    """
    k, least = gram.shape[-1], _least(gram, noise)
    basis = torch.eye(k, dtype=gram.dtype, device=gram.device)
    if y_given:  # what is left of the target takes its place
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


def remainder(gram: Tensor, noise: Tensor, x: int, given: Sequence[int]) -> Remainder:
    """What is left of geometry x after the span of others was removed."""
    k, least = gram.shape[-1], _least(gram, noise)
    # Further rows stand for matrices outside of the k geometries, by their product with one of these.
    others = torch.eye(2 * k, dtype=gram.dtype, device=gram.device).roll(k, 0)
    table = _without(torch.nn.functional.pad(gram, (0, k, 0, k)) + others, least, given)
    row = table[..., x, :]
    return Remainder(row[..., k:], row[..., x], row[..., x] > least[..., 0, x], table[..., k:, k:])


def _least(gram: Tensor, noise: Tensor) -> Tensor:
    """Squared norms up to these, (..., 1, k), are rounding."""
    return torch.maximum(noise, _REMOVED_SHARE * gram.diagonal(dim1=-2, dim2=-1))[..., None, :]


def _without(table: Tensor, least: Tensor, given: Sequence[int]) -> Tensor:
    """Removes geometries from all rows."""
    for z in given:
        row = table[..., z : z + 1, :]
        square = row[..., z : z + 1]
        square = torch.where(square > least[..., z : z + 1], square, torch.inf)
        table = torch.addcmul(table, table[..., z : z + 1] / square, row, value=-1)
    return table
