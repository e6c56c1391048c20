r"""Seed control: exact tests over models that were trained with different random seeds.

Under the null hypothesis distillation has no effect, so Students and Bases are exchangeable: every relabeling of the M + K
trained models as M Students and K Bases is equally likely. The p-value is the fraction of relabelings whose statistic is at
least the observed one. All relabelings are counted, so the p-value is exact. It is at least one over their number.
"""

from __future__ import annotations

from itertools import combinations, islice, product
from math import comb
from typing import Iterator, NamedTuple, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import check_int, check_bool, check_float, check_dense, short_repr

__all__ = ["SeedTest", "holm", "seed_test"]

MOST_RELABELINGS = 1_000_000
_BATCH = 8192
# Relabelings of equal statistic differ by the rounding of sums of scores, which lie in [-1, 1].
_TIE = 1e-12


class SeedTest(NamedTuple):
    """Outcome of a test over seeds.

    Attributes:
        statistic (float): mean score of Student-Base pairs minus mean score of Base-Base pairs, or the reverse (see
            :func:`seed_test`); a positive value is evidence for a difference.
        p_value (float): the fraction of relabelings whose statistic is at least as large.
        smallest_p_value (float): one over the number of relabelings, the smallest possible p-value.
        relabelings (int): number of relabelings.
    """

    statistic: float
    p_value: float
    smallest_p_value: float
    relabelings: int


def seed_test(
    scores: Tensor,
    students: int,
    *,
    larger: bool = True,
    shared_seeds: Sequence[tuple[int, int]] = (),
) -> SeedTest:
    r"""Exact one-sided test of the hypothesis that Students differ from Bases as Bases differ from each other.

    The statistic is the difference between two means: of ``scores[s, b]`` over all Students s and Bases b, and of
    ``scores[b, b']`` over all ordered pairs of different Bases. If distillation has an effect, the first mean is expected to
    be larger for a score of s given b (relevance of distilled features, Teacher's share), and smaller for FSS.

    A Student and a Base that share a seed are more alike, since they share initial weights and the order of batches. Such a
    pair is left out of the first mean, and its two models are exchanged only with each other. All other models are exchanged
    freely. Bases never share a seed with each other, under any relabeling, so all their pairs count. The test is exact in
    both cases: under the null hypothesis no counted relabeling changes the joint distribution of the scores.

    Args:
        scores (Tensor): (M + K, M + K) scores of all ordered pairs, Students first; the diagonal is ignored. For a symmetric
            score (FSS), a symmetric matrix.
        students (int): M, at least 1. There must be at least two Bases.
        larger (bool): True if larger Student-Base scores are evidence against the null hypothesis, False if smaller ones are
            (FSS).
        shared_seeds (sequence of (int, int)): pairs of a Student (0..M-1) and a Base (0..K-1) with the same seed. Empty if
            all seeds are independent.

    Returns:
        SeedTest: C(M + K, M) relabelings for independent seeds, 2^M for M shared ones.

    Raises:
        ValueError: a matrix that is not square or lacks scores, fewer than two Bases, a model in two pairs, or more than a
            million relabelings.

    Source: docs/inference.md (seed control).

    Example::

        >>> seed_test(pair_scores(products, students + bases, "labels"), len(students))
        SeedTest(statistic=0.032, p_value=0.05, smallest_p_value=0.05, relabelings=20)
    """
    check_roles(scores, students, shared_seeds)
    larger = check_bool(larger, "larger")
    models = scores.shape[0]
    if not has_every_score(scores):
        raise ValueError(
            "scores has non-finite values off its diagonal: some pairs of models have no score (constant "
            "features, or a model that is a copy of another one). Leave out the layer or the model."
        )
    values = scores.detach().to("cpu", torch.float64, copy=True).fill_diagonal_(0)
    counted = torch.ones(models, models, dtype=torch.float64, device="cpu").fill_diagonal_(0)
    for s, b in shared_seeds:
        counted[s, students + b] = counted[students + b, s] = 0
    relabelings = relabelings_of(students, models, shared_seeds)
    statistics = []
    while batch := list(islice(relabelings, _BATCH)):
        role = torch.zeros(len(batch), models, dtype=torch.float64, device="cpu")
        role.scatter_(1, torch.tensor(batch, device="cpu"), 1.0)
        statistics.append(_statistics(values, counted, role, larger))
    return test_of(torch.cat(statistics))


