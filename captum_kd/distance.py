r"""Distance geometry: how alike two sets of features arrange the same inputs.

A population of ``n`` inputs is described by the Euclidean distances between its
features. Centring removes what any population has in common; what is left, a
:class:`Geometry`, can be multiplied, correlated and removed from another one.
Everything else in this package calls the functions of this file; the formulas
are written down nowhere else.

Sources: Szekely, Rizzo & Bakirov 2007 (distance correlation), Szekely & Rizzo
2014 (U-centring, unbiased estimator, partial distance correlation).
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any, ContextManager, Literal, NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captum_kd._values import check_choice, check_dense

__all__ = [
    "Estimator",
    "Geometry",
    "center",
    "check_estimator",
    "correlation",
    "cross_distances",
    "distance_correlation",
    "distances_to_center",
    "euclidean_distances",
    "geometry",
    "inner_product",
    "is_finite",
    "noise_level",
    "partial_distance_correlation",
    "remove",
    "u_shift",
]

Estimator = Literal["unbiased", "biased"]

MIN_INPUTS = 4
"""U-centring divides by (n - 3): fewer inputs have no geometry."""

# Entries of |x|^2 + |y|^2 - 2xy below this share of |x|^2 + |y|^2 have lost too many
# digits: the distance's error relative to the features' size is eps / (2 sqrt(share)).
_CLOSE = {torch.float32: 1e-2, torch.float64: 1e-3}
# Wide features are all about equally far apart: centring takes 2 or 3 digits away, and over so few
# inputs the rounding of float32 does not average out. Their geometry is computed in float64.
_FEW = 64
# Columns that one matrix product sums over, and rows of a block of a symmetric one.
_COLUMNS = 16_384
_ROWS = 128
# Numbers held at once while single pairs are subtracted (3 MB of float64: more leaves the cache).
_PAIR_BLOCK = 400_000


# --------------------------------------------------------------------------- distances


def euclidean_distances(x: Tensor) -> Tensor:
    r"""Euclidean distances between the rows of ``x``.

    Computed by one matrix product on centred data, so features far from the origin lose no
    digits. Pairs so close that the product cannot tell them apart are subtracted directly;
    the distance of coincident rows is exactly 0 and so is its gradient.

    Args:
        x (Tensor): (n, d), float32 or float64.

    Returns:
        Tensor: (n, n) of ``x``'s dtype and device, zero on the diagonal. Once differentiable.

    Raises:
        ValueError: ``x`` has non-finite values.

    Example::

        >>> euclidean_distances(torch.tensor([[0., 0.], [3., 4.]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    size = _safe_size(x)
    distances: Tensor = _Distances.apply(x if size == 1 else x / size, None)
    return distances if size == 1 else distances * size


def cross_distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances between the rows of ``x`` and those of ``y``.

    As :func:`euclidean_distances`, for two sets.

    Args:
        x (Tensor): (n, d), float32 or float64.
        y (Tensor): (m, d), same dtype and device.

    Returns:
        Tensor: (n, m). Once differentiable in both arguments.

    Raises:
        ValueError: one of the two has non-finite values.
    """
    size = max(_safe_size(x), _safe_size(y))
    if size == 1:
        distances: Tensor = _Distances.apply(x, y)
        return distances
    distances = _Distances.apply(x / size, y / size)
    return distances * size


def _safe_size(x: Tensor) -> float:
    """1 where squares of ``x`` neither overflow nor vanish, else the power of two to divide by, which rounds nothing."""
    low, high = torch.stack(x.detach().aminmax()).tolist()
    size = max(high, -low)
    if not math.isfinite(size):
        raise ValueError("features have non-finite values (NaN or infinity).")
    room = torch.finfo(torch.float32).max ** 0.25  # of float64 too: its geometries may be cast to float32
    return 1.0 if size == 0 or 1 / room < size < room else math.ldexp(1.0, math.frexp(size)[1] - 1)


class _Distances(torch.autograd.Function):
    """Distances with a gradient of two matrix products and none at coincident rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Optional[Tensor]) -> Tensor:
        shift = (x if y is None else y).mean(0)
        xs = x - shift
        ys = xs if y is None else y - shift
        with _full_precision(xs.device):
            distances, close = _distances(xs, ys, symmetric=y is None)
        ctx.symmetric = y is None
        ctx.save_for_backward(xs, ys, distances, close)
        return distances.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], Optional[Tensor]]:
        xs, ys, distances, close = ctx.saved_tensors
        if ctx.symmetric:
            grad = grad + grad.T
        # d|x-y| = (x-y)/|x-y|; at |x-y| = 0 the subgradient 0 is taken. The distances may
        # have been promoted, and the products' operands must be of one dtype.
        slope = torch.where(distances > 0, grad / distances, 0.0)
        xs, ys = xs.to(slope.dtype), ys.to(slope.dtype)
        rows, columns = close
        single = slope[rows, columns]
        slope[rows, columns] = 0
        with _full_precision(xs.device):
            grad_x = slope.sum(1, keepdim=True) * xs - slope @ ys
            grad_y = None if ctx.symmetric else slope.sum(0)[:, None] * ys - slope.T @ xs
        for part in _pair_blocks(rows.numel(), xs.shape[1]):
            pull = single[part, None] * (xs[rows[part]] - ys[columns[part]])
            grad_x.index_add_(0, rows[part], pull)
            if grad_y is not None:
                grad_y.index_add_(0, columns[part], pull, alpha=-1)
        return grad_x.to(grad.dtype), None if grad_y is None else grad_y.to(grad.dtype)


