"""Table of the layers that match those of the Teacher."""

from __future__ import annotations

from typing import Iterator

from distillation.outcomes import Record
from distillation.tables.table import Cell, Table

__all__ = ["layer_matches"]

MEASURES = ("fss", "cka")


def layer_matches(record: Record) -> Table:
    """Each layer of the first Base and of the first Student of each group, with the Teacher's most similar layer."""
    fold = ["fold"] if len(record["folds"]) > 1 else []
    teachers = ["Teacher"] if len(record["folds"][0]["scores"]) > 1 else []
    columns = [*fold, *teachers, "network", "layer"]
    for measure in MEASURES:
        title = measure.upper()
        columns += [f"best match by {title}", title, f"second by {title}", f"{title} of second", f"mutual by {title}"]
    return Table(
        "layer_matches",
        "Which layers match the Teacher's?",
        "For each layer of the first Base and of the first Student of each group: the Teacher's layers with the highest "
        "similarity, by unbiased FSS and by unbiased linear CKA. Mutual: the Teacher's layer has its own best match there too. "
        "Layers of networks for one task are similar without any distillation: compare Students with the Base.",
        columns,
        list(_rows(record, bool(fold), bool(teachers))),
        is_detail=True,
    )


def _rows(record: Record, has_fold: bool, has_teacher: bool) -> Iterator[list[Cell]]:
    for number, fold in enumerate(record["folds"], start=1):
        for scores in fold["scores"]:
            for name, found in scores["layers"].items():
                matches = [found["best_match"][measure] for measure in MEASURES]
                for same in zip(*([row for row in rows if row["model"] == "model_a"] for rows in matches)):
                    row: list[Cell] = [*([number] * has_fold), *([scores["teacher"]] * has_teacher), name, same[0]["layer"]]
                    for each in same:
                        row += [each["match"], each["value"], each["runner_up"], each["runner_up_value"]]
                        row.append("yes" if each["is_mutual"] else "no")
                    yield row