def test_of(statistics: Tensor) -> SeedTest:
    """The test from the statistics of all relabelings, the true labels first."""
    observed, number = float(statistics[0]), len(statistics)
    at_least = int((statistics >= observed - _TIE).sum())
    return SeedTest(observed, at_least / number, 1 / number, number)


def relabeling_count(students: int, bases: int, shared_seeds: int = 0) -> int:
    """The number of relabelings: 2 for each shared seed, times all choices among the other models."""
    own_students, own_bases = students - shared_seeds, bases - shared_seeds
    return int(2**shared_seeds * comb(own_students + own_bases, own_students))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, which bound the probability of any false rejection by the level.

    Args:
        p_values (sequence of float): p-values of one family, here of one question at several layers.

    Returns:
        list of float: adjusted p-values in the given order, at most 1.

    Raises:
        TypeError: not a list of numbers.
        ValueError: a p-value outside [0, 1].

    Source: Holm 1979.

    Example::

        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if not isinstance(p_values, (list, tuple)):
        raise TypeError(f"p_values must be a list of numbers, got {short_repr(p_values)}.")
    p_values = [check_float(p, f"p_values[{place}]", "between 0 and 1", 0, 1, closed=True) for place, p in enumerate(p_values)]
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for step, place in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def _statistics(values: Tensor, counted: Tensor, role: Tensor, larger: bool) -> Tensor:
    """The statistic of each relabeling; ``role`` is (relabelings, models), 1 for Students."""
    base = 1 - role
    across = ((role @ values.mul(counted)) * base).sum(1) / ((role @ counted) * base).sum(1)
    # No two Bases share a seed: each pair with a shared seed has one Base, also after a swap.
    k = base.sum(1)
    within = ((base @ values) * base).sum(1) / (k * (k - 1))
    return across - within if larger else within - across


def relabelings_of(
    students: int, models: int, shared: Sequence[Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """The Students under each relabeling, the true one first."""
    pairs = [(s, students + b) for s, b in shared]
    in_pairs = {model for pair in pairs for model in pair}
    free = [model for model in range(models) if model not in in_pairs]
    own_students = students - len(pairs)
    for swapped in product((0, 1), repeat=len(pairs)):
        chosen = tuple(pair[side] for pair, side in zip(pairs, swapped))
        for others in combinations(free, own_students):
            yield chosen + others


def _is_pair(pair: object) -> bool:
    return isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(each) is int for each in pair)


def has_every_score(scores: Tensor) -> bool:
    """Whether every ordered pair of different models has a score."""
    return bool(torch.isfinite(scores.detach().clone().fill_diagonal_(0)).all())


def check_roles(scores: Tensor, students: int, shared: Sequence[tuple[int, int]]) -> None:
    """Checks that the matrix, the number of Students and the shared seeds match.

    Raises:
        ValueError: as :func:`seed_test`, except for missing scores.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"scores must be a floating point tensor, got {short_repr(scores)}.")
    check_dense(scores, "scores")
    models = scores.shape[0] if scores.dim() else 0
    if tuple(scores.shape) != (models, models):
        raise ValueError(f"scores must be square, with one row and one column per model; got shape {tuple(scores.shape)}.")
    check_models(students, models - check_int(students, "students"), shared)


def check_models(students: int, bases: int, shared: Sequence[tuple[int, int]], *, least_bases: int = 2) -> None:
    """Checks that Students, Bases and shared seeds match and can be relabeled.

    Raises:
        ValueError: as :func:`seed_test`, except for the scores.
    """
    students = check_int(students, "students")
    if not isinstance(shared, (list, tuple)) or not all(_is_pair(pair) for pair in shared):
        raise TypeError(f"shared_seeds must be a list of pairs (Student, Base) of integers, got {short_repr(shared)}.")
    if students < 1 or bases < least_bases:
        raise ValueError(
            f"Seed control compares Bases with each other, so it needs at least 1 Student and {least_bases} Bases, got "
            f"students={students} and {bases} Bases. Train a Base with another seed."
        )
    for place, count in ((0, students), (1, bases)):
        named = [pair[place] for pair in shared]
        if len(set(named)) < len(named) or any(not 0 <= each < count for each in named):
            raise ValueError(
                f"shared_seeds must name each Student (0..{students - 1}) and each Base (0..{bases - 1}) "
                f"at most once, as (Student, Base); got {list(shared)}."
            )
    number = relabeling_count(students, bases, len(shared))
    if number > MOST_RELABELINGS:
        raise ValueError(f"{number} relabelings are too many; at most {MOST_RELABELINGS} can be counted. Leave out some models.")
