"""Tables of predictions: accuracy, calibration, agreement with the Teacher, and their seed control."""

from __future__ import annotations

from typing import Callable, Mapping, Optional, Sequence

from distillation.outcomes import WHOLE, Record, network_values, null_values, seed_comparisons
from distillation.plan import BASE
from distillation.tables.table import ANSWERS, Cell, Table, spread

__all__ = ["prediction_tests", "predictions"]

SCORES: Mapping[str, tuple[str, Optional[str], Optional[str]]] = {
    "accuracy": ("accuracy_student", "accuracy_base", "accuracy_teacher"),
    "calibration error": ("ece_student", "ece_base", "ece_teacher"),
    "agreement": ("agreement_student_teacher", "agreement_base_teacher", None),
    "KL": ("kl_student_teacher", "kl_base_teacher", None),
    "over placebos": ("agreement_over_placebos", None, None),
    "shared errors": ("shared_errors", None, None),
    "shared right": ("shared_right_answers", None, None),
}
"""By heading, the scores of Student, Base and Teacher. Without a score of the Base, it is one of a Student and a Base, and two
Bases are its null."""

QUESTIONS = {
    "accuracy_over_base": "accuracy, over Base",
    "agreement_over_base": "agreement, over Base",
    "agreement_over_placebos": "agreement, over Base and placebos",
    "shared_errors": "shared errors",
    "shared_right_answers": "shared right answers",
    "kl_over_base": "KL, minus Base's",
    "js_over_base": "JS, minus Base's",
}


def predictions(record: Record) -> Table:
    """Means over networks or pairs of networks, of each group, of the Bases and of the Teacher."""
    several = len(record["folds"][0]["scores"]) > 1
    rows: list[list[Cell]] = []
    for number, teacher in enumerate(each["teacher"] for each in record["folds"][0]["scores"]):
        reports = [fold["scores"][number][WHOLE] for fold in record["folds"]]
        lines = {teacher: _teacher(reports), BASE: _bases(reports)}
        for group in record["plan"]["groups"]:
            if group["teacher"] == teacher:
                lines[group["name"]] = _students(reports, group["students"])
        for name, value_of in lines.items():
            cells = [cell for heading in SCORES for cell in spread(value_of(heading))]
            rows.append([name, *([teacher] if several else []), *cells])
    columns = ["network", *(["compared with"] if several else [])]
    columns += [name for heading in SCORES for name in (heading, f"{heading} SD")]
    kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    return Table(
        "predictions",
        "Predictions",
        f"On whole {record['unit']} that are scored. Agreement and KL (nats): with the Teacher's predictions. Over placebos: "
        "agreement with the Teacher minus the Base's, less the same difference for the placebo Teachers. Shared errors: the "
        f"share of {record['unit']} with an error that Student and Teacher make alike where the Base is right. Shared right: "
        "where both are right and the Base is wrong. In these two columns the row of the Bases compares a Base with another. "
        "Compare Students with it, because networks err alike without any distillation. SD: over networks or, for scores that "
        f"compare with a Base, over pairs{' and folds' if len(reports) > 1 else ''}.",
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
    )


def _teacher(reports: Sequence[Record]) -> Callable[[str], list[float]]:
    return lambda heading: network_values(reports, SCORES[heading][2], ())


def _bases(reports: Sequence[Record]) -> Callable[[str], list[float]]:
    def values(heading: str) -> list[float]:
        of_pairs, of_base, _ = SCORES[heading]
        return null_values(reports, of_pairs) if of_base is None else network_values(reports, of_base, ("base",))

    return values


def _students(reports: Sequence[Record], students: Sequence[str]) -> Callable[[str], list[float]]:
    def values(heading: str) -> list[float]:
        score, of_base, _ = SCORES[heading]
        return network_values(reports, score, ("student", "base") if of_base is None else ("student",), students)

    return values


def prediction_tests(record: Record) -> Table:
    """Seed control of predictions."""
    fold = ["fold"] if len(record["folds"]) > 1 else []
    compared = [each for each in seed_comparisons(record) if each.view == WHOLE and each.test["score"] in QUESTIONS]
    rows: list[list[Cell]] = [
        [
            *([each.fold] if fold else []), each.group, QUESTIONS[each.test["score"]], *spread(each.students), *spread(each.null),
            each.test["statistic"], each.test["p_value"], ANSWERS[each.test["decision"]],
        ]
        for each in compared
    ]  # fmt: skip
    caveats = dict.fromkeys(caveat for each in compared for caveat in each.test["caveats"])
    return Table(
        "prediction_tests",
        "Predictions: is it more than another seed shows?",
        "Means and SD over pairs of Student and Base, and over pairs of Bases, the null; their difference (for KL and JS the "
        "null less the Students); p: exact, over all relabelings, not corrected over the questions. More agreement is no "
        f"evidence of transfer where accuracy rises too: see the agreement over placebos. {' '.join(caveats)}".rstrip(),
        [*fold, "group", "question", "Students", "Students SD", "Bases", "Bases SD", "difference", "p", "answer"],
        rows,
    )
