"""Inner products with each input left out, against recomputation on the inputs that remain."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.distance.centering import center
from captum_kd.metrics.inference.gram_matrices import Products, Score, Side, geometry_products, pair_scores, transfer_scores


def population(
    n: int, seed: int, classes: int = 3, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Distance matrices of related models: the Teacher and the Student know more of the labels."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    labels = torch.arange(n) % classes
    embeddings = normal(classes, 5)
    signal = embeddings[labels]
    base = torch.cat([signal, normal(n, 7)], 1) + normal(n, 12)
    features = {
        "student": torch.cat([2 * signal, base[:, :4]], 1) + normal(n, 9),
        "base": base,
        "labels": signal,
        "teacher": 3 * signal @ normal(5, 20) + normal(n, 20),
    }
    return {name: euclidean_distances(value).to(dtype) for name, value in features.items()}


def dcor_score(distances: dict[str, np.ndarray], score: Score) -> float:
    """A score by dcor's own U-centering, projection and product, on whatever matrices it is given."""
    import dcor  # not at the top: it compiles for seconds, also where tests are only collected

    def side(which: Side) -> np.ndarray:
        if isinstance(which, str):
            return np.asarray(dcor.u_centered(distances[which]))
        of, removed = (dcor.u_centered(distances[name]) for name in which)
        return np.asarray(dcor.u_complementary_projection(removed)(of))

    x, y = side(score.x), side(score.y)
    return float(dcor.u_product(x, y) / np.sqrt(dcor.u_product(x, x) * dcor.u_product(y, y)))


def without(distances: dict[str, Tensor], k: int) -> dict[str, np.ndarray]:
    keep = [i for i in range(len(distances["student"])) if i != k]
    return {name: matrix[keep][:, keep].numpy() for name, matrix in distances.items()}


@pytest.mark.parametrize("name", transfer_scores(teacher="teacher"))
def test_leave_one_out_values_equal_recomputation(name: str) -> None:
    distances, score = population(30, seed=1), transfer_scores(teacher="teacher")[name]
    products = geometry_products(distances)
    values, defined = products.leave_one_out(score)
    assert defined
    whole = dcor_score({key: matrix.numpy() for key, matrix in distances.items()}, score)
    assert products.score(score)[0] == pytest.approx(whole, abs=1e-12)
    expected = [dcor_score(without(distances, k), score) for k in range(30)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(7, 24),
    seed=st.integers(0, 10_000),
    scales=st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=4),
    shifts=st.lists(st.floats(0, 1e3), min_size=4, max_size=4),
)
def test_leave_one_out_values_whatever_the_scale_and_offset(
    n: int, seed: int, scales: list[float], shifts: list[float]
) -> None:
    """Offsets off the diagonal are what distances of many dimensions look like: large and nearly equal."""
    away = 1 - torch.eye(n, dtype=torch.float64)
    distances = {
        name: scale * (matrix + shift * away)
        for (name, matrix), scale, shift in zip(population(n, seed).items(), scales, shifts)
    }
    products = geometry_products(distances)
    for score in transfer_scores(teacher="teacher").values():
        values, _ = products.leave_one_out(score)
        for k in (0, n - 1):
            assert abs(float(values[k]) - dcor_score(without(distances, k), score)) < 1e-8


def test_matrices_that_were_centered_before_give_the_same() -> None:
    distances = population(20, seed=2)
    raw = geometry_products(distances)
    centered = geometry_products({name: center(matrix).matrix for name, matrix in distances.items()})
    torch.testing.assert_close(raw.without, centered.without, rtol=1e-10, atol=1e-12)


