"""What ``report.json`` holds, read the same way by tables, figures and whoever compares several runs."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Sequence

from distillation.plan import BASE, PLACEBO

__all__ = [
    "RANDOM", "SALIENT", "SECOND", "WHOLE", "Record", "SeedComparison", "members_of", "placebo_tests", "score_rows",
    "seed_comparisons",
]  # fmt: skip

Record = dict[str, Any]

WHOLE, SALIENT = "whole", "salient"
"""The views: whole inputs, and each network's inputs reduced to the half that its own map calls salient."""

SECOND = "second_teacher"
"""Whole inputs, with the Students of a second Teacher in the Bases' place."""

RANDOM = "random_placebos"
"""Whole inputs, with placebo Teachers that start from random weights."""


class SeedComparison(NamedTuple):
    """One question to the seeds at one layer.

    Attributes:
        fold: from 1.
        group: of the Students.
        view: of the inputs, ``SECOND`` or ``RANDOM``.
        test: its outcome, as reports hold it.
        students: scores of the pairs of Student and Base.
        null: scores of the pairs of Bases. With ``SECOND``, the Students of a second Teacher are the Bases.
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
            if test["score"].endswith("_all"):  # of Students given several Bases, which are no pairs
                continue
            if view == RANDOM and not test["score"].endswith("_over_placebos"):  # the same as in WHOLE
                continue
            group = _group(record, scores, test)
            asked = [
                row
                for row in control["pairs"]
                if (row["score"], row["layer"]) == (test["score"], test["layer"]) and row["value"] is not None
            ]
            yield SeedComparison(
                number,
                group,
                view,
                test,
                [row["value"] for row in asked if row["model"] in members[group]],
                [row["value"] for row in asked if {row["model"], row["given"]} <= bases],
            )


def placebo_tests(record: Record) -> Iterator[tuple[int, str, str, Record]]:
    """All tests of the Teacher against placebo Teachers: fold (from 1), group, view, outcome as reports hold it."""
    for number, scores, view in _reports(record, (WHOLE, SALIENT, RANDOM)):
        for test in (scores[view]["placebos"] or {"tests": []})["tests"]:
            yield number, _group(record, scores, test), view, test


def _reports(record: Record, views: Sequence[str]) -> Iterator[tuple[int, Record, str]]:
    """Fold (from 1), scores of a Teacher, view."""
    for number, fold in enumerate(record["folds"], start=1):
        for scores in fold["scores"]:
            for view in views:
                if scores.get(view) is not None:
                    yield number, scores, view


def _group(record: Record, scores: Record, test: Record) -> str:
    """A test's group of Students; a report of one group does not name it."""
    names = [group["name"] for group in record["plan"]["groups"] if group["teacher"] == scores["teacher"]]
    return str(test["group"] or names[0])
