"""Seed control of Students given several Bases: against least squares and full enumeration, and its level."""

from itertools import product
from typing import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.several_bases import centered, leave_one_out_p_value, leave_one_out_statistic, left_of
from reference.literal import r
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import Products, geometry_products, pair_scores, seed_test
from captum_kd.metrics.inference import left_out_bases
from captum_kd.metrics.inference.left_out_bases import left_out_scores

Features = dict[str, Tensor]


def population(students: int, bases: int, seed: int, n: int = 20, gain: float = 0.0) -> Features:
    """Models with something in common; Students have more or less of the Teacher."""
    draw = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(n, width, generator=draw, dtype=torch.float64)

    common, teacher, labels = normal(4), normal(3), torch.nn.functional.one_hot(torch.arange(n) % 3).double()
    found = {f"s{i}": torch.cat([common, normal(3), gain * teacher], 1) for i in range(students)}
    found |= {f"b{i}": torch.cat([common, normal(3)], 1) for i in range(bases)}
    return {**found, "labels": labels, "teacher": torch.cat([teacher, common, labels], 1)}


def products_of(features: Features) -> Products:
    return geometry_products({name: euclidean_distances(each) for name, each in features.items()}, leave_one_out=False)


def models_of(features: Features) -> list[str]:
    return [name for name in features if name[0] in "sb"]


def literal(features: Features, target: str | tuple[str, ...]) -> tuple[list[Tensor], Tensor]:
    """Centered matrices of the models and of the target."""
    name, *removed = (target,) if isinstance(target, str) else target
    aim = centered(features[name])
    if removed:
        aim = left_of(aim, [centered(features[each]) for each in removed])
    return [centered(features[model]) for model in models_of(features)], aim


@pytest.mark.parametrize("target", ["labels", "teacher", ("teacher", "labels")])
@pytest.mark.parametrize(("students", "bases"), [(3, 3), (1, 3), (2, 4)])
def test_statistic_and_p_value_are_those_of_least_squares_and_enumeration(
    students: int, bases: int, target: str | tuple[str, ...]
) -> None:
    features = population(students, bases, seed=bases, gain=0.3)
    found = left_out_scores(products_of(features), models_of(features), students, target)
    statistic, p_value = leave_one_out_p_value(*_with_students(literal(features, target), students))
    test = found.test()
    assert test is not None and test.relabelings == len(found.statistics)
    assert test.statistic == pytest.approx(statistic, abs=1e-10) and test.p_value == pytest.approx(p_value)


def _with_students(matrices: tuple[list[Tensor], Tensor], students: int) -> tuple[list[Tensor], int, Tensor]:
    return matrices[0], students, matrices[1]


def test_scores_are_those_given_all_bases_but_one() -> None:
    features = population(2, 3, seed=0)
    found = left_out_scores(products_of(features), models_of(features), 2, "teacher").scores
    models, aim = literal(features, "teacher")
    for b in range(3):
        removed = [models[2 + other] for other in range(3) if other != b]
        for i in (0, 1, 2 + b):
            assert float(found[i, b]) == pytest.approx(float(r(left_of(models[i], removed), aim)), abs=1e-10)
    assert int(torch.isnan(found).sum()) == 6  # Bases that are removed themselves


