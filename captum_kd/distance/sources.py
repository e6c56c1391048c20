"""Sources of distances, tile by tile: matrices in memory, or features.

Whoever consumes blocks (:mod:`captum_kd.distance.block_sums`) does not know which, nor where the features are.
"""

from __future__ import annotations

from typing import Iterator, Optional, Protocol

import torch
from torch import Tensor

from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import largest_of
from captum_kd.distance.centering import noise_level, u_shift
from captum_kd.distance.pairwise import CHUNK, block_distances, fast_distances, is_async_device, power_of_two
from captum_kd.distance.precision import distance_dtype, full_precision, widest

__all__ = ["DistanceSource", "FeatureDistances", "Features", "MatrixDistances", "TensorFeatures"]

# Anchors: inputs from whose distances alone the others' places are guessed.
_ANCHORS = 256
# Numbers of a chunk of columns (128 MB of float64).
_READ_NUMBERS = 1 << 24
# Shifted features that may be kept beside the features themselves (64 MB of float32).
_KEPT_NUMBERS = 1 << 24


class DistanceSource(Protocol):
    """Distances of one set of features between the inputs of a population.

    Attributes:
        n (int): inputs.
        device (torch.device): of the blocks.
        noise (float): norms at most this share of the distances' norm are rounding.
        rounding (float): by which distance rounding may have moved each input at most, in units of the distances; 0 where
            features are no averages of larger numbers.
    """

    n: int
    device: torch.device
    noise: float
    rounding: float

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        """Distances (r, c), float32 or float64, of two ranges of inputs; 0 where an input meets itself.

        With ``rechecks``, digits of pairs that are close may be missing, and a Boolean tensor that says whether they are is
        appended, unless it is known that none are: the device is not asked for it.
        """

    def shift(self) -> tuple[Tensor, bool]:
        """A vector u (n,), float64, with D_ij - u_i - u_j small, and whether it is the one that U-centers exactly."""


class MatrixDistances:
    """Distances that are there.

    Args:
        matrix (Tensor): (n, n) symmetric, zero diagonal, float32 or float64.
        noise (float, optional): of the features behind them, where they are wider than these; by default that
            of the matrix's dtype.
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
    """Features (n, d) that can be read in parts, wherever they are kept.

    Attributes:
        shape (tuple of int): (n, d).
        dtype (torch.dtype): float32 or float64, of what is read.
        device (torch.device): likewise.
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
        """(d,) a point in the features' midst, their mean."""

    def largest(self) -> float:
        """The largest absolute value; not finite where one of them is not."""


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
    """Distances that are computed where they are asked for, in units of a power of two.

    Attributes:
        unit (float): 1 but for features whose squares would overflow or vanish.
        dtype (torch.dtype): in which they are computed.
        apart (bool, optional): whether all inputs are so far apart that no pair of them has to be subtracted; None where
            that is not known.

    Args:
        features (Features): (n, d).
        keep (bool): shifted copies of few features, so that they are read once.

    Raises:
        ValueError: non-finite features.
    """

    all_far: Optional[bool] = None

    def __init__(self, features: Features, keep: bool = True) -> None:
        self.n, self._width = features.shape
        self.device = features.device
        self.noise = noise_level(features.dtype)
        self.dtype = distance_dtype(features.dtype, self.n, self.device)
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
        width = max(1, min(CHUNK, _READ_NUMBERS // longest))

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
        if step == 1:  # so few that all can be looked at
            return u_shift(self.block(slice(0, self.n), slice(0, self.n)), widest(self.device)), True
        anchors = slice(0, self.n, step)
        means = []
        for start in range(0, self.n, _ANCHORS * 8):
            rows = slice(start, min(start + _ANCHORS * 8, self.n))
            # A guess needs no more digits than the device gives without being asked.
            rechecks: Optional[list[Tensor]] = [] if is_async_device(self.device) else None
            means.append(self.block(rows, anchors, rechecks).mean(1, dtype=widest(self.device)))
        found = torch.cat(means)
        return found - found[anchors].mean() / 2, False

    def matrix(self) -> MatrixDistances:
        """All distances, computed and held."""
        return MatrixDistances(self.block(slice(0, self.n), slice(0, self.n)), self.noise, self.rounding)

    def _read(self, rows: slice, columns: slice) -> Tensor:
        return self._shifted(rows, columns) if self._kept is None else self._kept[rows, columns]

    def _shifted(self, rows: slice, columns: slice) -> Tensor:
        values = self._features.read(rows, columns).to(self.dtype)
        return (values if self.unit == 1 else values / self.unit) - self._middle[columns]
