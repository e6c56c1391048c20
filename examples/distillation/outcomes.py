"""What ``report.json`` holds, read the same way by tables, figures and whoever compares several runs."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple

from distillation.plan import BASE, PLACEBO

__all__ = ["SALIENT", "SECOND", "WHOLE", "Record", "SeedComparison", "members_of", "score_rows", "seed_comparisons"]

Record = dict[str, Any]

WHOLE, SALIENT = "whole", "salient"
"""The views: whole images, and each network's images reduced to the half that its own map calls salient."""

SECOND = "second_teacher"
"""Whole images, with the Students of a second Teacher in the Bases' place."""


class SeedComparison(NamedTuple):
    """One question to the seeds at one layer.

    Attributes:
        fold: from 1.
        group: of the Students.
        view: of the images, or ``SECOND``.
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
    """Names of the networks by what they are: each guide, the placebo Teachers together, Bases, groups of Students."""
    members: dict[str, list[str]] = {}
    for guide in plan["guides"]:
        members.setdefault(f"{PLACEBO}s" if guide["is_placebo"] else guide["name"], []).append(guide["name"])
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
    groups = {group["name"]: group for group in record["plan"]["groups"]}
    for number, fold in enumerate(record["folds"], start=1):
        for scores in fold["scores"]:
            for view in (WHOLE, SALIENT, SECOND):
                control = scores[view] and scores[view]["seed_control"]
                if not control:
                    continue
                bases = set(control["groups"][0]["bases"])
                for test in control["tests"]:
                    # A report of one group does not name it.
                    group = test["group"] or next(
                        name for name, each in groups.items() if each["teacher"] == scores["teacher"]
                    )
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
                        [row["value"] for row in asked if row["model"] in groups[group]["students"]],
                        [row["value"] for row in asked if {row["model"], row["given"]} <= bases],
                    )
