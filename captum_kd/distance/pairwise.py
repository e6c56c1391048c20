"""Euclidean distances by matrix products, between the rows of whole tensors or of tiles.

Features may be wider than memory: :func:`block_distances` reads them in chunks of columns. Each chunk is read once, or twice
if some pairs are so close that they must be subtracted directly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Callable, Iterable, NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import is_finite, largest_of
from captum_kd._utils.validation import check_dense, check_untransformed, short_repr
from captum_kd.distance.precision import distance_dtype, full_precision, has_float64

__all__ = [
    "CHUNK",
    "Chunks",
    "RowDistances",
    "block_distances",
    "distances_to_center",
    "euclidean_distances",
    "is_async_device",
    "power_of_two",
    "fast_distances",
    "rows_to_center",
    "safe_size",
    "unchecked_distances",
]

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Yields the columns of two sets of rows in chunks: (n, c) and (m, c) tensors."""

CHUNK = 16_384
"""Columns that one matrix product sums over; longer sums accumulate too much rounding."""

# Entries of |x|^2 + |y|^2 - 2xy below this fraction of |x|^2 + |y|^2 have lost too many digits: the distance's error relative
# to the features' size is eps / (2 sqrt(fraction)).
_CLOSE = {torch.float32: 1e-2, torch.float64: 1e-3}
# Rows of a block of a symmetric matrix product.
_ROWS = 128
# Numbers held at once while single pairs are subtracted: 3 MB of float64, which fit into the cache.
_PAIR_BLOCK = 400_000


def euclidean_distances(x: Tensor) -> Tensor:
    r"""Euclidean distances between the rows of ``x``.

    One matrix product of centered data gives the distances, so features far from the origin lose no digits. Pairs that are
    too close for the product are subtracted directly. Equal rows have distance exactly 0, with gradient 0.

    Args:
        x (Tensor): (n, d), float32 or float64, n and d at least 1.

    Returns:
        Tensor: (n, n) of ``x``'s dtype and device, zero on the diagonal. Once differentiable.

    Raises:
        TypeError: ``x`` is not a dense tensor of float32 or float64.
        ValueError: a wrong shape, non-finite values, or distances that ``x``'s dtype cannot hold.

    Example::

        >>> euclidean_distances(torch.tensor([[0., 0.], [3., 4.]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of shape (n, d), got {short_repr(x)}.")
    check_dense(x, "x")
    check_untransformed(x, "x")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, got {short_repr(x)}.")
    if x.dim() != 2 or x.numel() == 0:
        raise ValueError(f"x must have shape (n, d) with n and d at least 1, got shape {tuple(x.shape)}.")
    size = safe_size(x)
    if size == 1:
        return unchecked_distances(x)
    distances = unchecked_distances(x / size) * size
    if size > 1 and not is_finite(distances):
        raise ValueError(f"The distances of x are too large for {x.dtype}; pass x.double(), or scale x down.")
    return distances


def distances_to_center(x: Tensor, largest: Optional[float] = None) -> Tensor:
    """Distances up to scale, precise enough for centering.

    Args:
        x (Tensor): (n, d), float32 or float64.
        largest (float, optional): its largest absolute value, if known.

    Returns:
        Tensor: (n, n) of the dtype that :func:`~captum_kd.distance.precision.distance_dtype` chooses. Features whose squares
        would overflow or vanish are scaled first, since scores do not depend on the scale.
    """
    return unchecked_distances(rows_to_center(x, power_of_two(largest_of(x) if largest is None else largest)))


def rows_to_center(x: Tensor, unit: float) -> Tensor:
    """Features (n, d) divided by ``unit``, in the dtype of their distances."""
    scaled = x if unit == 1 else x / unit
    return scaled.to(distance_dtype(x.dtype, x.shape[0], x.device))


def unchecked_distances(x: Tensor, y: Optional[Tensor] = None, *, all_far: bool = False) -> Tensor:
    """Distances (n, m) between the rows of ``x`` and of ``y``, or (n, n) between those of ``x``; once differentiable.

    The features must be finite, and their squares must neither overflow nor vanish. With ``all_far``, no pair is subtracted
    directly.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or (y is not None and y.requires_grad))):
        distances = RowDistances.of(x, y, fast=all_far).distances
        return distances if distances.dtype == x.dtype else distances.to(x.dtype)
    differentiable: Tensor = _Distances.apply(x, y, all_far)
    return differentiable


