"""Cautions that come before a run's scores."""

from __future__ import annotations

from typing import Any

import pytest
from distillation.cautions import cautions, failures
from distillation.command_line import FAILED, exit_status
from small_quickstart import run


def record(accuracy: dict[str, float], chance: float = 0.5, held_out: int = 400) -> dict[str, Any]:
    """A Teacher, an untrained Teacher, two Bases, two Students and a control."""
    guides = [{"name": name, "trained": name == "Teacher", "is_placebo": False} for name in ("Teacher", "Untrained Teacher")]
    groups = [
        {"name": "Response", "students": ["Response 1", "Response 2"], "guide": "Teacher", "is_control": False},
        {"name": "Control", "students": ["Control 1"], "guide": "Teacher", "is_control": True},
    ]
    learned = {name: 0.8 for name in ("Teacher", "Base 1", "Base 2", "Control 1")}
    every = {**learned, "Untrained Teacher": 0.5, "Teacher": 0.9, "Response 1": 0.85, "Response 2": 0.85, **accuracy}
    fold = {"accuracy": every, "chance": chance, "images": {"held_out": held_out}}
    return {"plan": {"guides": guides, "groups": groups, "bases": ["Base 1", "Base 2"]}, "folds": [fold], "unit": "images"}


def test_networks_that_learned_and_students_that_gained_need_no_caution() -> None:
    assert cautions(record({})) == []


def test_networks_at_chance_are_named_first() -> None:
    """A trial run of two classes with Teacher .40, Base .49 and Student .50 had a Teacher's share of .80."""
    low = {"Teacher": 0.4, "Base 1": 0.49, "Base 2": 0.49, "Response 1": 0.5, "Response 2": 0.8}
    first, *_ = cautions(record(low))
    assert first.startswith(
        "At chance: Teacher (accuracy 0.400), Base (2 of 2, accuracy 0.490), Response (1 of 2, accuracy 0.500). "
        "Always naming the most frequent class is right in 0.500"
    )
    assert "Untrained" not in first


@pytest.mark.parametrize("accuracy, is_at_chance", [(0.549, True), (0.551, False)])
def test_an_accuracy_must_exceed_chance_by_two_standard_errors(accuracy: float, is_at_chance: bool) -> None:
    found = cautions(record({"Teacher": accuracy}))
    assert any("At chance" in each for each in found) == is_at_chance  # the standard error of .5 over 400 images is .025


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert "Control (accuracy 0.800)" in cautions(record({}, chance=0.79))[0]


def test_students_no_better_than_bases_are_named() -> None:
    (only,) = cautions(record({"Response 1": 0.79, "Response 2": 0.81, "Control 1": 0.6}))
    assert "the mean of the Bases is 0.800, that of the Students Response 0.800." in only


def test_a_teacher_no_better_than_the_bases_is_named_before_the_students() -> None:
    first, second = cautions(record({"Teacher": 0.79, "Response 1": 0.7, "Response 2": 0.8}))
    assert first.startswith("No better Teacher: the mean accuracy of the Bases is 0.800, that of Teacher 0.790.")
    assert second.startswith("No gain in accuracy")


@pytest.mark.parametrize(
    "accuracy, failed",
    [
        ({}, False),
        ({"Base 1": 0.5}, True),
        ({"Control 1": 0.5}, False),  # shuffled labels teach nothing
        ({"Teacher": 0.761}, False),  # the standard error of .8 over 400 images is .02
        ({"Teacher": 0.759}, True),
        ({"Response 1": 0.7, "Response 2": 0.7}, False),  # an answer, and no failure
    ],
)
def test_failed_trainings_have_an_exit_status(accuracy: dict[str, float], failed: bool) -> None:
    assert bool(failures(record(accuracy))) == failed
    assert exit_status(record(accuracy)) == (FAILED if failed else 0)


def test_console_and_page_begin_with_cautions(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)  # trained for one epoch on 40 scenes
    printed = capsys.readouterr().out
    assert printed.index("Handwritten digits") < printed.index("CAUTION. At chance: Teacher") < printed.index("Accuracy\n")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.index("<h1>") < page.index("Caution. At chance") < page.index("<table")
