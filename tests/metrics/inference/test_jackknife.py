"""Jackknife intervals and tests: by hand, at their limits, and their rates."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import geometry_products, jackknife, transfer_scores
from captum_kd.metrics.inference.gram_matrices import Products


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products_of(student: Tensor, base: Tensor, labels: Tensor) -> Products:
    one_hot = torch.nn.functional.one_hot(labels).double()
    features = {"student": student, "base": base, "labels": one_hot}
    return geometry_products({name: euclidean_distances(value) for name, value in features.items()})


def related(n: int, seed: int) -> Products:
    labels = torch.arange(n) % 3
    base = normal(n, 4, seed) + labels[:, None]
    return products_of(base[:, :2] + normal(n, 2, seed + 1), base, labels)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_is_estimate_minus_plus_t_times_the_standard_error(confidence: float) -> None:
    n, score = 25, transfer_scores()["rs_residual"]
    products = related(n, seed=0)
    values = products.leave_one_out(score)[0].numpy()
    error = ((n - 1) / n * ((values - values.mean()) ** 2).sum()) ** 0.5
    value = products.score(score)[0]
    estimate = jackknife(products, score, confidence)
    assert estimate.value == value
    assert estimate.standard_error == pytest.approx(error)
    low, high = stats.t.interval(confidence, n - 1, value, error)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.p_value == pytest.approx(2 * stats.t.sf(abs(value) / error, n - 1))


def test_a_test_at_the_level_agrees_with_the_interval() -> None:
    """p <= .05 exactly where the .95 interval leaves 0 out."""
    for seed in range(0, 60, 2):
        estimate = jackknife(related(20, seed), transfer_scores()["rs_residual"])
        assert estimate.low is not None and estimate.high is not None and estimate.p_value is not None
        assert (estimate.p_value <= 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_intervals_stay_within_the_scores_range() -> None:
    estimate = jackknife(related(6, seed=3), transfer_scores()["rs_distilled"])
    assert estimate.low is not None and estimate.high is not None
    assert -1 <= estimate.low <= estimate.high <= 1


def test_no_interval_where_leaving_one_input_out_empties_the_labels() -> None:
    """Two inputs of a second class: without one of them the other stands alone against equals."""
    labels = torch.zeros(12, dtype=torch.long)
    labels[:2] = 1
    products = products_of(normal(12, 3, 1), normal(12, 3, 2), labels)
    for name, score in transfer_scores().items():
        estimate = jackknife(products, score)
        assert estimate.value != 0
        assert (estimate.low is None) == (estimate.p_value is None) == (name != "fss")


def test_no_interval_of_a_remainder_of_five_inputs() -> None:
    """Without one of them four are left, whose remainder is +1 or -1 and says nothing."""
    products = related(5, seed=3)
    assert jackknife(products, transfer_scores()["rs_distilled"]).low is None
    assert jackknife(products, transfer_scores()["rs_student"]).low is not None


@pytest.mark.parametrize(("n", "bases", "has_interval"), [(6, 3, True), (6, 4, False), (7, 4, True), (7, 8, False)])
def test_no_interval_where_removal_leaves_a_sign(n: int, bases: int, has_interval: bool) -> None:
    names = [f"base {place}" for place in range(bases)]
    features = {name: normal(n, 5, seed) for seed, name in enumerate(["student", "labels", *names])}
    products = geometry_products({name: euclidean_distances(value) for name, value in features.items()})
    score = transfer_scores(base=names)["rs_distilled_all"]
    values, defined = products.leave_one_out(score)
    estimate = jackknife(products, score)
    assert defined and (estimate.low is not None) is (estimate.p_value is not None) is has_interval


def test_no_interval_where_what_is_removed_vanishes_with_an_input() -> None:
    """A class of two: without one of them labels have no geometry, and nothing is removed from the Teacher."""
    labels = torch.zeros(12, dtype=torch.long)
    labels[:2] = 1
    one_hot = torch.nn.functional.one_hot(labels).double()
    features = {"student": normal(12, 3, 1), "base": normal(12, 3, 2), "teacher": normal(12, 3, 3), "labels": one_hot}
    products = geometry_products({name: euclidean_distances(value) for name, value in features.items()})
    scores = transfer_scores(teacher="teacher")
    assert jackknife(products, scores["teacher_distilled"]).low is not None
    assert jackknife(products, scores["teacher_only_distilled"]).low is None


def test_no_interval_where_one_input_is_all_the_geometry() -> None:
    base = torch.zeros(12, 2, dtype=torch.float64)
    base[:2] += torch.tensor([[1.0], [2.0]])
    base[0] = 5
    products = products_of(normal(12, 3, 1), base, torch.arange(12) % 2)
    assert jackknife(products, transfer_scores()["rs_student"]).low is not None
    base[1] = 0  # one outlier only: U-centered, nothing is left of it
    products = products_of(normal(12, 3, 1), base, torch.arange(12) % 2)
    estimate = jackknife(products, transfer_scores()["rs_base"])
    assert estimate.value == 0 and estimate.low is None


def test_a_model_with_itself_has_similarity_one_without_doubt() -> None:
    features = normal(20, 3, 4)
    products = products_of(features, 2 * features, torch.arange(20) % 2)
    estimate = jackknife(products, transfer_scores()["fss"])
    assert estimate.low == pytest.approx(1.0) and estimate.high == pytest.approx(1.0)
    assert jackknife(products, transfer_scores()["rs_distilled"]).low is None


def test_coverage_and_false_positives_of_independent_features() -> None:
    """True value 0: the interval covers it as often as it says, the test rejects no more often."""
    covered = {name: 0 for name in transfer_scores()}
    rejected = dict(covered)
    trials = 100
    for seed in range(trials):
        products = products_of(normal(60, 6, 3 * seed), normal(60, 6, 3 * seed + 1), torch.arange(60) % 2)
        for name, score in transfer_scores().items():
            estimate = jackknife(products, score)
            assert estimate.low is not None and estimate.high is not None and estimate.p_value is not None
            covered[name] += estimate.low <= 0 <= estimate.high
            rejected[name] += estimate.p_value <= 0.05
    assert all(count >= 0.93 * trials for count in covered.values()), covered
    assert all(count <= 0.07 * trials for count in rejected.values()), rejected


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
def test_confidence_outside_its_range(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        jackknife(related(6, 0), transfer_scores()["fss"], confidence)


def test_products_without_leave_one_out_values() -> None:
    distances = euclidean_distances(normal(6, 2, 0))
    products = geometry_products({"student": distances, "base": distances}, leave_one_out=False)
    with pytest.raises(ValueError, match="leave_one_out=True"):
        jackknife(products, transfer_scores()["fss"])
