r"""Geometries of single classes: one class against the rest.

Let the distance of two inputs be :math:`\sqrt 2` if exactly one of them is in class c, else 0. Its U-centered matrix
:math:`G_c` has three values. The rows of a U-centered matrix P add up to 0, so within a row

.. math:: \sum_j P_{ij} (G_c)_{ij} = \bigl(u_{out} - u_{in} \mp \sqrt 2\bigr) s_i, \qquad s_i = \sum_{j \in c} P_{ij},

with minus for an input inside the class and plus outside; u is the vector that U-centers the distances. So sums over the
class's columns give all inner products with :math:`G_c`, and with them scores, leave-one-out values and intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kd.distance.centering import noise_level
from captum_kd.distance.gram import correlation_of
from captum_kd.metrics.inference.class_sides import Sides
from captum_kd.metrics.inference.gram_matrices import LEFT_OUT_SHARE, Score

__all__ = ["ONE_CLASS", "OneAgainstRest", "one_hot"]

ONE_CLASS = "\0class"
"""The name of the class's geometry in the scores of :class:`OneAgainstRest`."""


def one_hot(labels: Tensor, classes: Tensor) -> Tensor:
    """(n, C) float64, 1 for the members of each class."""
    return (labels[:, None] == classes).double()


class OneAgainstRest:
    """Relevance of one class against the rest. A class of one input, or of all but one, has no geometry.

    Args:
        sides (Sides): the sides of scores, of k geometries.
        sums (Tensor): (k, n), sums of the U-centered rows over the class's members
            (:attr:`~captum_kd.distance.block_sums.PairSums.by_class`).
        members (Tensor): (n,) booleans.

    Attributes:
        full (Tensor): (k + 1,), inner products of the class's geometry with the k geometries and with itself.
        without (Tensor): (k + 1, n), the same with each input left out.
        noise (float): the largest squared norm of the class's geometry that counts as rounding.
    """

    def __init__(self, sides: Sides, sums: Tensor, members: Tensor) -> None:
        n, inside = len(members), int(members.sum())
        outside, step, pairs = n - inside, 2**0.5, n * (n - 3)
        middle = step * inside * outside / ((n - 1) * (n - 2))
        u_in, u_out = step * outside / (n - 2) - middle, step * inside / (n - 2) - middle
        across, tilt = step - u_in - u_out, u_out - u_in
        is_in = members.to(sums)
        of_inside = (inside - 1) * (2 * u_in) ** 2 + outside * across**2
        of_outside = (outside - 1) * (2 * u_out) ** 2 + inside * across**2
        own = of_outside + (of_inside - of_outside) * is_in
        by_row = torch.cat([(tilt + step - 2 * step * is_in) * sums, own[None]])
        total = by_row.sum(1)
        self._sides = sides
        self.full = total / pairs
        self.without = (total[:, None] - by_row * (2 * (n - 2) / (n - 3))) / ((n - 1) * (n - 4))
        self.noise = 2 * step**2 * inside * outside * noise_level(torch.float64) ** 2 / pairs

    def score(self, score: Score) -> tuple[float, bool]:
        """The score of a side and :data:`ONE_CLASS`, and whether it is defined; 0 if not."""
        value, defined = self._correlation(score, False)
        return float(value), bool(defined)

    def leave_one_out(self, score: Score) -> tuple[Tensor, bool]:
        """The score without each input, (n,), and whether all of them are defined."""
        values, defined = self._correlation(score, True)
        return values, bool(defined.all())

    def _correlation(self, score: Score, left_out: bool) -> tuple[Tensor, Tensor]:
        side, of_class = self._sides.of(score.x, left_out), self.without if left_out else self.full
        noise = max(self.noise, LEFT_OUT_SHARE * float(self.full[-1])) if left_out else self.noise
        defined = side.defined & (of_class[-1] > noise)
        product = torch.stack([value * of_class[place] for place, value in side.terms]).sum(0)
        return correlation_of(product, side.square, of_class[-1], defined), defined