class RowDistances(NamedTuple):
    """Distances between rows, and the tensors that their gradient needs.

    Attributes:
        xs (Tensor): (n, d) shifted rows.
        ys (Tensor): (m, d) the other rows, with the same shift; the same tensor if there is one set of rows.
        distances (Tensor): (n, m), of the rows' dtype or float64.
        close (Tensor): (2, k) indices of the pairs that were subtracted directly.
        needs_recheck (Tensor, optional): True if some pair should have been subtracted directly but was not; a device
            boolean, not synchronized.
    """

    xs: Tensor
    ys: Tensor
    distances: Tensor
    close: Tensor
    needs_recheck: Optional[Tensor] = None

    @classmethod
    def of(cls, x: Tensor, y: Optional[Tensor] = None, *, fast: bool = False) -> "RowDistances":
        """Computes the distances of :func:`unchecked_distances`.

        Args:
            x (Tensor): (n, d), float32 or float64.
            y (Tensor, optional): (m, d).
            fast (bool): subtract no pair directly, do not synchronize the device, and set ``needs_recheck``.
        """
        shift = (x if y is None else y).mean(0)
        xs = x - shift
        ys = xs if y is None else y - shift
        single = xs.shape[1] <= CHUNK

        def chunks() -> Iterable[tuple[Tensor, Tensor]]:
            return ((xs, ys),) if single else zip(xs.split(CHUNK, 1), ys.split(CHUNK, 1))

        with changed_state(full_precision(xs.device)), interruptible():
            if fast:
                distances, needs_recheck = fast_distances(chunks, symmetric=y is None, single=single)
                return cls(xs, ys, distances, _no_pairs(xs.device), needs_recheck)
            return cls(xs, ys, *block_distances(chunks, symmetric=y is None, single=single))

    def gradients(self, slope: Tensor, both: bool = False) -> tuple[Tensor, Optional[Tensor]]:
        """Gradients with respect to the rows, from the gradient with respect to the distances.

        Args:
            slope (Tensor): (n, m), the gradient with respect to the distances. For one set of rows both entries of a pair
                count.
            both (bool): for two sets of rows, also compute the gradient with respect to the other rows.
        """
        # d|x-y| = (x-y)/|x-y|; the subgradient at |x-y| = 0 is 0. The distances may be float64 and the rows float32, but a
        # product needs operands of one dtype.
        xs, ys, distances, close, _ = self
        symmetric = xs is ys
        if symmetric:
            slope = slope + slope.T
        slope = torch.where(distances > 0, slope / distances, 0.0)
        xs, ys = xs.to(slope.dtype), ys.to(slope.dtype)
        rows, columns = close
        if rows.numel():
            single = slope[rows, columns]
            slope[rows, columns] = 0
        with changed_state(full_precision(xs.device)), interruptible():
            grad_x = torch.addmm(slope.sum(1, keepdim=True) * xs, slope, ys, alpha=-1)
            grad_y = None
            if both and not symmetric:
                grad_y = torch.addmm(slope.sum(0)[:, None] * ys, slope.T, xs, alpha=-1)
        for part in _pair_blocks(rows.numel(), xs.shape[1]):
            pull = single[part, None] * (xs[rows[part]] - ys[columns[part]])
            grad_x.index_add_(0, rows[part], pull)
            if grad_y is not None:
                grad_y.index_add_(0, columns[part], pull, alpha=-1)
        return grad_x, grad_y


def safe_size(x: Tensor) -> float:
    """1 if squares of ``x`` neither overflow nor vanish, else a power of two to divide by, which does not round."""
    return power_of_two(largest_of(x))


