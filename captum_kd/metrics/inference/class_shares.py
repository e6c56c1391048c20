r"""Correlations within the rows of one class: how far two geometries agree on the pairs with an input of the class.

.. math::
    R_c(Q, T) = \frac{\langle Q, T\rangle_c}{\sqrt{\langle Q, Q\rangle_c \langle T, T\rangle_c}},
    \qquad \langle Q, T\rangle_c = \sum_{i \in c} \sum_j Q_{ij} T_{ij}

Q and T are centered over all inputs, and the removal in Q is that of all inputs. Leaving input k out centers the rest again,

.. math:: P^{(k)}_{ij} = P_{ij} + a (P_{ik} + P_{jk}), \qquad a = 1 / (n - 3),

which changes every row. Without these terms the standard error is up to three times too small
(``docs/scripts/simulate_classes.py``). They need one more pass over the distances.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Iterator, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.distance.block_sums import LocalTiles, PairSums, TileIterator, block_side
from captum_kd.distance.gram import correlation_of
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics.inference.class_sides import OneSide, Sides
from captum_kd.metrics.inference.gram_matrices import Score

__all__ = ["ClassRows", "left_out_rows"]

# float64 numbers of leave-one-out products at once (512 MB).
_NUMBERS = 1 << 26


class ClassRows:
    """Products within the rows of a class, over all inputs and with each input left out.

    Args:
        sides (Sides): the sides of scores, of k geometries.
        members (Tensor): (n,) booleans.
        without (Tensor, optional): (k, k, n), the sums over the class's rows with each input left out.
    """

    def __init__(self, sides: Sides, members: Tensor, without: Optional[Tensor] = None) -> None:
        self._sides = sides
        self._rows = sides.rows[members].sum(0) * (len(members) * (len(members) - 3))
        self._without = without

    def score(self, score: Score) -> tuple[float, bool]:
        """The correlation, and whether it is defined; 0 if not."""
        value, defined = self._correlation(self._rows, score, False)
        return float(value), bool(defined)

    def leave_one_out(self, score: Score) -> tuple[Tensor, bool]:
        """The correlation without each input, (n,), and whether all of them are defined."""
        assert self._without is not None
        values, defined = self._correlation(self._without, score, True)
        return values, bool(defined.all())

    def _correlation(self, rows: Tensor, score: Score, left_out: bool) -> tuple[Tensor, Tensor]:
        left, right = (self._sides.of(side, left_out) for side in score)

        def product(first: OneSide, second: OneSide) -> Tensor:
            parts = [value * other * rows[p, q] for p, value in first.terms for q, other in second.terms]
            return torch.stack(parts).sum(0)

        squares = product(left, left), product(right, right)
        # A class far from all variation has rows of rounding only.
        defined = left.defined & right.defined & (squares[0] > 0) & (squares[1] > 0)
        return correlation_of(product(left, right), *squares, defined), defined


def left_out_rows(
    sources: Sequence[DistanceSource],
    sums: PairSums,
    classes: Tensor,
    *,
    block_size: Optional[int] = None,
    tile_iterator: TileIterator = LocalTiles(),
) -> Iterator[Tensor]:
    r"""Sums of products over the rows of each class, with each input left out, in one pass over the distances.

    With a class c, :math:`e_i = \langle P, Q\rangle_i`, :math:`f_k = \sum_{i \in c} P_{ik} Q_{ik}` and
    :math:`s_j = \sum_{i \in c} P_{ij}`, the sums without an input k outside the class are

    .. math::
        \sum_{i \in c} e_i - (1 + 2a - (n - 5) a^2) f_k + a \sum_j (s^P_j Q_{jk} + s^Q_j P_{jk}) + a^2 |c| e_k.

    For k inside the class, :math:`(1 + 2a + a^2) e_k` is subtracted too.

    Args:
        sources (sequence of DistanceSource): k sources of the same inputs.
        sums (PairSums): their sums by row and by class.
        classes (Tensor): (n, C), as in ``sums``.

    Returns:
        iterator of Tensor: (k, k, n) for each class. One of them at a time is in memory, since many classes would not fit.
    """
    k, n, c = len(sources), sums.n, classes.shape[1]
    assert sums.by_row is not None and sums.by_class is not None
    pairs, a = list(combinations_with_replacement(range(k), 2)), 1 / (n - 3)
    by_row = sums.by_row.movedim(0, 2).contiguous()
    width = max(1, _NUMBERS // (len(pairs) * n))
    for start in range(0, c, width):
        chosen, of_class = classes[:, start : start + width], sums.by_class[:, :, start : start + width]
        moved = _moved_rows(sources, sums, chosen, of_class, pairs, block_size or block_side(sources[0].device), tile_iterator)
        for members, change in zip(chosen.T, moved.unbind(-1)):
            weights = a**2 * members.sum() - (1 + a) ** 2 * members
            both = by_row.new_empty(k, k, n)
            for place, (p, q) in enumerate(pairs):
                both[p, q] = both[q, p] = change[place] + by_row[p, q] @ members + by_row[p, q] * weights
            yield both


def _moved_rows(
    sources: Sequence[DistanceSource],
    sums: PairSums,
    classes: Tensor,
    by_class: Tensor,
    pairs: Sequence[tuple[int, int]],
    block_size: int,
    tile_iterator: TileIterator,
) -> Tensor:
    """(pairs, n, C): the terms with products over the columns of each class."""
    n, a = sums.n, 1 / (sums.n - 3)
    weight = -(1 + 2 * a - (n - 5) * a**2)
    moved = sums.shifts.new_zeros(len(pairs), n, classes.shape[1])

    def add_columns(tile: Tensor, inside: slice, outside: slice) -> None:
        """From a tile (k, r, c), whose rows are summed, to its columns."""
        for place, (p, q) in enumerate(pairs):
            moved[place, outside] += (tile[p] * tile[q]).T @ classes[inside] * weight
            moved[place, outside] += a * (tile[q].T @ by_class[p, inside] + tile[p].T @ by_class[q, inside])

    def add(rows: slice, columns: slice) -> None:
        tile = torch.stack([source.block(rows, columns).to(sums.shifts) for source in sources])
        tile.sub_(sums.shifts[:, rows, None]).sub_(sums.shifts[:, None, columns])
        if rows == columns:
            tile.diagonal(dim1=1, dim2=2).zero_()
        else:
            add_columns(tile.mT, columns, rows)
        add_columns(tile, rows, columns)

    tile_iterator.each(sources, block_size, add)
    tile_iterator.all_reduce_sum(moved)
    return moved
