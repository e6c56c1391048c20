"""Table of the agreement of maps with the Teacher's."""

from __future__ import annotations

from distillation.outcomes import WHOLE, Record, network_values, null_values, seed_comparisons
from distillation.tables.table import ANSWERS, Cell, Table, spread

__all__ = ["explanations"]

QUESTIONS = {"explanation_over_base": "over Base", "explanation_over_placebos": "over placebos"}


def explanations(record: Record) -> Table:
    """Whether Students look where the Teacher looks, more than Bases do."""
    rows: list[list[Cell]] = []
    tests = {
        (each.group, each.test["score"], each.test["layer"]): each.test
        for each in seed_comparisons(record)
        if each.view == WHOLE and each.test["score"] in QUESTIONS and len(record["folds"]) == 1
    }
    for number, teacher in enumerate(scores["teacher"] for scores in record["folds"][0]["scores"]):
        reports = [fold["scores"][number][WHOLE] for fold in record["folds"]]
        layers = dict.fromkeys(row["layer"] for row in reports[0]["rows"] if row["score"] == "explanation_over_base")
        for group in (group for group in record["plan"]["groups"] if group["teacher"] == teacher):
            for layer in layers:
                students = group["students"]
                row: list[Cell] = [group["name"], layer]
                row += spread(network_values(reports, "explanation_student_teacher", ("student",), students, layer))
                row += spread(network_values(reports, "explanation_base_teacher", ("base",), students, layer))
                for score in QUESTIONS:
                    test = tests.get((group["name"], score, layer))
                    row += spread(network_values(reports, score, ("student", "base"), students, layer))
                    row += [spread(null_values(reports, score))[1]]
                    row += [None, None] if test is None else [test["p_value"], ANSWERS[test["decision"]]]
                rows.append(row)
    columns = ["group", "layer", "Student and Teacher", "SD over networks", "Base and Teacher", "SD over Bases"]
    for title in QUESTIONS.values():
        columns += [title, f"{title} SD", f"{title}, SD of null", f"{title}, p", f"{title}, answer"]
    kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    caveats = dict.fromkeys(caveat for test in tests.values() for caveat in test["caveats"])
    return Table(
        "explanations",
        "Do Students look where the Teacher looks?",
        f"Mean cosine of the Grad-CAM maps of two networks for the same {record['unit']}. All maps explain the class that the "
        "Teacher predicts. Over Base: Student's minus Base's; over placebos: less the same difference for the placebo Teachers. "
        "The null is a Base given another Base, with mean 0. p: exact, by seed control, not corrected over the two questions. "
        + " ".join(caveats),
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        is_detail=True,
    )
