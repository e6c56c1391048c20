"""Each input's part in a score, against sums over the rows of literal matrices."""

import pytest
import torch
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import Score, geometry_products, input_parts, transfer_scores
from tests.reference import literal


def population(n: int = 40, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    signal = torch.randn(4, 5, generator=draw, dtype=torch.float64)[torch.arange(n) % 4]

    def features(strength: float) -> Tensor:
        return torch.cat([strength * signal, torch.randn(n, 9, generator=draw, dtype=torch.float64)], 1)

    names = ("student", "base 1", "base 2", "teacher", "placebo")
    found = {name: features(strength) for name, strength in zip(names, (1.0, 0.6, 0.5, 1.4, 1.2))}
    return {name: euclidean_distances(value) for name, value in {**found, "labels": signal}.items()}


def literal_parts(distances: dict[str, Tensor], score: Score) -> Tensor:
    """The rows' sums of the elementwise product of both sides."""
    centered = {name: literal.u_centered(matrix) for name, matrix in distances.items()}

    def side(which: str | tuple[str, ...]) -> Tensor:
        of, *removed = (which,) if isinstance(which, str) else which
        return literal.without_all(centered[of], [centered[name] for name in removed]) if removed else centered[of]

    q, t = side(score.x), side(score.y)
    return (q * t).sum(1) / (q.norm() * t.norm())


SCORES = {
    **transfer_scores("student", "base 1", teacher="teacher"),
    **transfer_scores("student", ["base 1", "base 2"], teacher="teacher"),
}


@pytest.mark.parametrize("name", SCORES)
def test_parts_are_the_sums_of_rows_and_add_up_to_the_score(name: str) -> None:
    distances, score = population(), SCORES[name]
    products = geometry_products(distances)
    found = input_parts(products, score)
    torch.testing.assert_close(found, literal_parts(distances, score), atol=1e-12, rtol=0)
    assert float(found.sum()) == pytest.approx(products.score(score)[0], abs=1e-12)


def test_parts_of_many_inputs_add_up_too() -> None:
    products = geometry_products(population(600))
    for score in SCORES.values():
        assert float(input_parts(products, score).sum()) == pytest.approx(products.score(score)[0], abs=1e-12)


def test_parts_of_a_difference_from_placebos() -> None:
    distances = population()
    products = geometry_products(distances)
    of_teacher, of_placebo = (Score(("student", "base 1"), teacher) for teacher in ("teacher", "placebo"))
    found = input_parts(products, of_teacher, minus=[of_placebo])
    expected = literal_parts(distances, of_teacher) - literal_parts(distances, of_placebo)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_scale_and_order_of_the_inputs() -> None:
    distances, score = population(), SCORES["teacher_distilled"]
    expected = input_parts(geometry_products(distances), score)
    scaled = {name: matrix * (3.0 + place) for place, (name, matrix) in enumerate(distances.items())}
    torch.testing.assert_close(input_parts(geometry_products(scaled), score), expected, atol=1e-12, rtol=0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    permuted = {name: matrix[order][:, order] for name, matrix in distances.items()}
    torch.testing.assert_close(input_parts(geometry_products(permuted), score), expected[order], atol=1e-12, rtol=0)


def test_an_undefined_score_has_parts_of_0() -> None:
    distances = population()
    products = geometry_products({**distances, "copy": 2 * distances["student"]})
    undefined, defined = Score(("student", "copy"), "labels"), SCORES["rs_distilled"]
    assert input_parts(products, undefined).tolist() == [0.0] * 40
    assert input_parts(products, defined, minus=[undefined]).tolist() == [0.0] * 40


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="leave_one_out=True"):
        input_parts(geometry_products(population(), leave_one_out=False), SCORES["fss"])
    with pytest.raises(ValueError, match="must name geometries"):
        input_parts(geometry_products(population()), Score("student", "nobody"))
    with pytest.raises(TypeError, match="minus must be a list"):
        input_parts(geometry_products(population()), SCORES["fss"], minus="fss")  # type: ignore[arg-type]
