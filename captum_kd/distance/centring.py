"""Geometries: centred distances, which can be multiplied, correlated and removed from one another.

Sources: Szekely, Rizzo & Bakirov 2007 (distance correlation), Szekely & Rizzo 2014 (U-centring, unbiased estimator,
partial distance correlation).
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._values import check_choice
from captum_kd.distance.pairwise import distances_to_center

__all__ = [
    "Estimator",
    "Geometry",
    "MIN_INPUTS",
    "center",
    "check_estimator",
    "correlation",
    "geometry",
    "inner_product",
    "noise_level",
    "remove",
    "u_shift",
    "warn_of_no_geometry",
]

Estimator = Literal["unbiased", "biased"]

MIN_INPUTS = 4
"""U-centring divides by (n - 3): fewer inputs have no geometry."""


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
            warn_of_no_geometry(stacklevel=4)
        return product * 0
    # Square roots first: the product of the two squares may overflow.
    return (product / (inner_product(p, p).sqrt() * inner_product(q, q).sqrt())).clamp(-1, 1)


def warn_of_no_geometry(stacklevel: int) -> None:
    """Warns of a score that is 0 for want of a geometry; the level is that of ``warnings.warn``."""
    warnings.warn(
        "A score is 0 because one side has no geometry: its features are constant, or a "
        "rotated, scaled copy of what was removed from them.",
        UserWarning,
        stacklevel=stacklevel,
    )


def check_estimator(estimator: str) -> None:
    """Raises a ValueError for anything but the two names."""
    check_choice(estimator, "estimator", ("unbiased", "biased"))
