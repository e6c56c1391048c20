r"""Seed control of scores given several Bases: each Base in turn is left out and takes a Student's place.

A Student given all K Bases cannot be compared with a Base given all K Bases, which has nothing left. So each Base b is left out
in turn, and Students and b are scored given the other K - 1 Bases, which none of them is. The statistic is

.. math:: T = \text{mean}_{s, b}\, R(P_{s | B \setminus b}, P) - \text{mean}_b\, R(P_{b | B \setminus b}, P),

with P the geometry of the labels or of the Teacher. With two Bases it is the statistic of pairs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import check_int
from captum_kd.distance.gram import correlations_given, remainder
from captum_kd.metrics.inference.gram_matrices import Products, Score, Side, as_names, check_products, check_score
from captum_kd.metrics.inference.seed_tests import SeedTest, check_models, relabelings_of, test_of

__all__ = ["LeftOutScores", "left_out_scores"]

LEAST_BASES = 3
"""With two Bases, one is removed at a time, and the test is that of pairs."""
_NUMBERS = 1 << 22  # held at once, 32 MB


class LeftOutScores(NamedTuple):
    """Scores of Students and Bases given all Bases but one, and their statistic under every relabeling.

    Attributes:
        scores (Tensor): (M + K, K) float64 on the CPU. Entry (i, b) is the score of model i, Students first, given all Bases but
            b. NaN if it is undefined, and for all Bases but b itself, which are removed.
        statistics (Tensor): (relabelings,) float64, the true labels first; NaN if a score is undefined.
    """

    scores: Tensor
    statistics: Tensor

    def test(self) -> Optional[SeedTest]:
        """The exact test; None if a score under some relabeling is undefined."""
        return test_of(self.statistics) if bool(torch.isfinite(self.statistics).all()) else None


def left_out_scores(
    products: Products, models: Sequence[str], students: int, target: Side, *, shared_seeds: Sequence[tuple[int, int]] = ()
) -> LeftOutScores:
    r"""Scores for seed control of Students given several Bases, under every relabeling of Students and Bases.

    The test of :meth:`LeftOutScores.test` is exact. Let the null hypothesis hold: Students and Bases are exchangeable, so any
    permutation of the models leaves the joint distribution of their geometries as it is. The statistic is one function of the
    geometries and of the set of models called Bases. It treats these models alike, and the other models alike: each Base is left
    out once, and every Student is scored with each. Permuting the models therefore permutes the statistics of the
    relabelings, and the rank of the true labels' statistic among all of them is uniform, up to ties. So p <= a has at most
    probability a. It does not matter that the same models are removed in many of the scores, since no independence is used.

    A Student whose own Base, of the same seed, is among the removed ones is not scored there: its Base resembles it more than
    others do. It is scored where its own Base is the one left out. Models of one seed are exchanged only with each other, which
    keeps this rule and no other symmetry is needed. Two Bases never share a seed.

    Each set of K - 1 removed models is eliminated once for all relabelings that use it: C(M + K, K - 1) sets, for example 210 for
    5 Students and 5 Bases, with 1,260 scores for 252 relabelings.

    Args:
        products (Products): products of the geometries of all models and of the target.
        models (sequence of str): the models' names, Students first, then at least three Bases.
        students (int): M, the number of Students.
        target (str or tuple): ``"labels"``, ``"teacher"``, or ``("teacher", "labels")`` for the Teacher beyond the labels.
        shared_seeds (sequence of (int, int)): see :func:`seed_test`.

    Returns:
        LeftOutScores: float64 on the CPU.

    Raises:
        ValueError: fewer than three Bases, an unknown geometry, a model in two pairs, or more than a million relabelings.

    Source: docs/inference.md (several Bases).

    Example::

        >>> left_out_scores(products, students + bases, len(students), "labels").test()
        SeedTest(statistic=0.019, p_value=0.004, smallest_p_value=0.004, relabelings=252)
    """
    check_products(products)
    check_score(products, Score(target, target), "target")
    for name in as_names(models, "models"):
        check_score(products, Score(name, name), "models")
    students = check_int(students, "students")
    bases = len(models) - students
    check_models(students, bases, shared_seeds, least_bases=LEAST_BASES)
    gram, noise = _gram_with_target(products, models, target)
    left_out, without, removed = _relabeled(students, len(models), tuple(map(tuple, shared_seeds)))
    partner = torch.arange(len(models), device="cpu")
    for s, b in shared_seeds:
        partner[s], partner[students + b] = students + b, s
    is_removed = torch.zeros(len(removed), len(models), dtype=torch.bool, device="cpu").scatter_(1, removed, True)
    is_scored = ~(is_removed | is_removed[:, partner])
    scores = _scores_given(gram, noise, removed)
    # The models that are scored given a set are the Students and the Base that is left out.
    totals, counts = torch.where(is_scored, scores, 0.0).sum(1), is_scored.sum(1)
    of_bases = scores[without, left_out]
    of_students = (totals[without] - of_bases).sum(1) / (counts[without] - 1).sum(1)
    shown = torch.where(is_scored, scores, torch.nan)[without[0]].T
    shown[students:] = torch.where(torch.eye(bases, dtype=torch.bool, device="cpu"), shown[students:], torch.nan)
    return LeftOutScores(shown, of_students - of_bases.mean(1))


@lru_cache(maxsize=1)  # one for all layers and targets
def _relabeled(students: int, models: int, shared_seeds: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The Bases (relabelings, K) of each relabeling, the place of the set without each of them, and the sets (sets, K - 1)."""
    bases: list[list[int]] = []
    places: list[list[int]] = []
    place_of: dict[int, int] = {}  # by the set as the bits of an integer
    for chosen in map(set, relabelings_of(students, models, shared_seeds)):
        bases.append([model for model in range(models) if model not in chosen])
        bits = sum(1 << base for base in bases[-1])
        places.append([place_of.setdefault(bits ^ 1 << base, len(place_of)) for base in bases[-1]])
    sets = [[model for model in range(models) if bits >> model & 1] for bits in place_of]
    found = [torch.tensor(each, device="cpu") for each in (bases, places, sets)]
    return found[0], found[1], found[2]


