"""What ``report.json`` holds, read the same way by tables, figures and whoever compares several runs."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Optional, Sequence

from distillation.plan import BASE, PLACEBO

__all__ = [
    "CLASS_SCORES", "PREDICTIONS", "RANDOM", "SALIENT", "SECOND", "WHOLE", "Record", "SeedComparison", "class_rows",
    "class_tests", "input_parts", "members_of", "network_values", "null_values", "placebo_tests", "score_rows",
    "seed_comparisons",
]  # fmt: skip

Record = dict[str, Any]

WHOLE, SALIENT = "whole", "salient"
"""The views: whole inputs, and each network's inputs reduced to the half that its own map calls salient."""

SECOND = "second_teacher"
"""Whole inputs, with the Students of a second Teacher in the Bases' place."""

RANDOM = "random_placebos"
"""Whole inputs, with placebo Teachers that start from random weights."""

PREDICTIONS = "predictions"
"""The layer in the rows on predictions."""

CLASS_SCORES = (
    "accuracy_student", "accuracy_base", "accuracy_teacher", "accuracy_over_base", "agreement_student_teacher",
    "agreement_base_teacher", "agreement_over_base", "rs_distilled", "rs_residual", "teacher_distilled", "teacher_residual",
)  # fmt: skip
"""Scores of single classes in the record, at the last compared layer."""


class SeedComparison(NamedTuple):
    """One question to the seeds at one layer.

    Attributes:
        fold: from 1.
        group: of the Students.
        view: of the inputs, ``SECOND`` or ``RANDOM``.
        test: its outcome, as reports hold it.
        students: scores of the pairs of Student and Base. Given all Bases but one: of each Student and left-out Base.
        null: scores of the pairs of Bases. Given all Bases but one: of each Base, given the others. With ``SECOND``, the Students
            of a second Teacher are the Bases.
    """

    fold: int
    group: str
    view: str
    test: Record
    students: list[float]
    null: list[float]


def members_of(plan: Record) -> dict[str, list[str]]:
    """Names of the networks by what they are: each guide, placebo Teachers of a kind together, Bases, groups of Students."""
    members: dict[str, list[str]] = {}
    for guide in plan["guides"]:
        title = guide["name"]
        if guide["is_placebo"]:
            title = f"{PLACEBO}s, random weights" if guide.get("from_random") else f"{PLACEBO}s"
        members.setdefault(title, []).append(guide["name"])
    return {**members, BASE: plan["bases"], **{group["name"]: group["students"] for group in plan["groups"]}}


def score_rows(record: Record) -> Iterator[Record]:
    """Every score of every pair, layer, view and formula, with its fold, the Student's group and the Teacher."""
    group_of = {name: group["name"] for group in record["plan"]["groups"] for name in group["students"]}
    for number, fold in enumerate(record["folds"], start=1):
        for scores in fold["scores"]:
            common = {"fold": number, "teacher": scores["teacher"]}
            for view in (WHOLE, SALIENT):
                for row in scores[view]["rows"]:
                    yield {**common, "group": group_of[row["student"]], "view": view, "formula": "unbiased", **row}
            for row in scores["published"]:
                yield {**common, "group": group_of[row["student"]], "formula": "published", **row}


def seed_comparisons(record: Record) -> Iterator[SeedComparison]:
    """All tests of seed control with the scores that they compare; none where there is one Base."""
    members = {group["name"]: group["students"] for group in record["plan"]["groups"]}
    for number, scores, view in _reports(record, (WHOLE, SALIENT, SECOND, RANDOM)):
        control = scores[view]["seed_control"]
        if control is None:
            continue
        bases = set(control["groups"][0]["bases"])
        for test in control["tests"]:
            if view == RANDOM and not test["score"].endswith("_over_placebos"):  # the same as in WHOLE
                continue
            group = _group(record, scores, test["group"])
            asked = [
                row
                for row in [*control["pairs"], *control.get("left_out", ())]
                if (row["score"], row["layer"]) == (test["score"], test["layer"]) and row["value"] is not None
            ]
            yield SeedComparison(
                number,
                group,
                view,
                test,
                [row["value"] for row in asked if row["model"] in members[group]],
                [row["value"] for row in asked if {row["model"], row.get("given", row["model"])} <= bases],
            )