@settings(max_examples=15, deadline=None)
@given(students=st.integers(1, 3), seed=st.integers(0, 1000))
def test_with_two_bases_the_test_is_that_of_pairs(students: int, seed: int) -> None:
    features = population(students, 2, seed)
    products, models = products_of(features), models_of(features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(left_out_bases, "LEAST_BASES", 2)
        found = left_out_scores(products, models, students, "labels").test()
    assert found == pytest.approx(seed_test(pair_scores(products, models, "labels"), students), abs=1e-12)


@pytest.mark.parametrize("shared", [[(0, 0), (1, 1), (2, 2)], [(1, 0), (0, 2)]])
def test_students_are_not_scored_given_the_base_of_their_own_seed(shared: Sequence[tuple[int, int]]) -> None:
    """Full enumeration: swaps within pairs, and choices among models without a partner."""
    features = population(3, 3, seed=5)
    models, aim = literal(features, "teacher")
    partner = {s: 3 + b for s, b in shared} | {3 + b: s for s, b in shared}
    free = [model for model in range(6) if model not in partner]
    every = [
        leave_one_out_statistic(models, [*swapped, *others], aim, partner)
        for swapped in product(*((s, 3 + b) for s, b in shared))
        for others in ([[model] for model in free] or [[]])
    ]
    found = left_out_scores(products_of(features), models_of(features), 3, "teacher", shared_seeds=shared)
    test = found.test()
    assert test is not None and test.relabelings == len(every)
    assert test.statistic == pytest.approx(every[0], abs=1e-10)
    assert sorted(found.statistics.tolist()) == pytest.approx(sorted(every), abs=1e-10)
    s, b = shared[0]
    assert [bool(torch.isnan(found.scores[s, other])) for other in range(3)] == [other != b for other in range(3)]


def test_the_order_of_models_does_not_matter() -> None:
    features = population(2, 4, seed=3, gain=0.2)
    products = products_of(features)
    first = left_out_scores(products, ["s0", "s1", "b0", "b1", "b2", "b3"], 2, "labels").test()
    second = left_out_scores(products, ["s1", "s0", "b2", "b3", "b1", "b0"], 2, "labels").test()
    assert first == pytest.approx(second, abs=1e-12)


def test_what_students_alone_have_of_the_teacher_is_found() -> None:
    features = population(4, 4, seed=1, n=60, gain=0.7)
    test = left_out_scores(products_of(features), models_of(features), 4, "teacher").test()
    assert test is not None and test.statistic > 0.1 and test.p_value == test.smallest_p_value == pytest.approx(1 / 70)


def test_a_copy_of_a_model_has_no_score_given_it() -> None:
    features = population(2, 3, seed=2)
    features["s0"] = 2 * features["b1"]
    assert left_out_scores(products_of(features), models_of(features), 2, "labels").test() is None


def test_a_target_without_geometry_has_no_score() -> None:
    features = population(2, 3, seed=2)
    features["teacher"] = torch.zeros(20, 1)
    assert left_out_scores(products_of(features), models_of(features), 2, "teacher").test() is None


def rates(p_values: Tensor, levels: Sequence[float]) -> None:
    for level in levels:
        share = float((p_values <= level + 1e-9).double().mean())
        assert share == pytest.approx(level, abs=3 * (level * (1 - level) / len(p_values)) ** 0.5)


def test_the_level_is_exact_under_exchangeable_models() -> None:
    """3 + 3 models of one recipe, 20 relabelings: p <= a with probability a, where a is attainable."""
    p_values = []
    for seed in range(300):
        features = population(3, 3, seed, n=12)
        test = left_out_scores(products_of(features), models_of(features), 3, "teacher").test()
        assert test is not None
        p_values.append(test.p_value)
    rates(torch.tensor(p_values), (1 / 20, 5 / 20, 10 / 20))


def test_the_level_is_exact_when_pairs_share_their_seeds() -> None:
    """Models of one seed are alike. 4 pairs have 16 relabelings."""
    p_values, shared = [], [(i, i) for i in range(4)]
    for seed in range(200):
        features = population(4, 4, seed, n=14)
        draw = torch.Generator().manual_seed(seed)
        for i in range(4):
            start = torch.randn(14, 5, generator=draw, dtype=torch.float64)
            for name in (f"s{i}", f"b{i}"):
                features[name] = torch.cat([features[name], start], 1)
        test = left_out_scores(products_of(features), models_of(features), 4, "teacher", shared_seeds=shared).test()
        assert test is not None
        p_values.append(test.p_value)
    rates(torch.tensor(p_values), (1 / 16, 4 / 16, 8 / 16))


@pytest.mark.parametrize(
    ("models", "students", "shared", "said"),
    [
        (["s0", "b0", "b1"], 1, (), "3 Bases"),
        (["s0", "b0", "b1", "b9"], 1, (), "must name geometries of the products"),
        (["s0", "s1", "b0", "b1", "b2"], 2, [(0, 0), (1, 0)], "at most once"),
    ],
)
def test_arguments_that_cannot_be(models: list[str], students: int, shared: Sequence[tuple[int, int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        left_out_scores(products_of(population(2, 3, 0)), models, students, "labels", shared_seeds=shared)