def test_blocks_of_rows_do_not_change_the_result() -> None:
    """700 inputs of four geometries need many blocks; each product is compared with the whole matrix's."""
    distances = population(700, seed=3)
    products = geometry_products(distances, leave_one_out=False)
    matrices = [center(matrix).matrix for matrix in distances.values()]
    expected = [[float((p * q).sum()) / (700 * 697) for q in matrices] for p in matrices]
    torch.testing.assert_close(products.full, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert products.without.shape == (0, 4, 4)


def test_float32_matrices_lose_only_their_own_rounding() -> None:
    exact = geometry_products(population(60, seed=4))
    single = geometry_products(population(60, seed=4, dtype=torch.float32))
    for score in transfer_scores(teacher="teacher").values():
        rounded, values = single.leave_one_out(score)[0], exact.leave_one_out(score)[0]
        torch.testing.assert_close(rounded, values, atol=1e-6, rtol=0)


def test_scores_keep_the_identities_of_removal() -> None:
    """RS(S|B) = (RS_S - F RS_B) / sqrt(1 - F^2), and their difference is (RS_S - RS_B) sqrt((1 + F) / (1 - F))."""
    products = geometry_products(population(40, seed=5))
    value = {name: products.score(score)[0] for name, score in transfer_scores().items()}
    f = value["fss"]
    alone = (value["rs_student"] - f * value["rs_base"]) / (1 - f**2) ** 0.5
    assert value["rs_distilled"] == pytest.approx(alone)
    gap = (value["rs_student"] - value["rs_base"]) * ((1 + f) / (1 - f)) ** 0.5
    assert value["rs_distilled"] - value["rs_residual"] == pytest.approx(gap)
    assert products.unique_share("student", "base") == pytest.approx(1 - f**2)


def test_removal_from_both_sides_is_the_partial_distance_correlation(dcor: Any) -> None:
    draw = torch.Generator().manual_seed(6)
    x, y, z = (torch.randn(25, d, generator=draw, dtype=torch.float64) for d in (3, 4, 5))
    named = zip("xyz", map(euclidean_distances, (x, y, z)))
    products = geometry_products(dict(named))
    expected = dcor.partial_distance_correlation(x.numpy(), y.numpy(), z.numpy())
    assert products.score(Score(("x", "z"), ("y", "z")))[0] == pytest.approx(float(expected), abs=1e-12)


def test_a_copy_leaves_nothing_and_constant_features_have_nothing() -> None:
    distances = population(20, seed=7)
    distances["base"] = 3 * distances["student"]
    distances["teacher"] = torch.zeros(20, 20, dtype=torch.float64)
    products = geometry_products(distances)
    scores = transfer_scores(teacher="teacher")
    for name in ("rs_distilled", "rs_residual", "rs_teacher", "fss_student_teacher", "teacher_distilled"):
        assert products.score(scores[name]) == (0.0, False)
        values, defined = products.leave_one_out(scores[name])
        assert not defined and bool(torch.isfinite(values).all())
    assert products.score(scores["fss"])[0] == pytest.approx(1.0)


def test_removing_constant_features_removes_nothing() -> None:
    distances = population(20, seed=8)
    distances["base"] = torch.zeros(20, 20, dtype=torch.float64)
    products = geometry_products(distances)
    scores = transfer_scores()
    assert products.score(scores["rs_distilled"]) == products.score(scores["rs_student"])


def test_pair_scores_hold_every_ordered_pair() -> None:
    products = geometry_products(population(20, seed=9))
    models = ["student", "base", "teacher"]
    given_labels = pair_scores(products, models, "labels")
    assert float(given_labels[0, 1]) == products.score(transfer_scores()["rs_distilled"])[0]
    assert float(given_labels[1, 0]) == products.score(transfer_scores()["rs_residual"])[0]
    similar = pair_scores(products, models)
    torch.testing.assert_close(similar, similar.T)
    assert similar.diagonal().tolist() == [1, 1, 1]


def test_pairs_without_a_score_are_not_called_zero() -> None:
    distances = population(20, seed=9)
    distances["copy"] = 2 * distances["base"]
    products = geometry_products(distances)
    relevance, similarity = (pair_scores(products, ["student", "base", "copy"], t) for t in ("labels", None))
    assert torch.isnan(relevance).nonzero().tolist() == [[1, 2], [2, 1]]
    assert float(similarity[1, 2]) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["related", "rectified", "far from the origin"])
