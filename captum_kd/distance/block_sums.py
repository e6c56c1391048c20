r"""Sums over tiles of distance matrices, from which the Gram matrix of centered distances follows.

For distances A and B of n inputs with row sums a and b, U-centering gives

.. math::
    \langle P, Q\rangle = \sum_{i \ne j} A_{ij} B_{ij} - \frac{2}{n-2}\, a \cdot b + \frac{a_{..}\, b_{..}}{(n-1)(n-2)},

so no n x n matrix has to be held. The three terms are large and their difference is small, which would lose digits.
U-centering removes every term of the form c_i + c_j. An estimate of these terms is therefore subtracted from each tile
first, so that the sums are as small as the result. Every other centering of
:data:`~captum_kd.distance.centering.CENTERINGS` follows from the same sums.

The sums of different tiles can be added in any order. Each rank of a process group sums its own tiles; an all-reduce adds
the sums of all ranks.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd.distance.centering import Estimator, centering_of
from captum_kd.distance.gram import gram_of
from captum_kd.distance.pairwise import is_async_device
from captum_kd.distance.sources import DistanceSource, FeatureDistances

__all__ = ["LocalTiles", "PairSums", "TileCallback", "TileIterator", "block_side", "parts", "population_sums", "tiles"]

# Inputs per side of a tile on a CPU: large enough for the matrix product, small enough for a core's cache.
_CPU_BLOCK = 512
# Inputs per side of a tile on a GPU, where starting a kernel takes microseconds.
_DEVICE_BLOCK = 4096
# float64 numbers processed at once on a CPU: 2 MB, which stay in a core's cache.
_CPU_WORK = 1 << 18
# The same on a GPU: 256 MB of its memory.
_DEVICE_WORK = 1 << 25
# Up to this number of rows a GPU computes one dot product per pair; one matrix product of few, long rows is several times slower.
_MOST_DOTS = 3
# If the shifted sums exceed the result by this factor, the estimated shift was bad (far outliers).
_BAD_SHIFT = 1e4

TileCallback = Callable[[slice, slice], None]
"""Called with the rows and columns of a tile."""


class PairSums:
    """Sums of k geometries over pairs of inputs.

    Args:
        shifts (Tensor): (k, n), float64: the vectors that are subtracted from the rows and columns of every tile. All
            ranks need the same ones.
        by_row (bool): also sum the products within each row, for leave-one-out scores. The shifts must then U-center
            exactly (:meth:`u_shifts` of a first pass).
        classes (Tensor, optional): (n, C) float64, 1 for the members of each class: also sum each row over the members of each
            class. The shifts must then U-center exactly.
        with_squares (bool): the second half of the k geometries are the squared distances of the first half.

    Attributes:
        rows (Tensor): (k, n) sums of the shifted distances over each row.
        products (Tensor): (k, k) sums of products over all ordered pairs of different inputs.
        by_row (Tensor, optional): (n, k, k) sums of products over each row.
        by_class (Tensor, optional): (k, n, C) sums of each row over the members of each class.
    """

    def __init__(
        self, shifts: Tensor, by_row: bool = False, classes: Optional[Tensor] = None, with_squares: bool = False
    ) -> None:
        k, n = shifts.shape
        self.with_squares = with_squares
        self.shifts = shifts
        self.rows = torch.zeros_like(shifts)
        self.products = shifts.new_zeros((k, k))
        self.by_row: Optional[Tensor] = shifts.new_zeros((n, k, k)) if by_row else None
        self.by_class: Optional[Tensor] = None if classes is None else shifts.new_zeros((k, n, classes.shape[1]))
        self._classes = classes

    @property
    def n(self) -> int:
        return self.shifts.shape[1]

    def add(self, distances: Sequence[Tensor], rows: slice, columns: slice) -> None:
        """Adds one tile of all k geometries. A tile off the diagonal counts twice; do not add its transpose.

        Args:
            distances (sequence of Tensor): k raw distances (r, c), float32 or float64; with squares, those of the first half.
            rows, columns (slice): indices of the inputs in the population: equal ranges or disjoint ones.
        """
        (r, c), k, given = distances[0].shape, len(self.shifts), len(distances)
        on_diagonal = rows == columns
        weight = 1 if on_diagonal else 2  # both (i, j) and (j, i)
        step = max(1, (_DEVICE_WORK if is_async_device(self.shifts.device) else _CPU_WORK) // (k * c))
        buffer = self.shifts.new_empty((k, min(step, r), c))
        for start in range(0, r, step):
            stop = min(start + step, r)
            here, work = slice(rows.start + start, rows.start + stop), buffer[:, : stop - start]
            for place, block in enumerate(distances):
                work[place].copy_(block[start:stop])
            if self.with_squares:
                torch.square(work[:given], out=work[given:])
            work.sub_(self.shifts[:, here, None]).sub_(self.shifts[:, None, columns])
            if on_diagonal:
                work.diagonal(start, dim1=1, dim2=2).zero_()
            else:
                self.rows[:, columns] += work.sum(1)
            self.rows[:, here] += work.sum(2)
            if self.by_class is not None and self._classes is not None:
                self.by_class[:, here] += work @ self._classes[columns]
                if not on_diagonal:
                    self.by_class[:, columns] += work.mT @ self._classes[here]
            if self.by_row is None:
                self.products += _inner_products(work.flatten(1)).mul_(weight)
            else:
                of_rows = work.permute(1, 0, 2)
                found = torch.bmm(of_rows, of_rows.mT)
                self.by_row[here] += found
                self.products += found.sum(0).mul_(weight)
                if not on_diagonal:
                    of_columns = work.permute(2, 0, 1).contiguous()
                    self.by_row[columns] += torch.bmm(of_columns, of_columns.mT)

    def of(self, *places: int) -> "PairSums":
        """The sums of some geometries."""
        chosen = list(places)
        some = PairSums(self.shifts[chosen])
        some.rows, some.products = self.rows[chosen], self.products[chosen][:, chosen]
        some.by_row = None if self.by_row is None else self.by_row[:, chosen][:, :, chosen]
        some.by_class = None if self.by_class is None else self.by_class[chosen]
        return some

    def gram(self, estimator: Estimator = "unbiased") -> Tensor:
        """(k, k) inner products of the centered matrices: sums over all entries."""
        left = self.u_shifts(estimator) - self.shifts  # to be taken from the shifted distances
        rows, products, weight = self.rows, self.products, 2 * (self.n - 2)
        if not centering_of(estimator).has_zero_diagonal:
            # The diagonal counts. It is -2c after the shift.
            rows, products, weight = rows - 2 * self.shifts, products + 4 * self.shifts @ self.shifts.T, 2 * self.n
        cross, totals = rows @ left.T, left.sum(1)
        return products - 2 * (cross + cross.T) + weight * left @ left.T + 2 * torch.outer(totals, totals)

    def raw_squares(self) -> Tensor:
        """(k,) squared Frobenius norms of the raw distances."""
        shifts, n = self.shifts, self.n
        found = self.products.diagonal() + 4 * (self.rows * shifts).sum(1)
        return found + 2 * (n - 2) * shifts.square().sum(1) + 2 * shifts.sum(1).square()

    def u_shifts(self, estimator: Estimator = "unbiased") -> Tensor:
        """(k, n) the vectors u with P_ij = D_ij - u_i - u_j, for i != j."""
        raw = self.rows + (self.n - 2) * self.shifts + self.shifts.sum(1, keepdim=True)
        return centering_of(estimator).shift(raw, raw.sum(1, keepdim=True), self.n)

    def without_each(self) -> Tensor:
        r"""(n, k, k) inner products with each input left out, divided by (n - 1)(n - 4).

        With :math:`e_k = \sum_j P_{kj} Q_{kj}`, leaving input k out and centering the rest again gives

        .. math::
            \langle P, Q\rangle_{(k)} = \frac{\sum_i e_i - 2\,\frac{n-2}{n-3}\, e_k}{(n-1)(n-4)}

        exactly. U-centering removes every term of the form u_i + u_j, so submatrices of P and of D center to the same
        matrix. The rows of P without column k sum to :math:`-P_{ik}`. Starting from P instead of D avoids the cancellation
        of large sums.
        """
        if self.by_row is None:
            raise ValueError("Leave-one-out products need sums by row; pass by_row=True.")
        n = self.n
        return (self.products - self.by_row * (2 * (n - 2) / (n - 3))) / ((n - 1) * (n - 4))


def _inner_products(rows: Tensor) -> Tensor:
    """(k, k) inner products of k long rows."""
    by_dots = is_async_device(rows.device) and len(rows) <= _MOST_DOTS
    return gram_of(rows.unbind()) if by_dots else rows @ rows.T


def block_side(device: torch.device) -> int:
    """The default number of inputs per side of a tile."""
    return _DEVICE_BLOCK if is_async_device(device) else _CPU_BLOCK


def tiles(n: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal of an (n, n) matrix, which hold each pair of inputs once."""
    return combinations_with_replacement(parts(slice(0, n), size), 2)


