"""The t test of one Teacher's share against those of placebo Teachers, and the identity of the Teacher's shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference.one_against_sample import t_test

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import geometry_products, jackknife, placebo_test, transfer_scores

shares = st.floats(-1, 1)


@settings(deadline=None, max_examples=50)
@given(shares, st.lists(shares, min_size=4, max_size=9))
def test_it_is_the_t_test_of_one_observation_against_a_sample(share: float, placebos: list[float]) -> None:
    assume(max(placebos) - min(placebos) > 1e-3)
    found = placebo_test(share, placebos)
    expected = t_test(share, placebos)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.degrees_of_freedom == len(placebos) - 1 == expected.df


def test_its_level_holds_for_a_teacher_that_is_one_more_placebo() -> None:
    draws = 0.4 + 0.03 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rejected = [placebo_test(own, others).p_value <= 0.05 for own, *others in draws.tolist()]
    assert 0.04 < sum(rejected) / len(rejected) < 0.06  # standard error .0034


def test_equal_placebos_have_no_spread_to_test_against() -> None:
    assert placebo_test(0.5, [0.25] * 4) == (None, None, 0.25, 0.0, 3)
    assert placebo_test(0.5, [0.25, 0.25, 0.25 + 1e-15, 0.25]).p_value is None  # rounding


@pytest.mark.parametrize(
    ("share", "placebos", "error", "words"),
    [
        (0.5, [0.1, 0.2, 0.3], ValueError, "at least 4 placebo Teachers, got 3"),
        (0.5, 0.1, TypeError, "list of numbers"),
        (2.5, [0.1] * 4, ValueError, "share must be between -2 and 2"),
        (0.5, [0.1, 0.2, 0.3, None], TypeError, r"placebo_shares\[3\]"),
        (0.5, [0.1, 0.2, 0.3, float("nan")], ValueError, r"placebo_shares\[3\]"),
    ],
)
def test_shares_that_cannot_be(share, placebos, error, words) -> None:
    with pytest.raises(error, match=words):
        placebo_test(share, placebos)


@settings(deadline=None, max_examples=50)
@given(st.integers(6, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_distilled_and_residual_shares_differ_as_the_similarities_to_the_teacher_do(n: int, d: int, seed: int) -> None:
    """distilled - residual = (FSS(S, T) - FSS(B, T)) sqrt((1 + F) / (1 - F)); beyond the labels, with R(., T|G) for FSS."""
    generator = torch.Generator().manual_seed(seed)
    features = {name: torch.randn(n, d, generator=generator, dtype=torch.float64) for name in ("student", "base", "teacher")}
    features["student"] += features["teacher"]
    features["base"] += 0.5 * features["student"]
    features["labels"] = torch.nn.functional.one_hot(torch.arange(n) % 3).double()
    products = geometry_products({name: euclidean_distances(each) for name, each in features.items()}, leave_one_out=False)
    value = {name: products.score(score)[0] for name, score in transfer_scores(teacher="teacher").items()}
    assume(abs(value["fss"]) < 0.999)
    factor = ((1 + value["fss"]) / (1 - value["fss"])) ** 0.5
    whole = (value["fss_student_teacher"] - value["fss_base_teacher"]) * factor
    assert value["teacher_distilled"] - value["teacher_residual"] == pytest.approx(whole, abs=1e-10)
    student, base = (products.score((name, ("teacher", "labels")))[0] for name in ("student", "base"))
    only = value["teacher_only_distilled"] - value["teacher_only_residual"]
    assert only == pytest.approx((student - base) * factor, abs=1e-10)


def test_jackknife_of_a_difference_checks_its_scores() -> None:
    x = torch.randn(8, 3, dtype=torch.float64)
    products = geometry_products({name: euclidean_distances(x + i * x**2) for i, name in enumerate("abc")})
    with pytest.raises(TypeError, match="minus must be a list of scores"):
        jackknife(products, ("a", "b"), minus=3)
    with pytest.raises(ValueError, match="minus must name geometries"):
        jackknife(products, ("a", "b"), minus=[("a", "d")])
    assert jackknife(products, ("a", "b"), minus=[("a", "b"), ("b", "a")]) == (0.0, 0.0, 0.0, 0.0, None)
