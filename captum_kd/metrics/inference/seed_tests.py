r"""Seed control: exact tests over models that were trained with different seeds.

If the way of training made no difference, Students and Bases would be exchangeable: each
relabeling of the M + K trained models as M Students and K Bases would be as likely as the true
one. The p-value is the share of relabelings whose statistic is at least the one observed; all
of them are counted, so it is exact, and never below one over their number.
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
        statistic (float): mean score of the pairs in question less that of their null (or the
            reverse, see :func:`seed_test`); positive speaks for a difference.
        p_value (float): exact share of relabelings at least as large.
        smallest_p_value (float): one over the number of relabelings, the least that p could be.
        relabelings (int): their number.
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
    r"""Exact one-sided test whether Students stand to Bases as Bases stand to each other.

    The statistic compares the mean over (Student s, Base b) of ``scores[s, b]`` with the mean over
    ordered pairs of different Bases of ``scores[b, b']``. With a score of s given b (relevance of
    distilled features, the Teacher's share of them) the first is expected to be larger, with FSS
    smaller.

    Seeds in common make pairs alike (same initial weights, same order of batches). A pair that
    shares its seed is left out of the first mean, and its two models are only exchanged for each
    other; models of their own seeds are exchanged freely. Bases never share a seed with each other,
    under no relabeling, so all their pairs count. The test is exact either way: under the null every
    relabeling that is counted leaves the joint distribution of the scores as it was.

    Args:
        scores (Tensor): (M + K, M + K) scores of all ordered pairs, Students first; the diagonal
            is not looked at. A symmetric score (FSS) is given as a symmetric matrix.
        students (int): M, at least 1. At least two Bases must follow.
        larger (bool): whether Student-Base scores larger than Base-Base ones count against the null
            (True) or smaller ones (False, for FSS).
        shared_seeds (sequence of (int, int)): which Student (0..M-1) shares a seed with which Base
            (0..K-1). Empty: all seeds are independent.

    Returns:
        SeedTest: C(M + K, M) relabelings for independent seeds, 2^M for M shared ones.

    Raises:
        ValueError: a matrix of another shape or with pairs that have no score, fewer than two Bases, a
            model in two pairs, or more than a million relabelings.

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
            "features, or one model a copy of another). Leave the layer or the model out."
        )
    values = scores.detach().to("cpu", torch.float64, copy=True).fill_diagonal_(0)
    counted = torch.ones(models, models, dtype=torch.float64, device="cpu").fill_diagonal_(0)
    for s, b in shared_seeds:
        counted[s, students + b] = counted[students + b, s] = 0
    number = relabeling_count(students, models - students, len(shared_seeds))
    relabelings = _relabelings(students, models, shared_seeds)
    statistics = []
    while batch := list(islice(relabelings, _BATCH)):
        role = torch.zeros(len(batch), models, dtype=torch.float64, device="cpu")
        role.scatter_(1, torch.tensor(batch, device="cpu"), 1.0)
        statistics.append(_statistics(values, counted, role, larger))
    every = torch.cat(statistics)
    observed = float(every[0])  # the true labels come first
    at_least = int((every >= observed - _TIE).sum())
    return SeedTest(observed, at_least / number, 1 / number, number)


def relabeling_count(students: int, bases: int, shared_seeds: int = 0) -> int:
    """How many relabelings there are: 2 for each shared seed, all choices among the rest."""
    own_students, own_bases = students - shared_seeds, bases - shared_seeds
    return int(2**shared_seeds * comb(own_students + own_bases, own_students))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false rejection stays at the level.

    Args:
        p_values (sequence of float): of one family, here one question asked at several layers.

    Returns:
        list of float: in the given order, at most 1.

    Raises:
        TypeError: no sequence of numbers.
        ValueError: one that is outside [0, 1].

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
    # Bases that share a seed with each other do not exist: a swap leaves one of each pair.
    k = base.sum(1)
    within = ((base @ values) * base).sum(1) / (k * (k - 1))
    return across - within if larger else within - across


def _relabelings(
    students: int, models: int, shared: Sequence[tuple[int, int]]
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
    """Checks that the matrix, the number of Students and the shared seeds belong together.

    Raises:
        ValueError: as :func:`seed_test`, but for missing scores.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"scores must be a floating point tensor, got {short_repr(scores)}.")
    check_dense(scores, "scores")
    students = check_int(students, "students")
    if not isinstance(shared, (list, tuple)) or not all(_is_pair(pair) for pair in shared):
        raise TypeError(f"shared_seeds must be a list of pairs (Student, Base) of integers, got {short_repr(shared)}.")
    models = scores.shape[0] if scores.dim() else 0
    bases = models - students
    if tuple(scores.shape) != (models, models):
        raise ValueError(f"scores must be square, one row and column a model; got {tuple(scores.shape)}.")
    if students < 1 or bases < 2:
        raise ValueError(
            f"The null compares Bases with each other: at least 1 Student and 2 Bases are needed, got "
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
        raise ValueError(f"{number} relabelings are too many to count one by one; leave some models out.")
