"""Tables of tests: seed control, placebo Teachers, a second Teacher."""

from __future__ import annotations

from typing import Callable, Iterable, Sequence

from distillation.outcomes import RANDOM, SALIENT, SECOND, WHOLE, Record, SeedComparison, placebo_tests, seed_comparisons
from distillation.tables.table import ANSWERS, Cell, Table, spread

__all__ = ["placebos", "random_placebos", "second_teacher", "seed_control"]

QUESTIONS = {
    "fss": "FSS",
    "rs_distilled": "RS distilled",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share beyond the labels",
    "teacher_distilled_over_placebos": "Teacher's share over placebos",
    "teacher_only_distilled_over_placebos": "Teacher's share beyond the labels over placebos",
    "rs_distilled_all": "RS distilled, given all Bases but one",
    "teacher_distilled_all": "Teacher's share, given all Bases but one",
    "teacher_only_distilled_all": "Teacher's share beyond the labels, given all Bases but one",
}

GAINS = {"agreement_over_base": "agreement, over Base", "explanation_over_base": "agreement of maps, over Base"}
"""Further questions of the t test against placebo Teachers."""


def seed_control(record: Record) -> Table:
    has_random = any(each.view == RANDOM for each in seed_comparisons(record))
    return Table(
        "seed_control",
        "Seed control: is it more than another seed shows?",
        "Means and SD over pairs of Student and Base, and over pairs of Bases, the null; their difference (for FSS the null "
        "less the Students); p: exact, over all relabelings; corrected: by Holm over the layers. "
        + "Given all Bases but one: scores of Students after the span of these Bases is removed, and, as the null, of the Base "
        "left out. " * any(each.test["score"].endswith("_all") for each in seed_comparisons(record) if _is_shown(each))
        + "View random_placebos: over placebo Teachers from random weights. " * has_random
        + " ".join(_caveats(each.test for each in seed_comparisons(record) if _is_shown(each))),
        *_seed_comparisons(record, "Bases", _is_shown),
    )


def _is_shown(each: SeedComparison) -> bool:
    return each.view != SECOND and each.test["score"] in QUESTIONS


def placebos(record: Record) -> Table:
    return _placebo_table(
        record, "placebos", "Placebo Teachers: is it more than another Teacher of this recipe would have?", (WHOLE, SALIENT)
    )


def random_placebos(record: Record) -> Table:
    return _placebo_table(
        record,
        RANDOM,
        "Placebo Teachers from random weights: is it more than a Teacher without pretraining would have?",
        (RANDOM,),
    )


def _placebo_table(record: Record, name: str, title: str, views: Sequence[str]) -> Table:
    tests = [each for each in placebo_tests(record) if each[2] in views]
    fold = ["fold"] if len(record["folds"]) > 1 else []
    rows: list[list[Cell]] = [
        [
            *([number] if fold else []), group, WHOLE if view == RANDOM else view, (QUESTIONS | GAINS)[test["score"]],
            test["layer"], test["share"], test["mean"], test["standard_deviation"], test["statistic"], test["p_value"],
            test["adjusted_p_value"], ANSWERS[test["decision"]],
        ]
        for number, group, view, test in tests
    ]  # fmt: skip
    return Table(
        name,
        title,
        "The Teacher's share, or the gain of Students over Bases in agreement with the Teacher; the mean and SD of the same "
        "for the placebo Teachers (each a mean over pairs of Student and Base); and a t test of the Teacher as one draw of "
        "Teachers, corrected by Holm over the layers. "
        + " ".join(_caveats(test for *_, test in tests)),
        [
            *fold, "group", "view", "score", "layer", "Teacher", "placebos", "placebos SD", "t", "p", "p corrected", "answer",
        ],
        rows,
    )  # fmt: skip


def second_teacher(record: Record) -> Table:
    return Table(
        "second_teacher",
        "Second Teacher: is it more than Students of another Teacher show?",
        f"The Teacher's share with Students of a second Teacher in the Bases' place, on whole {record['unit']}: means and SD "
        "over pairs of a Student and a Student of the second Teacher, and over pairs of the latter, the null. All of them had a "
        "Teacher. The second Teacher's Students learned by responses, so for other techniques the technique is another "
        "explanation. p: exact, over all relabelings; corrected: by Holm over the layers.",
        *_seed_comparisons(
            record, "second Teacher's", lambda each: each.view == SECOND and each.test["score"].startswith("teacher")
        ),
    )


def _caveats(tests: Iterable[Record]) -> list[str]:
    """The caveats of some tests, each once."""
    return list(dict.fromkeys(caveat for test in tests for caveat in test["caveats"]))


def _seed_comparisons(
    record: Record, null: str, is_shown: Callable[[SeedComparison], bool]
) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of a table of seed comparisons, whose null has the heading ``null``."""
    fold = ["fold"] if len(record["folds"]) > 1 else []
    columns = [
        *fold, "group", "view", "score", "layer", "Students", "Students SD", null, f"{null} SD", "difference", "p", "p corrected",
        "answer",
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            *([each.fold] if fold else []), each.group, WHOLE if each.view == SECOND else each.view,
            QUESTIONS[each.test["score"]], each.test["layer"], *spread(each.students), *spread(each.null),
            each.test["statistic"], each.test["p_value"], each.test["adjusted_p_value"], ANSWERS[each.test["decision"]],
        ]
        for each in seed_comparisons(record)
        if is_shown(each)
    ]  # fmt: skip
    return columns, rows
