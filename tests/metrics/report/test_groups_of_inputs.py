"""Scores of classes and other groups of inputs in a report, against literal matrices and means over the group."""

import json
from typing import Any

import pytest
import torch
from models import ConvNet
from population import N, batches, compare, data, hooked, related
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from captum_kd.metrics import Explanations, Predictions, TokenPositions
from captum_kd.metrics.inference import holm
from tests.reference import literal

STUDENTS = {f"s{i}": related(i) for i in range(3)}
BASES = {f"b{i}": related(10 + i) for i in range(3)}
TEACHER = related(20, width=9)


def report(**kwargs: Any) -> Any:
    given: dict[str, Any] = {"teacher": TEACHER, "by_class": True, "confidence": 0.95, "n_permutations": 0, **kwargs}
    return compare(STUDENTS, BASES, "conv2", batches(8), **given)


@pytest.fixture(scope="module")
def full() -> Any:
    return report(predictions=True)


def literal_geometries() -> dict[str, Tensor]:
    x, _ = data()
    models = {**STUDENTS, **BASES, "teacher": TEACHER}
    return {name: literal.u_centered(literal.distances(hooked(model, "conv2", x))) for name, model in models.items()}


def rows_of(found: Any, **key: Any) -> list[dict[str, Any]]:
    return [row for row in found.classes["rows"] if key.items() <= row.items()]


def test_scores_of_each_class_equal_literal_ones(full: Any) -> None:
    geometries, (_, y) = literal_geometries(), data()
    s, b, t = geometries["s1"], geometries["b2"], geometries["teacher"]
    distilled, residual = literal.without(s, b), literal.without(b, s)
    assert full.classes["of"] == "class"
    sizes = {int(label): int((y == label).sum()) for label in y.unique()}
    assert {each["group"]: each["inputs"] for each in full.classes["groups"]} == sizes
    for label, size in sizes.items():
        inside = y == label
        g = literal.u_centered(literal.distances(inside.double()[:, None]))

        def within(p: Tensor, q: Tensor) -> float:
            return float((p * q)[inside].sum() / (p[inside].norm() * q[inside].norm()))

        expected = {
            "rs_student": literal.r(s, g), "rs_base": literal.r(b, g), "rs_teacher": literal.r(t, g),
            "rs_distilled": literal.r(distilled, g), "rs_residual": literal.r(residual, g),
            "teacher_distilled": within(distilled, t), "teacher_residual": within(residual, t),
        }  # fmt: skip
        for score, value in expected.items():
            (row,) = rows_of(full, student="s1", base="b2", layer="conv2", score=score, group=label)
            assert row["value"] == pytest.approx(float(value), abs=1e-6)
            assert row["low"] < row["value"] < row["high"] and row["n"] == size
            assert (row["p_value"] is not None) == (score in ("rs_distilled", "rs_residual"))


def test_means_of_predictions_are_means_over_the_class(full: Any) -> None:
    x, y = data()
    right = {name: model(x).argmax(1) == y for name, model in {**STUDENTS, **BASES}.items()}
    for label in y.unique().tolist():
        (row,) = rows_of(full, student="s0", base="b1", score="accuracy_over_base", group=label)
        expected = (right["s0"].double() - right["b1"].double())[y == label].mean()
        assert row["value"] == pytest.approx(float(expected)) and row["layer"] == "predictions"
    assert rows_of(full, score="agreement_over_base")


def test_holm_is_over_the_classes_of_each_pair_and_score(full: Any) -> None:
    own = rows_of(full, student="s2", base="b0", layer="conv2", score="rs_distilled")
    assert [row["adjusted_p_value"] for row in own] == pytest.approx(holm([row["p_value"] for row in own]))
    assert all(row["adjusted_p_value"] is None for row in rows_of(full, score="rs_student"))


def test_seed_control_of_each_class(full: Any) -> None:
    tests = full.classes["tests"]
    questions = {test["score"] for test in tests}
    assert {"rs_distilled", "teacher_distilled", "accuracy_over_base"} <= questions
    classes = len(full.classes["groups"])
    for question in ("rs_distilled", "teacher_distilled"):
        own = [test for test in tests if test["score"] == question]
        assert [test["group"] for test in own] == [each["group"] for each in full.classes["groups"]]
        for test in own:
            pairs = rows_of(full, layer="conv2", score=question, group=test["group"])
            of_students = sum(row["value"] for row in pairs) / len(pairs)
            assert test["statistic"] < of_students + 1 and test["smallest_p_value"] == pytest.approx(1 / 20)
            assert test["smallest_adjusted_p_value"] == pytest.approx(min(1, classes / 20))
            assert test["decision"] is None and f"{classes} classes" in test["sentence"]
            assert test["sentence"].startswith(f"conv2, class {test['group']}: ")