def parts(whole: slice, size: int) -> Iterator[slice]:
    """Splits a range into parts of a size; the last part may be smaller."""
    for start in range(whole.start, whole.stop, size):
        yield slice(start, min(start + size, whole.stop))


class TileIterator(Protocol):
    """Iterates over the tiles of this rank and adds up the sums of all ranks."""

    def each(self, sources: Sequence[DistanceSource], block_size: int, callback: TileCallback) -> None:
        """Calls a function with the rows and columns of each tile of this rank, while the sources can give its distances.

        Every pair of inputs is in one tile of one rank. The rows equal the columns or come before them.
        """

    def all_reduce_sum(self, *values: Tensor) -> None:
        """Replaces tensors by their sums over all ranks."""


class LocalTiles:
    """Iterates over all tiles, for a process without a process group."""

    def each(self, sources: Sequence[DistanceSource], block_size: int, callback: TileCallback) -> None:
        for rows, columns in tiles(sources[0].n, block_size):
            callback(rows, columns)

    def all_reduce_sum(self, *values: Tensor) -> None:
        pass


def population_sums(
    sources: Sequence[DistanceSource],
    *,
    by_row: bool = False,
    classes: Optional[Tensor] = None,
    with_squares: bool = False,
    block_size: Optional[int] = None,
    tile_iterator: TileIterator = LocalTiles(),
) -> PairSums:
    """The sums over a whole population, in one or two passes over its tiles.

    Args:
        sources (sequence of DistanceSource): k sources of the same inputs, on one device.
        by_row (bool): also sum within rows. Distances that are not held are then computed twice, because the shifts that
            U-center exactly are known only after a first pass.
        classes (Tensor, optional): (n, C), 1 for the members of each class; with ``by_row``, also sum rows over classes.
        with_squares (bool): add k geometries, the squared distances.
        block_size (int, optional): inputs per side of a tile; default: :func:`block_side`.
        tile_iterator (TileIterator): iterates over the tiles; another one for populations that are sharded over ranks.

    Returns:
        PairSums: float64 if the device supports it.
    """
    size = block_side(sources[0].device) if block_size is None else block_size
    passes = _Passes(sources, size, tile_iterator, classes, with_squares)
    of_sources, exact = zip(*(source.shift() for source in sources))
    shifts, is_exact = torch.stack(of_sources), all(exact) and not with_squares
    if with_squares:  # if D is about u_i + u_j with similar u_i and u_j, D^2 is about 2 u_i^2 + 2 u_j^2
        shifts = torch.cat([shifts, 2 * shifts.square()])
    sums = passes.over(shifts, by_row and is_exact)
    if not is_exact and (by_row or bool((sums.products.diagonal() > _BAD_SHIFT * sums.gram().diagonal()).any())):
        sums = passes.over(sums.u_shifts(), by_row)
    return sums


