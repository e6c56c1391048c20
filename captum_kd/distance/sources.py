"""Sources of distances, tile by tile: matrices in memory, or features that distances are computed from.

:mod:`captum_kd.distance.block_sums` takes tiles from any source.
"""

from __future__ import annotations

from typing import Iterator, Optional, Protocol

import torch
from torch import Tensor

from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import largest_of
from captum_kd.distance.centering import noise_level, u_shift
from captum_kd.distance.pairwise import block_distances, fast_distances, is_async_device, power_of_two
from captum_kd.distance.precision import distance_dtype, full_precision, widest

__all__ = ["DistanceSource", "FeatureDistances", "Features", "MatrixDistances", "TensorFeatures"]

# The number of anchors, inputs whose distances to all others give the estimated shift.
_ANCHORS = 256
# Numbers in a chunk of columns (128 MB of float64), and its most columns: the rows of 1,000 inputs stay in a core's cache.
_READ_NUMBERS = 1 << 24
_READ_COLUMNS = 4096
# Largest shifted copy of features that is kept (64 MB of float32).
_KEPT_NUMBERS = 1 << 24


class DistanceSource(Protocol):
    """Distances of one set of features between the inputs of a population.

    Attributes:
        n (int): inputs.
        device (torch.device): device of the tiles.
        noise (float): norms up to this fraction of the distances' norm count as rounding.
        rounding (float): the largest distance by which rounding may have moved an input, in units of the distances; 0 for
            features that are not averages of larger numbers.
    """

    n: int
    device: torch.device
    noise: float
    rounding: float

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        """Distances (r, c), float32 or float64, of two ranges of inputs; 0 between an input and itself.

        With ``rechecks``, close pairs may have lost digits. A boolean tensor that is True in that case is appended to the
        list, unless the source knows that no pair is close. The device is not synchronized.
        """

    def shift(self) -> tuple[Tensor, bool]:
        """A vector u (n,), float64, for which D_ij - u_i - u_j is small, and whether it U-centers exactly."""


class MatrixDistances:
    """Distances in a matrix.

    Args:
        matrix (Tensor): (n, n) symmetric, zero diagonal, float32 or float64.
        noise (float, optional): noise level of the features, if their dtype is another one; default: that of the matrix's
            dtype.
        rounding (float): as in :class:`DistanceSource`.
    """

    def __init__(self, matrix: Tensor, noise: Optional[float] = None, rounding: float = 0.0) -> None:
        self.matrix = matrix
        self.n = matrix.shape[0]
        self.device = matrix.device
        self.noise = noise_level(matrix.dtype) if noise is None else noise
        self.rounding = rounding

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        return self.matrix[rows, columns]

    def shift(self) -> tuple[Tensor, bool]:
        return u_shift(self.matrix, widest(self.device)), True


class Features(Protocol):
    """Features (n, d) in memory, in a file or on several ranks, which can be read in parts.

    Attributes:
        shape (tuple of int): (n, d).
        dtype (torch.dtype): dtype of the parts, float32 or float64.
        device (torch.device): device of the parts.
        rounding (float): upper bound of the distance by which rounding moved an input
            (:func:`~captum_kd._models.features.features_of`).
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    rounding: float

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""

    def middle(self) -> Tensor:
        """(d,) the features' mean."""

    def largest(self) -> float:
        """The largest absolute value; NaN or infinity if the features contain any."""


class TensorFeatures:
    """Features in a tensor.

    Args:
        values (Tensor): (n, d), float32 or float64.
        rounding (float): as in :class:`Features`.
    """

    def __init__(self, values: Tensor, rounding: float = 0.0) -> None:
        self.values = values
        self.rounding = rounding
        self.shape = (values.shape[0], values.shape[1])
        self.dtype = values.dtype
        self.device = values.device

    def read(self, rows: slice, columns: slice) -> Tensor:
        return self.values[rows, columns]

    def middle(self) -> Tensor:
        # A sum of float32 may overflow.
        return self.values.mean(0, dtype=widest(self.device)).to(self.dtype)

    def largest(self) -> float:
        return largest_of(self.values)

    def to(self, device: torch.device) -> TensorFeatures:
        return TensorFeatures(self.values.to(device), self.rounding)


class FeatureDistances:
    """Distances that are computed from features tile by tile, in units of a power of two.

    Attributes:
        unit (float): 1 unless squares of the features would overflow or vanish.
        dtype (torch.dtype): dtype of the distances.
        all_far (bool, optional): True if no pair of inputs is so close that it must be subtracted directly; None if unknown.

    Args:
        features (Features): (n, d).
        keep (bool): keep a shifted copy of small features, so that they are read only once.
        dtype (torch.dtype, optional): dtype of the distances; default: the one of
            :func:`~captum_kd.distance.precision.distance_dtype`.

    Raises:
        ValueError: non-finite features.
    """

    all_far: Optional[bool] = None

    def __init__(self, features: Features, keep: bool = True, dtype: Optional[torch.dtype] = None) -> None:
        self.n, self._width = features.shape
        self.device = features.device
        self.noise = noise_level(features.dtype)
        self.dtype = dtype or distance_dtype(features.dtype, self.n, self.device)
        self.unit = power_of_two(features.largest())
        self.rounding = features.rounding / self.unit
        self._features = features
        self._middle = features.middle().to(self.dtype) / self.unit
        self._kept: Optional[Tensor] = None
        if keep and self.n * self._width <= _KEPT_NUMBERS:
            self._kept = self._shifted(slice(0, self.n), slice(0, self._width))

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        symmetric = rows == columns
        longest = max(len(range(*each.indices(self.n))) for each in (rows, columns))
        width = max(1, min(_READ_COLUMNS, _READ_NUMBERS // longest))

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, self._width, width):
                part = slice(start, min(start + width, self._width))
                left = self._read(rows, part)
                yield left, left if symmetric else self._read(columns, part)

        with changed_state(torch.no_grad(), full_precision(self.device)), interruptible():
            if self.all_far is False or (rechecks is None and self.all_far is None):
                return block_distances(chunks, symmetric=symmetric, single=self._width <= width)[0]
            distances, needs_recheck = fast_distances(chunks, symmetric=symmetric, single=self._width <= width)
        if rechecks is not None and self.all_far is None:
            rechecks.append(needs_recheck)
        return distances

    def shift(self) -> tuple[Tensor, bool]:
        step = max(1, self.n // _ANCHORS)
        if step == 1:  # few inputs: compute all distances
            return u_shift(self.block(slice(0, self.n), slice(0, self.n)), widest(self.device)), True
        anchors = slice(0, self.n, step)
        means = []
        for start in range(0, self.n, _ANCHORS * 8):
            rows = slice(start, min(start + _ANCHORS * 8, self.n))
            # An estimate needs no exact treatment of close pairs, which would synchronize a GPU.
            rechecks: Optional[list[Tensor]] = [] if is_async_device(self.device) else None
            means.append(self.block(rows, anchors, rechecks).mean(1, dtype=widest(self.device)))
        found = torch.cat(means)
        return found - found[anchors].mean() / 2, False

    def matrix(self) -> MatrixDistances:
        """All distances in one matrix."""
        return MatrixDistances(self.block(slice(0, self.n), slice(0, self.n)), self.noise, self.rounding)

    def _read(self, rows: slice, columns: slice) -> Tensor:
        return self._shifted(rows, columns) if self._kept is None else self._kept[rows, columns]

    def _shifted(self, rows: slice, columns: slice) -> Tensor:
        values = self._features.read(rows, columns).to(self.dtype)
        return (values if self.unit == 1 else values / self.unit) - self._middle[columns]