def test_the_report_itself_is_unchanged_and_has_all_of_it_as_text(full: Any) -> None:
    plain = report(by_class=False, predictions=True)
    assert len(plain.rows) == len(full.rows)
    for row, expected in zip(plain.rows, full.rows):
        for key, value in expected.items():  # the number of threads may change the last digits
            assert row[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value)
    assert [each["decision"] for each in plain.seed_control["tests"]] == [
        each["decision"] for each in full.seed_control["tests"]
    ]
    assert plain.classes is None and plain.inputs is None
    assert json.loads(full.to_json())["classes"]["rows"][0]["group"] == full.classes["rows"][0]["group"]
    assert full.to_csv(table="classes").startswith("student,base,layer,score,group,value,low,high,p_value,adjusted_p_value,n")
    for text in (full.to_markdown(), str(full)):
        assert "means over the pairs of models" in text and "one against the rest" in " ".join(text.split())
    assert max(map(len, str(full).split("\n"))) <= 100


def test_without_confidence_there_are_values_alone() -> None:
    found = report(confidence=None)
    assert all(row["value"] is not None and row["low"] is row["p_value"] is None for row in found.classes["rows"])


def test_blocks_and_groups_by_another_name_change_nothing(full: Any) -> None:
    _, y = data()
    found = report(by_class=False, groups_of_inputs=(7 * y + 3).tolist(), block_size=9)
    assert found.classes["of"] == "group"
    own = [row for row in full.classes["rows"] if row["layer"] == "conv2"]
    for row, expected in zip(found.classes["rows"], own, strict=True):
        assert row["group"] == 7 * expected["group"] + 3
        assert row["value"] == pytest.approx(expected["value"], abs=1e-6)
        assert row["low"] == pytest.approx(expected["low"], abs=1e-5)


def test_groups_without_labels() -> None:
    x, y = data()
    found = compare(
        STUDENTS["s0"], BASES["b0"], "conv2", [x[:16], x[16:]], labels=False, groups_of_inputs=y, confidence=0.9
    )
    assert {row["score"] for row in found.classes["rows"]} == {"rs_student", "rs_base", "rs_distilled", "rs_residual"}
    assert found.classes["tests"] == []


def test_small_groups_and_single_ones_have_no_scores_but_a_note() -> None:
    groups = [0] * 4 + [2] * (N - 4)
    found = report(by_class=False, groups_of_inputs=groups, predictions=Predictions())
    assert all(row["value"] is None for row in rows_of(found, group=0))
    relevance = {row["score"] for row in rows_of(found, group=2) if row["value"] is None}
    assert relevance == {"rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_teacher"}
    assert [each["note"] is None for each in found.classes["groups"]] == [False, False]
    assert any("group 0 (4 inputs), 2 (29 inputs)" in note for note in found.notes)
    single = report(by_class=False, groups_of_inputs=[5] * N)
    (share,) = rows_of(single, student="s0", base="b0", score="teacher_distilled")
    (whole,) = (row for row in single.rows if (row["student"], row["base"], row["score"]) == ("s0", "b0", "teacher_distilled"))
    assert (share["value"], share["low"]) == pytest.approx((whole["value"], whole["low"]), abs=1e-9)


