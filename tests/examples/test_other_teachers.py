"""Runs with other Teachers beside the Teacher: one whose Students stand in the Bases' place, and placebos."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from distillation.outcomes import SECOND, seed_comparisons
from small_quickstart import run


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = run(output, "--seeds", "2", "--controls", "other-teacher", "--placebos", "2", "--test-images", "30")
    return report


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_students_of_a_second_teacher_stand_in_the_bases_place(report: dict[str, Any]) -> None:
    second = report["folds"][0]["scores"][0][SECOND]
    pairs = {(row["student"], row["base"]) for row in second["rows"] if not row["score"].endswith("_all")}
    assert pairs == {(f"Response {i}", f"Control: another Teacher {j}") for i in (1, 2) for j in (1, 2)}
    compared = [each for each in seed_comparisons(report) if each.view == SECOND]
    assert {each.group for each in compared} == {"Response"}
    for each in compared:
        sign = -1 if each.test["score"] == "fss" else 1
        difference = sign * (sum(each.students) / len(each.students) - sum(each.null) / len(each.null))
        assert len(each.students) == 4 and len(each.null) == 2
        assert each.test["statistic"] == pytest.approx(difference, abs=1e-9)


def test_their_table_holds_the_teachers_share(report: dict[str, Any], output: Path) -> None:
    rows = rows_of(output / "tables" / "second_teacher.csv")
    assert {row["group"] for row in rows} == {"Response"} and {row["layer"] for row in rows} == {"stage1", "stage2", "stage3"}
    assert {"Teacher's share", "Teacher's share beyond the labels"} <= {row["score"] for row in rows}
    assert all(row["score"].startswith("Teacher's share") for row in rows)
    in_seed_control = rows_of(output / "tables" / "seed_control.csv")
    assert {row["group"] for row in in_seed_control} == {"Response", "Control: another Teacher"}
    assert {row["view"] for row in in_seed_control} == {"whole", "salient"}


def test_the_teachers_share_stands_beside_that_of_placebos(report: dict[str, Any], output: Path) -> None:
    rows = rows_of(output / "tables" / "placebos.csv")
    assert len(rows) == 2 * (2 * 2 * 3 + 2)  # groups; views, scores, layers; predictions and maps of whole images
    assert {row["answer"] for row in rows} == {"undecided"}  # two placebos; the t test needs four
    shares = {(row["group"], row["layer"]): row for row in rows_of(output / "tables" / "teacher_share_whole.csv")}
    for row in rows:
        if (row["view"], row["score"]) == ("whole", "Teacher's share"):
            over = float(shares[row["group"], row["layer"]]["distilled, over placebos"])
            assert over == pytest.approx(float(row["Teacher"]) - float(row["placebos"]), abs=1e-9)
    asked = {row["score"] for row in rows_of(output / "tables" / "seed_control.csv")}
    assert {"Teacher's share over placebos", "Teacher's share beyond the labels over placebos"} <= asked


def test_placebo_teachers_share_a_row_of_the_accuracies(report: dict[str, Any], output: Path) -> None:
    rows = {row["network"]: row for row in rows_of(output / "tables" / "accuracy.csv")}
    assert list(rows) == ["Teacher", "Other Teacher", "Placebo Teachers", "Base", "Response", "Control: another Teacher"]
    assert rows["Placebo Teachers"]["number"] == "2" and rows["Placebo Teachers"]["SD"]