def placebo_tests(record: Record) -> Iterator[tuple[int, str, str, Record]]:
    """All tests of the Teacher against placebo Teachers: fold (from 1), group, view, outcome as reports hold it."""
    for number, scores, view in _reports(record, (WHOLE, SALIENT, RANDOM)):
        for test in (scores[view]["placebos"] or {"tests": []})["tests"]:
            yield number, _group(record, scores, test["group"]), view, test


def network_values(
    reports: Sequence[Record], score: Optional[str], of: Sequence[str], students: Optional[Sequence[str]] = None,
    layer: Optional[str] = None,
) -> list[float]:
    """The values of a score, one for each network or pair that it is of, though rows repeat it for all pairs.

    Args:
        reports: one for each fold.
        score: the score.
        of: "student" and "base", or one of them, or neither for a score of the Teacher.
        students: those that are chosen; all by default.
        layer: the layer, if the score has several.
    """
    found = {
        (fold, *(row[key] for key in of)): row["value"]
        for fold, report in enumerate(reports)
        for row in report["rows"]
        if row["score"] == score and row["value"] is not None and (students is None or row["student"] in students)
        and layer in (None, row["layer"])
    }
    return list(found.values())


def null_values(reports: Sequence[Record], score: str) -> list[float]:
    """The values of a score for all pairs of Bases."""
    found = []
    for control in (report["seed_control"] for report in reports if report["seed_control"] is not None):
        bases = set(control["groups"][0]["bases"])
        of_score = [row for row in control["pairs"] if row["score"] == score and row["value"] is not None]
        found += [row["value"] for row in of_score if {row["model"], row["given"]} <= bases]
    return found


def class_rows(record: Record) -> Iterator[Record]:
    """Scores of every class and pair on whole inputs, with the fold, the Student's group and the Teacher."""
    group_of = {name: group["name"] for group in record["plan"]["groups"] for name in group["students"]}
    for number, scores, view in _reports(record, (WHOLE,)):
        for row in scores[view]["classes"]["rows"]:
            yield {**row, "fold": number, "class": row["group"], "group": group_of[row["student"]]}


def class_tests(record: Record) -> Iterator[Record]:
    """Seed control of every class, with the fold and the group of Students."""
    for number, scores, view in _reports(record, (WHOLE,)):
        for test in scores[view]["classes"]["tests"]:
            group = _group(record, scores, test["group_of_students"])
            yield {**test, "fold": number, "class": test["group"], "group": group}


def input_parts(record: Record, part: str) -> Iterator[Record]:
    """Records of the ``part`` "rows" (of single inputs) or "reliability", with the fold and the group of Students. None where
    Students of several groups were averaged."""
    for number, scores, view in _reports(record, (WHOLE,)):
        groups = [group for group in record["plan"]["groups"] if group["teacher"] == scores["teacher"]]
        for row in scores[view]["inputs"][part]:
            if row["group_of_students"] is not None or len(groups) == 1:
                yield {**row, "fold": number, "group": _group(record, scores, row["group_of_students"])}


def _reports(record: Record, views: Sequence[str]) -> Iterator[tuple[int, Record, str]]:
    """Fold (from 1), scores of a Teacher, view."""
    for number, fold in enumerate(record["folds"], start=1):
        for scores in fold["scores"]:
            for view in views:
                if scores.get(view) is not None:
                    yield number, scores, view


def _group(record: Record, scores: Record, name: Optional[str]) -> str:
    """A group of Students by its name in a report, which does not name a single one."""
    names = [group["name"] for group in record["plan"]["groups"] if group["teacher"] == scores["teacher"]]
    return name or str(names[0])