def _gram_with_target(products: Products, models: Sequence[str], target: Side) -> tuple[Tensor, Tensor]:
    """Gram matrix and noise of the models and, as the last geometry, of the target after its own removal."""
    of, *removed = [products.names.index(name) for name in ((target,) if isinstance(target, str) else target)]
    full, noise = products.full.cpu(), products.noise.cpu()
    aim = remainder(full, noise, of, removed)
    places = [products.names.index(name) for name in models]
    basis = torch.cat([torch.eye(len(full), dtype=full.dtype, device="cpu")[places], aim.coefficients[None]])
    # A target without geometry is rounding, however large.
    least = torch.where(aim.defined, noise[of], torch.inf)
    return basis @ full @ basis.mT, torch.cat([noise[places], least[None]])


def _scores_given(gram: Tensor, noise: Tensor, removed: Tensor) -> Tensor:
    """(sets, models) correlations with the target, the last geometry, given each set (sets, K - 1); NaN where undefined."""
    models, count = len(gram) - 1, removed.shape[1]
    scores = torch.full((len(removed), models), torch.nan, dtype=gram.dtype, device="cpu")
    step = max(1, _NUMBERS // len(gram) ** 2)
    for start in range(0, len(removed), step):
        given = removed[start : start + step]
        is_left = torch.ones(len(given), models, dtype=torch.bool, device="cpu").scatter_(1, given, False)
        others = is_left.nonzero()[:, 1].view(len(given), -1)
        # The removed models first and the target last, so that places are the same in all sets.
        order = torch.cat([given, others, torch.full((len(given), 1), models, device="cpu")], 1)
        values, defined = correlations_given(gram[order[:, :, None], order[:, None]], noise[order], -1, range(count))
        found = torch.where(defined, values, torch.nan)[:, count:-1]
        scores[start : start + step] = scores[start : start + step].scatter(1, others, found)
    return scores
