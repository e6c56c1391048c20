"""Table of what changed in single classes."""

from __future__ import annotations

from distillation.outcomes import PREDICTIONS, Record, class_rows, class_tests
from distillation.tables.table import Cell, Table, spread

__all__ = ["classes"]

ACCURACIES = {"accuracy_student": "accuracy", "accuracy_base": "Base's", "accuracy_teacher": "Teacher's"}

QUESTIONS = {
    "accuracy_over_base": ("accuracy over Base", "accuracy"),
    "agreement_over_base": ("agreement over Base", "agreement"),
    "rs_distilled": ("RS distilled", "RS"),
    "teacher_distilled": ("Teacher's share", "share"),
}
"""By score, its heading, and its name in the list of answers."""

WITH_NULL = ("rs_distilled", "teacher_distilled")
"""Of the others the null has the mean 0."""


def classes(record: Record) -> Table:
    """Accuracy, agreement, relevance and the Teacher's share of each class, by group of Students."""
    at = (record["plan"]["layers"][-1], PREDICTIONS)
    values: dict[tuple[str, int, str], list[float]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for row in class_rows(record):
        if row["layer"] in at and row["value"] is not None:
            values.setdefault((row["group"], row["class"], row["score"]), []).append(row["value"])
        sizes[row["group"], row["class"]] = row["n"]
    tests = {
        (test["group"], test["class"], test["score"]): test
        for test in class_tests(record)
        if test["score"] in QUESTIONS and test["layer"] in at and len(record["folds"]) == 1
    }
    rows: list[list[Cell]] = []
    for (group, number), size in sizes.items():
        cells: list[Cell] = [group, record["classes"][number], size]
        cells += [spread(values.get((group, number, score), []))[0] for score in ACCURACIES]
        found = {score: tests.get((group, number, score)) for score in QUESTIONS}
        for score, test in found.items():
            cells.append(spread(values.get((group, number, score), []))[0])
            cells += [None if test is None else test["statistic"]] if score in WITH_NULL else []
            cells.append(None if test is None else test["adjusted_p_value"])
        answers = [QUESTIONS[score][1] for score, test in found.items() if test is not None and test["decision"]]
        cells.append(", ".join(answers) or "–")
        rows.append(cells)
    columns = ["group", "class", str(record["unit"]), *ACCURACIES.values()]
    for score, (title, _) in QUESTIONS.items():
        columns += [title, *([f"{title}, more than null"] if score in WITH_NULL else []), f"{title}, p"]
    caveats = dict.fromkeys(caveat for test in tests.values() for caveat in test["caveats"])
    return Table(
        "classes",
        "Which classes changed?",
        f"Means over pairs of Student and Base, for the {record['unit']} of one class. RS distilled: the class against the rest; "
        f"the Teacher's share: of the class's rows; both at {at[0]}. Null: a Base given another Base. p: exact, by seed "
        "control, corrected by Holm over the classes. RS grows with the size of a class: compare groups within a class. "
        + ("Several folds are not tested. " * (len(record["folds"]) > 1))
        + " ".join(caveats),
        [*columns, "yes"],
        rows,
        is_detail=True,
    )
