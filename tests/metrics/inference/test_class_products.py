"""Scores of single classes, against label distances as one more source and against literal matrices without each input."""

import pytest
import torch
from torch import Tensor

from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.labels import LabelDistances
from captum_kd.distance.sources import FeatureDistances, MatrixDistances, TensorFeatures
from captum_kd.metrics.inference import Products, Score, jackknife
from captum_kd.metrics.inference.class_products import ONE_CLASS, OneAgainstRest, one_hot
from captum_kd.metrics.inference.class_shares import ClassRows, left_out_rows
from captum_kd.metrics.inference.class_sides import Sides
from captum_kd.metrics.inference.jackknife import estimate_of
from captum_kd.metrics.inference.gram_matrices import products_of
from tests.reference import literal

NAMES = ("student", "base", "teacher")
SHARES = (
    Score(("student", "base"), "teacher"), Score(("base", "student"), "teacher"), Score("student", "teacher"),
    Score("student", ("teacher", "base")),
)  # fmt: skip


def features(n: int = 40, classes: int = 3, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    signal = torch.randn(classes, 5, generator=draw, dtype=torch.float64)[labels]
    own = torch.randn(n, 4, generator=draw, dtype=torch.float64)
    parts = [(1.0, 0.5), (0.7, 0.0), (1.4, 1.0)]
    noise = [torch.randn(n, 6, generator=draw, dtype=torch.float64) for _ in parts]
    return [torch.cat([a * signal, b * own, each], 1) for (a, b), each in zip(parts, noise)], labels


def products(n: int = 40, block: int | None = None, held: bool = True) -> tuple[Products, Tensor, Tensor, list[Tensor], Tensor]:
    """Products, sums by class, labels, and the rows of each class without each input; literal distances."""
    values, labels = features(n)
    distances = torch.stack([literal.distances(x) for x in values])
    sources = [MatrixDistances(d) if held else FeatureDistances(TensorFeatures(x)) for d, x in zip(distances, values)]
    classes = one_hot(labels, torch.arange(3))
    sums = population_sums(sources, by_row=True, classes=classes, block_size=block)
    assert sums.by_class is not None
    left = list(left_out_rows(sources, sums, classes, block_size=block))
    return products_of(NAMES, sources, sums), sums.by_class, labels, left, distances


@pytest.mark.parametrize(("n", "block", "held"), [(40, None, True), (40, 7, True), (300, 64, False)])
def test_one_class_against_the_rest_is_one_more_geometry(n: int, block: int | None, held: bool) -> None:
    found, by_class, labels, _, distances = products(n, block, held)
    for c in range(3):
        members = labels == c
        binary = LabelDistances(members.long(), None, torch.device("cpu"))
        sources = [*map(MatrixDistances, distances), binary]
        expected = products_of((*NAMES, ONE_CLASS), sources, population_sums(sources, by_row=True))
        against = OneAgainstRest(Sides(found), by_class[..., c], members)
        torch.testing.assert_close(against.full, expected.full[-1], atol=1e-10, rtol=0)
        torch.testing.assert_close(against.without, expected.without[:, -1].T, atol=1e-10, rtol=0)
        assert against.noise == pytest.approx(float(expected.noise[-1]))
        for side in ("student", "teacher", ("student", "base"), ("base", "student")):
            score = Score(side, ONE_CLASS)
            (value, defined), (values, all_defined) = against.score(score), against.leave_one_out(score)
            assert defined and all_defined
            assert estimate_of(value, values, 0.95, 1.0) == pytest.approx(jackknife(expected, score), abs=1e-10)


@pytest.mark.parametrize("inside", [0, 1, 39, 40])
def test_a_class_of_one_input_has_no_geometry(inside: int) -> None:
    found, by_class, *_ = products()
    members = torch.arange(40) < inside
    sums = found.full.new_zeros(3, 40)  # not used where G is 0
    assert OneAgainstRest(Sides(found), sums, members).score(Score("student", ONE_CLASS)) == (0.0, False)


def literal_share(distances: Tensor, members: Tensor, score: Score) -> float:
    """Sums over the class's rows of literal matrices."""
    centered = {name: literal.u_centered(d) for name, d in zip(NAMES, distances)}

    def side(which: str | tuple[str, ...]) -> Tensor:
        of, *removed = (which,) if isinstance(which, str) else which
        return literal.without_all(centered[of], [centered[name] for name in removed]) if removed else centered[of]

    q, t = side(score.x)[members], side(score.y)[members]
    return float((q * t).sum() / (q.norm() * t.norm()))


@pytest.mark.parametrize(("block", "held"), [(None, True), (7, False)])
@pytest.mark.parametrize("score", SHARES)
def test_the_share_of_a_class_and_its_values_without_each_input(score: Score, block: int | None, held: bool) -> None:
    found, _, labels, left, distances = products(40, block, held)
    for c in range(3):
        members = labels == c
        rows = ClassRows(Sides(found), members, left[c])
        value, defined = rows.score(score)
        assert defined and value == pytest.approx(literal_share(distances, members, score), abs=1e-12)
        values, all_defined = rows.leave_one_out(score)
        keeps = [[i for i in range(40) if i != k] for k in range(40)]
        expected = [literal_share(distances[:, keep][:, :, keep], members[keep], score) for keep in keeps]
        assert all_defined
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), atol=1e-11, rtol=0)


def test_the_rows_of_all_inputs_have_the_score_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    values, _ = features()
    sources = [FeatureDistances(TensorFeatures(x)) for x in values]
    classes = torch.ones(40, 1, dtype=torch.float64)
    sums = population_sums(sources, by_row=True, classes=classes)
    whole = products_of(NAMES, sources, sums)
    rows = ClassRows(Sides(whole), classes[:, 0] > 0, next(left_out_rows(sources, sums, classes)))
    for score in SHARES:
        assert rows.score(score)[0] == pytest.approx(whole.score(score)[0], abs=1e-12)
        torch.testing.assert_close(rows.leave_one_out(score)[0], whole.leave_one_out(score)[0], atol=1e-12, rtol=0)


def test_few_classes_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = products()[3]
    monkeypatch.setattr("captum_kd.metrics.inference.class_shares._NUMBERS", 1)
    for one, other in zip(products()[3], expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