class _Passes(NamedTuple):
    """Passes over all tiles of a population."""

    sources: Sequence[DistanceSource]
    block_size: int
    tile_iterator: TileIterator
    classes: Optional[Tensor]
    with_squares: bool

    def over(self, shifts: Tensor, by_row: bool) -> PairSums:
        """The sums of one pass.

        On a GPU the first attempt does not treat close pairs exactly, since looking for them would synchronize the device
        for every tile. The pass is repeated if there was a close pair.
        """
        computed = [source for source in self.sources if isinstance(source, FeatureDistances)]
        if is_async_device(shifts.device) and not any(source.all_far is False for source in computed):
            rechecks: list[Tensor] = []
            sums = self._once(shifts, by_row, rechecks)
            needs_recheck = torch.stack(rechecks).any() if rechecks else shifts.new_zeros(())
            found = needs_recheck.to(shifts.dtype).reshape(1)
            self.tile_iterator.all_reduce_sum(found)
            all_far = not bool(found)
            for source in computed:
                source.all_far = all_far  # for the passes that follow
            if all_far:
                return sums
        return self._once(shifts, by_row)

    def _once(self, shifts: Tensor, by_row: bool, rechecks: Optional[list[Tensor]] = None) -> PairSums:
        sums = PairSums(shifts, by_row, self.classes if by_row else None, self.with_squares)

        def add(rows: slice, columns: slice) -> None:
            sums.add([source.block(rows, columns, rechecks) for source in self.sources], rows, columns)

        self.tile_iterator.each(self.sources, self.block_size, add)
        optional = [each for each in (sums.by_row, sums.by_class) if each is not None]
        self.tile_iterator.all_reduce_sum(sums.rows, sums.products, *optional)
        return sums
