"""The tables of answers that a printed report shows."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from captum_kd.metrics.inference import QUESTIONS
from captum_kd.metrics.report.answers import COLUMNS, SHORT, answers, class_answers, input_answers


def answer(score: str, layer: str, decision: Optional[bool], group: Optional[str] = None, **more: Any) -> dict[str, Any]:
    p_value = {True: 0.01, False: 0.4, None: 1.0}[decision]
    return {
        "score": score, "layer": layer, "group": group, "decision": decision, "statistic": 0.012, "adjusted_p_value": p_value,
        "caveats": [], **more,
    }  # fmt: skip


def test_every_question_has_a_short_name() -> None:
    assert list(SHORT) == list(QUESTIONS)
    assert all(len(name) <= 42 for name in SHORT.values())


def test_marks_tell_yes_from_no_and_from_undecided() -> None:
    tests = [
        answer("fss", "a", True, caveats=["First."]),
        answer("fss", "b", False, caveats=["First."]),
        answer("fss", "c", None, caveats=["Second."]),
        answer("teacher_distilled", "a", False, adjusted_p_value=0.01),
        answer("teacher_distilled", "b", None, statistic=None),
    ]
    lines = answers(tests)
    assert lines[0].split() == ["a", "b", "c"]
    assert lines[1].split()[-3:] == ["+0.012*", "+0.012", "+0.012?"]
    assert lines[2].split()[-3:] == ["+0.012!", "-", "-"]
    assert lines[3].startswith("- * yes (p <= 0.05); ! no: p <= 0.05, but Students are not more similar to the Teacher")
    assert lines[3].endswith("; ? cannot be decided; no mark: no evidence.")
    assert lines[4:] == ["- First.", "- Second."]


def test_predictions_have_the_groups_side_by_side() -> None:
    tests = [answer("accuracy_over_base", "predictions", name == "x", name) for name in ("x", "y")]
    lines = answers(tests)
    assert lines[0].split() == ["predictions", "x", "y"]
    assert lines[1].split() == ["accuracy", "+0.012*", "+0.012"]


@pytest.mark.parametrize("layers", [1, COLUMNS, COLUMNS + 1, 17])
def test_many_layers_go_on_below(layers: int) -> None:
    names = [f"backbone.encoder.layer{i}.attention.output" for i in range(layers)]
    group = "A group of Students with a name that is far too long for a line"
    lines = answers([answer("fss", name, True, group) for name in names])
    assert max(map(len, lines)) <= 100
    assert sum(line.count("*") for line in lines[:-1]) == layers
    assert len(lines) == 2 * -(-layers // COLUMNS) + 1


def test_placebo_tests_show_the_difference_from_the_placebos() -> None:
    tests = [
        answer("teacher_distilled", "a", True, share=0.5, mean=0.25),
        answer("teacher_distilled", "b", None, share=None, mean=None, statistic=None),
    ]
    assert answers(tests)[1].split()[-2:] == ["+0.250*", "-"]


def test_classes_are_named_by_question() -> None:
    def of(score: str, decisions: list[Optional[bool]]) -> list[dict[str, Any]]:
        return [
            {"score": score, "layer": "a", "group_of_students": "x", "group": place, "decision": each}
            for place, each in enumerate(decisions)
        ]

    tests = of("rs_distilled", [True, False, True]) + of("teacher_distilled", [True] * 3) + of("shared_errors", [False] * 3)
    tests += [{**test, "caveats": ["Too few seeds."]} for test in of("accuracy_over_base", [None] * 3)]
    line, caveat = class_answers({"tests": tests}, "a", "classes")
    assert caveat == "- Too few seeds."
    assert line == (
        "- x. Yes for classes in RS of distilled features: 0, 2; Teacher's share: all. None in errors shared with the Teacher. "
        "Undecided: accuracy."
    )
    line, _ = class_answers({"tests": tests[-3:]}, "a", "classes")
    assert line == "- x. Undecided for all classes and questions."
    (line,) = class_answers({"tests": of("shared_errors", [False] * 3)}, "a", "groups")
    assert line == "- x. No yes for any of the groups."


def test_reliability_of_inputs_stands_beside_its_null() -> None:
    record = {"group_of_students": "x", "layer": "a", "score": "distilled", "correlation": 0.3, "reliability": 0.451}
    record["null_reliability"] = None
    lines = input_answers({"reliability": [record, {**record, "layer": "b", "null_reliability": 0.2}]})
    assert lines[0].split()[-2:] == ["a", "b"]
    assert lines[1] == "  x, parts in RS of distilled features".ljust(49) + ".45 (-)  .45 (.20)"
    (line,) = input_answers({"reliability": [{**record, "correlation": None}]})
    assert "needs two Students and two Bases" in line
