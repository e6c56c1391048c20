"""Exact relabeling tests over trained models."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.metrics.inference.seed_tests import holm, seed_test


def random_scores(models: int, seed: int) -> Tensor:
    return torch.rand(models, models, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(scores: Tensor, students: list[int], bases: list[int], left_out: set[tuple[int, int]]) -> float:
    across = [float(scores[s, b]) for s in students for b in bases if (s, b) not in left_out]
    within = [float(scores[b, c]) for b in bases for c in bases if b != c]
    return sum(across) / len(across) - sum(within) / len(within)


@settings(max_examples=40, deadline=None)
@given(students=st.integers(1, 4), bases=st.integers(2, 4), seed=st.integers(0, 1000))
def test_independent_seeds_count_every_choice_of_students(students: int, bases: int, seed: int) -> None:
    models = range(students + bases)
    scores = random_scores(students + bases, seed)
    values = [
        by_hand(scores, list(chosen), [m for m in models if m not in chosen], set())
        for chosen in combinations(models, students)
    ]
    observed = by_hand(scores, list(models)[:students], list(models)[students:], set())
    test = seed_test(scores, students)
    assert test.statistic == pytest.approx(observed)
    assert test.relabelings == len(values) == round(1 / test.smallest_p_value)
    assert test.p_value == pytest.approx(sum(v >= observed - 1e-12 for v in values) / len(values))


@settings(max_examples=30, deadline=None)
@given(pairs=st.integers(2, 5), seed=st.integers(0, 1000))
def test_shared_seeds_are_left_out_and_swapped(pairs: int, seed: int) -> None:
    scores = random_scores(2 * pairs, seed)
    shared = [(i, i) for i in range(pairs)]
    left_out = {(i, i + pairs) for i in range(pairs)} | {(i + pairs, i) for i in range(pairs)}
    values = []
    for swap in product((False, True), repeat=pairs):
        students = [i + pairs if swapped else i for i, swapped in enumerate(swap)]
        bases = [i if swapped else i + pairs for i, swapped in enumerate(swap)]
        values.append(by_hand(scores, students, bases, left_out))
    test = seed_test(scores, pairs, shared_seeds=shared)
    assert test.relabelings == 2**pairs
    assert test.statistic == pytest.approx(values[0])
    assert test.p_value == pytest.approx(sum(v >= values[0] - 1e-12 for v in values) / len(values))


def test_the_order_of_shared_pairs_does_not_matter() -> None:
    scores = random_scores(6, 0)
    turned = [0, 1, 2, 5, 3, 4]  # Base 0 is now the second one
    first = seed_test(scores, 3, shared_seeds=[(0, 0), (1, 1), (2, 2)])
    second = seed_test(scores[turned][:, turned], 3, shared_seeds=[(0, 1), (1, 2), (2, 0)])
    assert first == pytest.approx(second)


def test_some_seeds_shared_and_some_not() -> None:
    """One swap, and the choice of 2 Students among the 5 models of their own seeds."""
    assert seed_test(random_scores(7, 0), 3, shared_seeds=[(1, 2)]).relabelings == 2 * 10


@pytest.mark.parametrize(("each", "smallest"), [(3, 1 / 20), (5, 1 / 252)])
def test_smallest_p_values_of_the_method(each: int, smallest: float) -> None:
    scores = torch.zeros(2 * each, 2 * each)
    scores[:each, each:] = 1
    test = seed_test(scores, each)
    assert test.p_value == test.smallest_p_value == pytest.approx(smallest)
    assert seed_test(scores, each, larger=False).p_value == 1.0


def test_similarity_counts_when_it_is_smaller_across() -> None:
    scores = torch.full((5, 5), 0.9)
    scores[:2, 2:] = scores[2:, :2] = 0.5
    test = seed_test(scores, 2, larger=False)
    assert test.statistic == pytest.approx(0.4)
    assert test.p_value == 1 / 10


def test_equal_scores_are_ties_whatever_the_rounding() -> None:
    assert seed_test(torch.full((8, 8), 0.1), 4).p_value == 1.0


def test_p_values_are_exact_under_exchangeable_models() -> None:
    """P(p <= a) <= a, and equal where a is attainable: 4 + 4 models, 70 relabelings."""
    trials = 300
    p_values = torch.tensor([seed_test(random_scores(8, seed), 4).p_value for seed in range(trials)])
    for level in (5 / 70, 14 / 70, 35 / 70):
        share = float((p_values <= level + 1e-9).double().mean())
        assert share == pytest.approx(level, abs=3 * (level * (1 - level) / trials) ** 0.5)


def test_p_values_are_exact_when_pairs_share_their_seeds() -> None:
    """Models of one seed are alike; where training differs in nothing, swaps within pairs are exact.

    Counting those models as independent is not: alike across, they make some statistics impossible.
    """
    trials, pairs, draw = 300, 5, torch.Generator().manual_seed(0)
    exact, naive = torch.empty(trials), []
    for trial in range(trials):
        seed = torch.randn(pairs, 2, generator=draw, dtype=torch.float64).repeat(2, 1)
        model = seed + 0.3 * torch.randn(2 * pairs, 2, generator=draw, dtype=torch.float64)
        scores = model[:, :1] - torch.cdist(model, model)  # of i given j: not symmetric
        shared = [(i, i) for i in range(pairs)]
        exact[trial] = seed_test(scores, pairs, shared_seeds=shared).p_value
        if trial % 5 == 0:
            naive.append(seed_test(scores, pairs).p_value)
    for level in (1 / 32, 4 / 32, 16 / 32):
        share = float((exact <= level + 1e-6).double().mean())
        assert share == pytest.approx(level, abs=3 * (level * (1 - level) / trials) ** 0.5)
    assert sum(p <= 0.8 for p in naive) / len(naive) > 0.95


def test_the_diagonal_is_not_looked_at() -> None:
    scores = random_scores(5, 1)
    assert seed_test(scores.clone().fill_diagonal_(float("nan")), 2) == seed_test(scores, 2)


def test_ten_and_ten_models_are_counted_in_batches() -> None:
    assert seed_test(random_scores(20, 0), 10).relabelings == 184_756


@pytest.mark.parametrize(
    ("scores", "students", "shared", "said"),
    [
        (torch.zeros(3, 4), 1, (), "square"),
        (torch.zeros(2, 2), 1, (), "Train a Base with another seed"),
        (torch.zeros(3, 3), 0, (), "at least 1 Student"),
        (torch.full((3, 3), float("nan")), 1, (), "non-finite"),
        (torch.zeros(4, 4), 2, [(0, 0), (0, 1)], "at most once"),
        (torch.zeros(4, 4), 2, [(0, 2)], "at most once"),
        (torch.zeros(30, 30), 15, (), "too many"),
    ],
)
def test_arguments_that_cannot_be(
    scores: Tensor, students: int, shared: list[tuple[int, int]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        seed_test(scores, students, shared_seeds=shared)


def test_holm_by_hand() -> None:
    """Ordered .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, none below the one before."""
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted))
    for i in range(len(p_values)):
        for j in range(len(p_values)):
            assert p_values[i] > p_values[j] or adjusted[i] <= adjusted[j]