def power_of_two(largest: float) -> float:
    """A divisor for features with this largest absolute value; 1 if their squares neither overflow nor vanish.

    Raises:
        ValueError: the value is not finite.
    """
    if not math.isfinite(largest):
        raise ValueError("features have non-finite values (NaN or infinity).")
    room = torch.finfo(torch.float32).max ** 0.25  # of float64 too: its geometries may be cast to float32
    return 1.0 if largest == 0 or 1 / room < largest < room else math.ldexp(1.0, math.frexp(largest)[1] - 1)


class _Distances(torch.autograd.Function):
    """Distances whose backward pass takes two matrix products; the gradient is 0 at equal rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Optional[Tensor], all_far: bool) -> Tensor:
        spread = RowDistances.of(x, y, fast=all_far)
        ctx.symmetric = y is None
        ctx.save_for_backward(*spread[:4])
        return spread.distances.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        xs, ys, distances, close = ctx.saved_tensors
        spread = RowDistances(xs, xs if ctx.symmetric else ys, distances, close)
        return *(None if each is None else each.to(grad.dtype) for each in spread.gradients(grad, both=True)), None


def block_distances(chunks: Chunks, *, symmetric: bool, single: bool) -> tuple[Tensor, Tensor]:
    """Distances between two sets of rows, from which the mean was subtracted.

    Args:
        chunks (callable): yields the columns of both sets, at most :data:`CHUNK` at a time; the same chunks at each call.
        symmetric (bool): the two sets are the same; the diagonal is then 0.
        single (bool): there is only one chunk; distances are then computed block by block.

    Returns:
        tuple: distances (n, m), in float64 if many pairs are too close for float32; and the (2, k) indices of the pairs that
        were subtracted directly.
    """
    if single:
        left, right, x2, y2 = _rows_and_squares(chunks, symmetric)
        products = None
    else:
        products, x2, y2 = _summed_products(chunks, symmetric)
        left = right = products  # only their sizes and dtypes are used
    n, m = left.shape[0], y2.shape[0]
    share, largest = _CLOSE[left.dtype], y2.amax()
    least = 2 * share * max(float(largest), 0.0 if symmetric else float(x2.amax()))
    # On a CPU, blocks of rows stay in a core's cache from the product to the square root.
    step = n if is_async_device(left.device) or not symmetric else _ROWS
    whole = step >= n
    distances = products if products is not None else left if whole else left.new_empty((n, m))
    found = []
    for start in range(0, n, step):
        rows, stop = slice(start, start + step), min(start + step, n) if symmetric else m
        if products is not None:
            block = products[rows, :stop].mul_(-2).add_(x2[rows, None]).add_(y2[:stop])
        elif whole:
            block = distances = torch.addmm(y2, left, right.T, alpha=-2).add_(x2[:, None])
        else:
            block = torch.addmm(y2[:stop], left[rows], right[:stop].T, alpha=-2).add_(x2[rows, None])
        if symmetric:
            block.diagonal(start).fill_(torch.inf)  # a row is not a close pair with itself; set to 0 at the end
        # For nearly all data the first, cheap test shows that no pair is close; the second one handles uneven norms.
        if not float(block.min()) > least and bool((block.amin(1) <= share * (x2[rows] + largest)).any()):
            close = (block <= share * (x2[rows, None] + y2[:stop])).nonzero().T
            block[close[0], close[1]] = 0  # rounding may have left them negative
            found.append(close + close.new_tensor([[start], [0]]))
        block.sqrt_()
        if products is None and not whole:
            distances[rows, :stop] = block
        if symmetric and start:
            distances[:start, rows] = block[:, :start].T
    if symmetric:
        distances.fill_diagonal_(0)
    if not found:
        return distances, _no_pairs(left.device)
    close = torch.cat(found, 1)
    if symmetric and not whole:  # blocks hold each pair once
        both = torch.cat([close, close.flip(0)], 1)
        places = (both[0] * m + both[1]).unique()  # unique(dim=1) is ten times slower
        close = torch.stack([places // m, places % m])
    if left.dtype == torch.float32 and close.shape[1] > distances.numel() // 16 and has_float64(left.device):
        # Tight clusters: a product in float64 is far cheaper than many single pairs.
        return block_distances(
            lambda: ((a.double(), b.double()) for a, b in chunks()), symmetric=symmetric, single=single
        )
    distances[close[0], close[1]] = _single_distances(chunks, close, left.dtype)
    return distances, close


def fast_distances(chunks: Chunks, *, symmetric: bool, single: bool) -> tuple[Tensor, Tensor]:
    """:func:`block_distances` without direct subtraction of close pairs, which does not synchronize the device.

    Returns:
        tuple: distances (n, m), and a device boolean, not synchronized: True if some pair is so close that its distance has
        lost too many digits.
    """
    if single:
        left, right, x2, y2 = _rows_and_squares(chunks, symmetric)
        squares = torch.addmm(y2, left, right.T, alpha=-2)
    else:
        squares, x2, y2 = _summed_products(chunks, symmetric)
        squares.mul_(-2).add_(y2)
    squares.add_(x2[:, None])
    if symmetric:
        squares.fill_diagonal_(torch.inf)
    needs_recheck = (squares.amin(1) <= _CLOSE[squares.dtype] * (x2 + y2.amax())).any()
    distances = squares.clamp_(min=0).sqrt_()
    return (distances.fill_diagonal_(0) if symmetric else distances), needs_recheck


@lru_cache
def _no_pairs(device: torch.device) -> Tensor:
    return torch.empty((2, 0), dtype=torch.long, device=device)


def _rows_and_squares(chunks: Chunks, symmetric: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The one chunk of both sets of rows, and their squared norms."""
    left, right = next(iter(chunks()))
    squares = torch.linalg.vecdot(left, left)
    return left, right, squares, squares if symmetric else torch.linalg.vecdot(right, right)


