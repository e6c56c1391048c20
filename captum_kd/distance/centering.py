"""Centered distance matrices and their inner products.

Sources: Szekely, Rizzo & Bakirov 2007 (distance correlation), Szekely & Rizzo 2014 (U-centering, unbiased estimator,
partial distance correlation).
"""

from __future__ import annotations

from typing import Callable, Literal, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd._utils.validation import check_choice
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.pairwise import distances_to_center

__all__ = [
    "CENTERINGS",
    "Centering",
    "Estimator",
    "Geometry",
    "LEAST_WITH_REMOVAL",
    "MIN_INPUTS",
    "center",
    "centering_of",
    "check_estimator",
    "geometry",
    "noise_level",
    "raw_scale",
    "u_centered",
    "u_shift",
    "warn_of_no_geometry",
]


class Centering(NamedTuple):
    """A way to center distances: P_ij = D_ij - u_i - u_j."""

    shift: Callable[[Tensor, Tensor, int], Tensor]
    """The vector u from the sums of the rows, the sum of all distances and the number of inputs. Rows may be left out."""
    has_zero_diagonal: bool
    """P_ii is 0; otherwise it is -2 u_i."""


def _u_shift(rows: Tensor, total: Tensor, n: int) -> Tensor:
    return torch.sub(rows, total, alpha=0.5 / (n - 1)) / (n - 2)


def _double_shift(rows: Tensor, total: Tensor, n: int) -> Tensor:
    return torch.sub(rows, total, alpha=0.5 / n) / n


Estimator = Literal["unbiased", "biased"]
CENTERINGS: dict[Estimator, Centering] = {
    "unbiased": Centering(_u_shift, has_zero_diagonal=True),
    "biased": Centering(_double_shift, has_zero_diagonal=False),
}
"""The centering of each estimator: of matrices, of sums over tiles and of labels."""

MIN_INPUTS = 4
"""U-centering divides by (n - 3): fewer inputs have no geometry."""
LEAST_WITH_REMOVAL = MIN_INPUTS + 1
"""The U-centered matrices of 4 inputs span 2 dimensions, so after removal features determine only the sign of a score."""


class Geometry(NamedTuple):
    """Centered distances between the features of a population.

    Attributes:
        matrix (Tensor): (n, n) centered distances.
        raw_norm (Tensor): scalar, the scale that rounding is relative to (:func:`raw_scale`).
    """

    matrix: Tensor
    raw_norm: Tensor

    def detach(self) -> "Geometry":
        return Geometry(self.matrix.detach(), self.raw_norm.detach())


def noise_level(dtype: torch.dtype) -> float:
    """Norms up to this fraction of the raw distances' norm count as zero."""
    return 32 * torch.finfo(dtype).eps


def raw_scale(norm: Tensor, rounding: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The norm of raw distances; a larger value, at which the geometry counts as zero, if rounding alone may explain them.

    Args:
        norm (Tensor): (...), Frobenius norm of the distances.
        rounding (Tensor): (...), the largest distance by which rounding may have moved an input; 0 for features that are not
            averages.
        n (int): number of inputs.
        dtype (torch.dtype): dtype of the features.
    """
    return torch.where(norm <= 2**0.5 * n * rounding, norm / noise_level(dtype), norm)


def geometry(x: Tensor, estimator: Estimator = "unbiased", largest: Optional[float] = None) -> Geometry:
    """The centered distances of features.

    Args:
        x (Tensor): (n, d), float32 or float64, n >= 4.
        estimator (str): "unbiased" centers for the unbiased estimator, "biased" for the biased one.
        largest (float, optional): the largest absolute value in ``x``, if known.

    Raises:
        ValueError: another estimator.
    """
    size = largest_of(x) if largest is None else largest
    distances = distances_to_center(x, size)
    # No one else uses these distances: center them in place unless a gradient needs them.
    return _center(distances, estimator, in_place=not distances.requires_grad)


def center(distances: Tensor, estimator: Estimator = "unbiased") -> Geometry:
    r"""Centers a distance matrix.

    Unbiased (U-centering, Szekely & Rizzo 2014): for i != j

    .. math:: P_{ij} = D_{ij} - \frac{D_{i.}}{n-2} - \frac{D_{.j}}{n-2} + \frac{D_{..}}{(n-1)(n-2)}

    and 0 on the diagonal. Biased: row and column means are subtracted from every entry and the total mean is added.

    Args:
        distances (Tensor): (n, n), symmetric, zero diagonal.
        estimator (str): "unbiased" or "biased".

    Raises:
        ValueError: another estimator.
    """
    return _center(distances, estimator, in_place=False)


def _center(distances: Tensor, estimator: Estimator, in_place: bool) -> Geometry:
    centering = centering_of(estimator)
    raw_norm = torch.linalg.vector_norm(distances.detach())
    matrix = _without(_shift(distances, centering), distances, in_place)
    return Geometry(matrix.fill_diagonal_(0) if centering.has_zero_diagonal else matrix, raw_norm)


def _without(shift: Tensor, distances: Tensor, in_place: bool = False) -> Tensor:
    """D_ij - u_i - u_j for D (..., n, n) and u (..., n)."""
    column = shift[..., None]
    return (distances.sub_(column) if in_place else distances - column).sub_(shift[..., None, :])


def _shift(distances: Tensor, centering: Centering, dtype: Optional[torch.dtype] = None) -> Tensor:
    """The vector u of matrices (..., n, n)."""
    rows = distances.sum(-1, dtype=dtype)
    return centering.shift(rows, rows.sum(-1, keepdim=True), rows.shape[-1])


def u_shift(distances: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """The vector u with P_ij = D_ij - u_i - u_j off the diagonal of a U-centered matrix.

    Args:
        distances (Tensor): (..., n, n), symmetric.
        dtype (torch.dtype, optional): dtype of the sums and of the result; default: that of ``distances``.

    Returns:
        Tensor: (..., n).
    """
    return _shift(distances, CENTERINGS["unbiased"], dtype)


def u_centered(distances: Tensor) -> Tensor:
    """U-centered copies of symmetric matrices (..., n, n) whose diagonal is 0."""
    matrices = _without(u_shift(distances), distances)
    matrices.diagonal(dim1=-2, dim2=-1).zero_()
    return matrices


def warn_of_no_geometry() -> None:
    """Warns that a score is 0 because a side has no geometry."""
    warn_user(
        "A score is 0 because one side has no geometry: its features are constant, or a "
        "rotated, scaled copy of what was removed from them."
    )


def check_estimator(estimator: str) -> None:
    """Raises a ValueError for anything but the estimators' names."""
    check_choice(estimator, "estimator", tuple(CENTERINGS))


def centering_of(estimator: Estimator) -> Centering:
    """The centering of an estimator; a ValueError for an unknown name."""
    check_estimator(estimator)
    return CENTERINGS[estimator]