def _distances(xs: Tensor, ys: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Distances of shifted rows and the (2, k) indices of pairs that were subtracted one by one."""
    if symmetric:
        products = _own_products(xs)
        x2 = products.diagonal().clone()[:, None]
        y2 = x2.T
    else:
        products = _products(xs, ys)
        x2, y2 = torch.linalg.vecdot(xs, xs)[:, None], torch.linalg.vecdot(ys, ys)[None, :]
    squares = products.mul_(-2).add_(x2).add_(y2)
    if symmetric:
        squares.fill_diagonal_(torch.inf)  # never close to itself; set to 0 at the end
    share = _CLOSE[xs.dtype]
    close = torch.empty((2, 0), dtype=torch.long, device=xs.device)
    # One cheap pass decides for nearly all data that no pair is close.
    if not bool((squares.amin(1) > share * (x2[:, 0] + y2.amax())).all()):
        close = (squares <= share * (x2 + y2)).nonzero().T
        if xs.dtype == torch.float32 and close.shape[1] > squares.numel() // 16 and _has_float64(xs.device):
            # Tight clusters: a product in float64 is far cheaper than many single pairs.
            return _distances(xs.double(), ys.double(), symmetric)
    rows, columns = close
    squares[rows, columns] = 0  # rounding may have left them negative
    distances = squares.sqrt_()
    for part in _pair_blocks(close.shape[1], xs.shape[1]):
        distances[rows[part], columns[part]] = _row_norms(xs[rows[part]] - ys[columns[part]])
    if symmetric:
        distances.fill_diagonal_(0)
    return distances, close


def _products(xs: Tensor, ys: Tensor) -> Tensor:
    """xs @ ys.T, in parts: the rounding of sums over very many columns would add up."""
    parts = zip(xs.split(_COLUMNS, 1), ys.split(_COLUMNS, 1))
    left, right = next(parts)
    products: Tensor = left @ right.T
    for left, right in parts:
        products += left @ right.T
    return products


def _own_products(xs: Tensor) -> Tensor:
    """xs @ xs.T from the blocks on and below the diagonal: nearly half of the work is saved."""
    n = xs.shape[0]
    products = xs.new_empty((n, n))
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        block = _products(xs[rows], xs[: start + _ROWS])
        products[rows, : start + _ROWS] = block
        products[:start, rows] = block[:, :start].T
    return products


def _row_norms(x: Tensor) -> Tensor:
    """Norms of rows whose squares may underflow."""
    size = x.abs().amax(1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    norms: Tensor = torch.linalg.vector_norm(x / size, dim=1) * size[:, 0]
    return norms


def _pair_blocks(pairs: int, width: int) -> list[slice]:
    step = max(1, _PAIR_BLOCK // max(1, width))
    return [slice(start, start + step) for start in range(0, pairs, step)]


def _full_precision(device: torch.device) -> ContextManager[None]:
    """Products under a caller's autocast would lose the digits that distances need."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    full: ContextManager[None] = torch.autocast(device.type, enabled=False)
    return full


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"


# ---------------------------------------------------------------------------- geometry


class Geometry(NamedTuple):
    """A population as seen by one set of features: its centred distances.

    Attributes:
        matrix (Tensor): (n, n) centred distances (what is left of them after :func:`remove`).
        raw_norm (Tensor): scalar, the Frobenius norm of the distances before centring:
            the scale against which rounding is told from structure.
    """

    matrix: Tensor
    raw_norm: Tensor

    def detach(self) -> "Geometry":
        return Geometry(self.matrix.detach(), self.raw_norm.detach())

    def to_like(self, other: "Geometry") -> "Geometry":
        """On the device and in the dtype of another geometry."""
        return Geometry(self.matrix.to(other.matrix), self.raw_norm.to(other.matrix))

    def is_negligible(self) -> Tensor:
        """Whether nothing but rounding is left: a boolean scalar tensor."""
        level = noise_level(self.matrix.dtype) * self.raw_norm
        negligible: Tensor = torch.linalg.matrix_norm(self.matrix.detach()) <= level
        return negligible


def noise_level(dtype: torch.dtype) -> float:
    """Norms at most this share of the raw distances' norm count as zero."""
    return 32 * torch.finfo(dtype).eps


def geometry(x: Tensor, estimator: Estimator = "unbiased") -> Geometry:
    """The centred distances of features.

    Args:
        x (Tensor): (n, d), float32 or float64, n >= 4.
        estimator (str): "unbiased" centres for the unbiased estimator, "biased" for the biased one.
    """
    centred = center(distances_to_center(x), estimator)
    return Geometry(centred.matrix.to(x.dtype), centred.raw_norm.to(x.dtype))


def distances_to_center(x: Tensor) -> Tensor:
    """Distances up to scale, with the digits that centring takes away.

    Args:
        x (Tensor): (n, d), float32 or float64.

    Returns:
        Tensor: (n, n) of ``x``'s dtype, or float64 where n is small. A geometry matters up to scale only:
        features of a size whose squares would overflow or vanish are scaled first.
    """
    size = _safe_size(x)
    scaled = x if size == 1 else x / size
    few = x.dtype == torch.float32 and x.shape[0] <= _FEW and _has_float64(x.device)
    distances: Tensor = _Distances.apply(scaled.double() if few else scaled, None)
    return distances


def center(distances: Tensor, estimator: Estimator = "unbiased") -> Geometry:
    r"""Centres a distance matrix.

    Unbiased (U-centring, Szekely & Rizzo 2014): for i != j

    .. math:: P_{ij} = D_{ij} - \frac{D_{i.}}{n-2} - \frac{D_{.j}}{n-2} + \frac{D_{..}}{(n-1)(n-2)}

    and 0 on the diagonal. Biased: row, column and total means are taken away from every entry.

    Args:
        distances (Tensor): (n, n), symmetric, zero diagonal.
        estimator (str): "unbiased" or "biased".
    """
    raw_norm = torch.linalg.matrix_norm(distances.detach())
    if estimator == "unbiased":
        shift = u_shift(distances)
        matrix = (distances - shift[:, None]).sub_(shift).fill_diagonal_(0)
    else:
        means = distances.mean(1)
        shift = means - means.mean() / 2
        matrix = (distances - shift[:, None]).sub_(shift)
    return Geometry(matrix, raw_norm)


def u_shift(distances: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """The vector u with P_ij = D_ij - u_i - u_j off the diagonal of a U-centred matrix.

    Args:
        distances (Tensor): (n, n), symmetric.
        dtype (torch.dtype, optional): in which to sum, and of the result; that of ``distances`` without.

    Returns:
        Tensor: (n,).
    """
    n = distances.shape[0]
    sums = distances.sum(1, dtype=dtype)
    return (sums - sums.sum() / (2 * (n - 1))) / (n - 2)


def inner_product(p: Geometry, q: Geometry) -> Tensor:
    r"""Sum of the products of all entries.

    The inner product of Szekely & Rizzo 2014 is this sum over n(n - 3), that of the biased
    estimator over n^2. Ratios, which are all that is asked for here, do not need the divisor.
    """
    return (p.matrix * q.matrix).sum()


def remove(p: Geometry, q: Geometry) -> Geometry:
    r"""What of ``p`` is left when ``q`` is taken away: the projection orthogonal to ``q``.

    .. math:: P_{p|q} = P_p - \frac{\langle P_p, P_q\rangle}{\langle P_q, P_q\rangle} P_q

    A ``q`` without geometry (constant features) takes nothing away.
    """
    if bool(q.is_negligible()):
        return p
    slope = inner_product(p, q) / inner_product(q, q)
    return Geometry(torch.addcmul(p.matrix, slope, q.matrix, value=-1), p.raw_norm)


def correlation(p: Geometry, q: Geometry, *, warn: bool = True) -> Tensor:
    r"""Correlation of two geometries: their inner product over the product of their norms.

    Returns:
        Tensor: scalar in [-1, 1]. Where one of the two is negligible (constant features, or
        nothing left after removal) the score and its gradient are 0, with a warning.
    """
    product = inner_product(p, q)
    if bool(p.is_negligible() | q.is_negligible()):
        if warn:
            warnings.warn(
                "A score is 0 because one side has no geometry: its features are constant, or a "
                "rotated, scaled copy of what was removed from them.",
                UserWarning,
                stacklevel=3,
            )
        return product * 0
    # Square roots first: the product of the two squares may overflow.
    return (product / (inner_product(p, p).sqrt() * inner_product(q, q).sqrt())).clamp(-1, 1)


# ------------------------------------------------------------------------------ scores


def distance_correlation(x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased") -> Tensor:
    r"""Squared distance correlation of two sets of features of the same inputs.

    Args:
        x (Tensor): (n, ...) features, n >= 4; trailing dimensions are flattened.
        y (Tensor): (n, ...) features of the same inputs, of any other width.
        estimator (str): "unbiased" (bias-corrected, in [-1, 1], about 0 for independent
            features) or "biased" (in [0, 1], tends to 1 for few inputs and wide features).
            Both are the squared quantity; the literature's dCor is the biased one's square root.

    Returns:
        Tensor: scalar, differentiable once in both arguments. Half types are computed in float32,
            integers of 32 bits and more in float64.

    Raises:
        ValueError: fewer than 4 inputs, different numbers of inputs, non-finite features,
            different devices, or an unknown estimator.
        TypeError: an argument is no real tensor.

    Source: Szekely, Rizzo & Bakirov 2007 (biased); Szekely & Rizzo 2014 (unbiased).

    Example::

        >>> x = torch.randn(100, 64)
        >>> distance_correlation(x, 3 * x + 1)  # same geometry up to scale
        tensor(1.)
    """
    check_estimator(estimator)
    x, y = _as_features(x=x, y=y)
    return correlation(geometry(x, estimator), geometry(y, estimator))


def partial_distance_correlation(
    x: Tensor, y: Tensor, given: Tensor, *, remove_from: Literal["x", "both"] = "x"
) -> Tensor:
    r"""Unbiased distance correlation of ``x`` and ``y`` after ``given`` has been removed.

    Args:
        x (Tensor): (n, ...) features, n >= 4.
        y (Tensor): (n, ...) features of the same inputs.
        given (Tensor): (n, ...) features whose geometry is removed.
        remove_from (str): "x" removes it from ``x`` alone, a semi-partial correlation, as
            UniCAM's relevance of distilled features does; "both" removes it from ``x`` and
            ``y``, the partial distance correlation of Szekely & Rizzo 2014.

    Returns:
        Tensor: scalar in [-1, 1], differentiable once. 0 with a warning where nothing is left.

    Raises:
        ValueError, TypeError: as :func:`distance_correlation`.

    Example::

        >>> student, base = torch.randn(100, 64), torch.randn(100, 32)
        >>> partial_distance_correlation(student, student, given=base)  # nearly 1: little to remove
    """
    check_choice(remove_from, "remove_from", ("x", "both"))
    x, y, given = _as_features(x=x, y=y, given=given)
    removed = geometry(given)
    left, right = remove(geometry(x), removed), geometry(y)
    return correlation(left, remove(right, removed) if remove_from == "both" else right)


def check_estimator(estimator: str) -> None:
    """Raises a ValueError for anything but the two names."""
    check_choice(estimator, "estimator", ("unbiased", "biased"))


def _as_features(**features: Tensor) -> list[Tensor]:
    """Checks named (n, ...) tensors against each other and brings them to (n, d) of one real dtype."""
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
    prepared = {name: _real(value).reshape(value.shape[0], -1) for name, value in features.items()}
    for name, value in prepared.items():
        if not is_finite(value):
            raise ValueError(f"{name} has non-finite values (NaN or infinity); all must be finite.")
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in prepared.values()) else torch.float32
    return [value.to(dtype) for value in prepared.values()]


def is_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite, in one pass."""
    return bool(torch.isfinite(torch.stack(x.detach().aminmax())).all())


def _real(value: Tensor) -> Tensor:
    if value.dtype in (torch.float32, torch.float64):
        return value
    # float32 holds half types and small integers exactly, not those of 32 bits and more.
    wide = not value.is_floating_point() and value.element_size() > 2 and _has_float64(value.device)
    return value.double() if wide else value.float()