def test_constant_features_have_no_scores_in_classes() -> None:
    dead = ConvNet(6, seed=1).eval()
    with torch.no_grad():
        dead.conv2.weight.zero_()
    with pytest.warns(UserWarning):
        found = compare({"dead": dead}, BASES, "conv2", batches(8), teacher=TEACHER, by_class=True, confidence=0.9)
    assert all(row["value"] is None for row in rows_of(found, score="rs_distilled"))
    assert all(row["value"] is not None for row in rows_of(found, score="rs_base"))
    assert all(test["decision"] is None for test in found.classes["tests"] if test["score"] == "rs_distilled")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups_of_inputs": [0] * (N - 1)}, ValueError, f"has {N - 1} integers, but the data hold {N}"),
        ({"groups_of_inputs": [0] * (N - 1) + [-1]}, ValueError, "got -1"),
        ({"groups_of_inputs": [0.5] * N}, TypeError, "one non-negative integer for each input"),
        ({"groups_of_inputs": torch.zeros(N)}, TypeError, "float32"),
        ({"groups_of_inputs": torch.zeros(N, 1, dtype=torch.long)}, ValueError, "shape"),
        ({"groups_of_inputs": "classes"}, TypeError, "groups_of_inputs"),
        ({"groups_of_inputs": set(range(N))}, TypeError, "groups_of_inputs"),
        ({"groups_of_inputs": dict.fromkeys(range(N))}, TypeError, "groups_of_inputs"),
        ({"groups_of_inputs": [0] * N, "by_class": True}, ValueError, "leave out by_class or groups_of_inputs"),
        ({"by_class": True, "labels": False}, ValueError, "by_class needs labels"),
        ({"by_class": True, "population": "batch"}, ValueError, 'by_class needs population="all"'),
        ({"groups_of_inputs": [0] * N, "population": "batch"}, ValueError, 'groups_of_inputs needs population="all"'),
        ({"by_input": True, "population": "batch"}, ValueError, 'by_input needs population="all"'),
        ({"by_input": True, "positions": TokenPositions()}, ValueError, "TokenPositions"),
        ({"by_class": "yes"}, TypeError, "by_class"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        compare(STUDENTS, BASES, "conv2", batches(8), **arguments)


def test_the_length_is_checked_where_it_is_known_only_afterwards() -> None:
    with pytest.raises(ValueError, match="has 32 integers, but the data hold 33"):
        compare(STUDENTS, BASES, "conv2", iter(batches(8)), groups_of_inputs=[0] * 32)


def input_maps(model: Any, layer: Any, inputs: Tensor, classes: Tensor) -> Tensor:
    return inputs * model.conv1.weight[0, 0, 0, 0].detach()


def test_maps_at_the_inputs_do_not_take_the_place_of_the_layers_in_tables() -> None:
    found = report(explanations=Explanations(input_maps, layer="inputs"))
    (mean_of_rows,) = {
        round(sum(row["value"] for row in rows) / len(rows), 3)
        for rows in [rows_of(found, layer="conv2", score="rs_distilled", group=0)]
    }
    for text in (str(found), found.to_markdown()):
        assert f"{mean_of_rows:.3f}" in text and "T. dist." in text
    assert "Classes at conv2: means over the pairs" in str(found)


def test_large_numbers_of_groups_keep_the_table_in_its_columns() -> None:
    found = report(by_class=False, groups_of_inputs=(data()[1] + 10**15).tolist(), predictions=True)
    table = str(found).split("Groups of inputs at conv2")[1].split("\n")
    lines = [line for line in table if line.startswith(("group ", "1000000000000"))]
    assert len(lines) == 4 and {len(line) for line in lines} == {100}


def test_a_layer_may_be_called_predictions_without_scores_of_predictions() -> None:
    layers = {"predictions": "conv2"}
    assert "T. dist." in str(compare(STUDENTS, BASES, layers, batches(8), teacher=TEACHER, by_class=True))
    with pytest.raises(ValueError, match="give that one another label"):
        compare(STUDENTS, BASES, layers, batches(8), teacher=TEACHER, predictions=True)


@pytest.mark.parametrize("sampler", [RandomSampler, SubsetRandomSampler])
def test_groups_of_a_loader_that_shuffles_are_refused(sampler: Any) -> None:
    dataset, groups = TensorDataset(*data()), [place % 2 for place in range(N)]

    def loader(generator: Any = None) -> DataLoader:
        return DataLoader(dataset, 8, sampler=sampler(range(N), generator=generator))

    with pytest.raises(ValueError, match="shuffles its inputs"):
        compare(STUDENTS, BASES, "conv2", loader(), groups_of_inputs=groups)
    in_batches = DataLoader(dataset, batch_sampler=BatchSampler(sampler(range(N)), 8, drop_last=False))
    with pytest.raises(ValueError, match="shuffles its inputs"):
        compare(STUDENTS, BASES, "conv2", in_batches, groups_of_inputs=groups)
    known = loader(torch.Generator().manual_seed(0))  # its order can be known
    assert compare(STUDENTS, BASES, "conv2", known, groups_of_inputs=groups).classes is not None
    assert any("it shuffles" in note for note in compare(STUDENTS, BASES, "conv2", loader(), by_input=True).notes)