def _summed_products(chunks: Chunks, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Products of all pairs of rows, for one set only on and below the diagonal, and the squared norms."""
    total: Optional[Tensor] = None
    for left, right in chunks():
        products = _lower_products(left) if symmetric else left @ right.T
        squares = torch.linalg.vecdot(left, left)
        others = squares if symmetric else torch.linalg.vecdot(right, right)
        if total is None:
            total, x2, y2 = products, squares, others
        else:
            total, x2, y2 = total.add_(products), x2 + squares, y2 + others
    assert total is not None
    return total, x2, y2


def _lower_products(xs: Tensor) -> Tensor:
    """xs @ xs.T in the blocks on and below the diagonal, which saves nearly half of the work; on a GPU one whole product."""
    if is_async_device(xs.device):
        return xs @ xs.T
    n = xs.shape[0]
    products = xs.new_zeros((n, n))
    for start in range(0, n, _ROWS):
        rows, stop = slice(start, start + _ROWS), start + _ROWS
        products[rows, :stop] = xs[rows] @ xs[:stop].T
    return products


def _single_distances(chunks: Chunks, pairs: Tensor, dtype: torch.dtype) -> Tensor:
    """Distances of some pairs of rows by direct subtraction."""
    rows, columns = pairs
    distances = torch.zeros(rows.shape[0], dtype=dtype, device=rows.device)
    for left, right in chunks():
        for part in _pair_blocks(rows.shape[0], left.shape[1]):
            norms = _row_norms(left[rows[part]] - right[columns[part]])
            distances[part] = torch.hypot(distances[part], norms)
    return distances


def _row_norms(x: Tensor) -> Tensor:
    """Norms of rows whose squares may underflow."""
    size = x.abs().amax(1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    norms: Tensor = torch.linalg.vector_norm(x / size, dim=1) * size[:, 0]
    return norms


def _pair_blocks(pairs: int, width: int) -> list[slice]:
    step = max(1, _PAIR_BLOCK // max(1, width))
    return [slice(start, start + step) for start in range(0, pairs, step)]


def is_async_device(device: torch.device) -> bool:
    """Whether a device runs asynchronously, so that reading a result makes the host wait."""
    return device.type not in ("cpu", "meta")