@pytest.mark.parametrize(("n", "d"), [(20, 40), (60, 4096), (150, 512)])
def test_rows_from_float32_features_match_dcor(kind: str, n: int, d: int, dcor: Any) -> None:
    draw = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 4
    signal = torch.randn(4, d, generator=draw)[labels]
    base = 0.3 * signal + torch.randn(n, d, generator=draw)
    student = 0.4 * signal + 0.7 * base + 0.5 * torch.randn(n, d, generator=draw)
    teacher = signal + torch.randn(n, d, generator=draw)
    features = {"student": student, "base": base, "teacher": teacher, "labels": torch.eye(4)[labels]}
    if kind == "rectified":
        features = {name: value.relu() for name, value in features.items()}
    if kind == "far from the origin":
        features = {name: value + 100 for name, value in features.items()}
    exact = {name: dcor.distances.pairwise_distances(value.double().numpy()) for name, value in features.items()}
    products = geometry_products({name: euclidean_distances(value) for name, value in features.items()})
    for score in transfer_scores(teacher="teacher").values():
        assert products.score(score)[0] == pytest.approx(dcor_score(exact, score), abs=1e-6)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_distances_in_float64_keep_what_is_left_of_near_copies(dtype: torch.dtype, within: float, dcor: Any) -> None:
    """The unique share is 1e-3 to 1e-4 here: the rounding of float32 distances is magnified by its root."""
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(60, 4096, generator=draw)
    features = {
        "student": base + 0.02 * torch.randn(60, 4096, generator=draw),
        "base": base,
        "labels": torch.eye(3)[torch.arange(60) % 3],
    }
    exact = {name: dcor.distances.pairwise_distances(value.double().numpy()) for name, value in features.items()}
    products = geometry_products({name: euclidean_distances(value.to(dtype)) for name, value in features.items()})
    assert 1e-5 < products.unique_share("student", "base") < 2e-3
    for name in ("rs_distilled", "rs_residual"):
        score = transfer_scores()[name]
        assert products.score(score)[0] == pytest.approx(dcor_score(exact, score), abs=within)


def test_float32_distances_of_any_size_have_the_same_scores() -> None:
    small = population(20, seed=12, dtype=torch.float32)
    large = geometry_products({name: matrix * 2.0**100 for name, matrix in small.items()})
    for score in transfer_scores().values():
        assert large.score(score) == geometry_products(small).score(score)


@pytest.mark.parametrize(
    ("distances", "error", "said"),
    [
        ({}, ValueError, "at least one"),
        ({"a": torch.zeros(5, 5), "b": torch.zeros(6, 6)}, ValueError, "one population"),
        ({"a": torch.zeros(5, 4)}, ValueError, "one population"),
        ({"a": torch.zeros(3, 3)}, ValueError, "at least 4"),
        ({"a": torch.zeros(4, 4)}, ValueError, "at least 5"),
        ({"a": torch.full((5, 5), float("nan"))}, ValueError, "non-finite"),
        ({"a": torch.zeros(5, 5, dtype=torch.float16)}, TypeError, "float32 or float64"),
    ],
)
def test_matrices_that_cannot_be_used(
    distances: dict[str, Tensor], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        geometry_products(distances)


def test_four_inputs_are_enough_when_none_is_left_out() -> None:
    products = geometry_products(population(4, seed=10, classes=2), leave_one_out=False)
    assert isinstance(products, Products) and products.score(transfer_scores()["fss"])[1]


def test_an_unknown_geometry_is_named() -> None:
    with pytest.raises(ValueError, match=r"geometries of the products \(student, base.*got 'pupil'"):
        geometry_products(population(6, seed=11)).score(Score("pupil", "base"))
