"""Tables of the inputs that carried the transfer, and of whether another seed repeats them."""

from __future__ import annotations

import io
from collections import Counter
from typing import Sequence

from PIL import Image

from distillation.data.questions import Texts
from distillation.measuring import Measurements
from distillation.outcomes import Record, input_parts
from distillation.tables.table import Cell, Table
from distillation.task import Examples

__all__ = ["input_reliability", "inputs"]

SHOWN = 10
"""Inputs with the largest parts, and as many with the smallest."""

SIDE = 48
"""Pixels of a thumbnail, at most."""

PART = "teacher_distilled"


def inputs(record: Record, measured: Sequence[Measurements]) -> Table:
    """The inputs with the largest and the smallest part in the Teacher's share, for each technique."""
    fold_column = ["fold"] if len(record["folds"]) > 1 else []
    is_text = isinstance(measured[0].examples, Texts)
    layer = record["plan"]["layers"][-1]
    parts: dict[tuple[int, str], list[Record]] = {}
    for row in input_parts(record, "rows"):
        if row["layer"] == layer and row[PART] is not None:
            parts.setdefault((row["fold"], row["group"]), []).append(row)
    rows: list[list[Cell]] = []
    thumbnails: list[bytes] = []
    for group in record["plan"]["groups"]:
        for number, found in enumerate(measured, start=1):
            every = sorted(parts.get((number, group["name"]), []), key=lambda row: -float(row[PART]))
            if group["is_control"] or not every:
                continue
            count = min(SHOWN, len(every) // 2)
            ranked = [*enumerate(every[:count], 1), *enumerate(every[len(every) - count :], len(every) - count + 1)]
            for rank, row in ranked:
                place = row["input"]
                texts = [_words(found.examples, place)] if is_text else []
                named = [_named(record, found, names, place) for names in
                         ([group["teacher"]], group["students"], record["plan"]["bases"])]  # fmt: skip
                scaled: list[Cell] = [float(row[name]) * len(every) for name in (PART, "teacher_residual")]
                rows.append(
                    [*([number] if fold_column else []), group["name"], rank, place, *texts, record["classes"][row["label"]],
                     *named, *scaled]
                )  # fmt: skip
                if not is_text:
                    thumbnails.append(_thumbnail(found.examples, place))
    taught = [group["name"] for group in record["plan"]["groups"] if not group["is_control"]]
    sentences = [
        row["sentence"]
        for row in input_parts(record, "reliability")
        if (row["layer"], row["score"]) == (layer, PART) and row["group"] in taught
    ]
    return Table(
        "inputs",
        f"Which {record['unit']} carried the transfer?",
        f"For each technique the {SHOWN} {record['unit']} with the largest and the {SHOWN} with the smallest part in the "
        f"Teacher's share at {layer}, means over pairs of Student and Base. Parts are shown times the number of "
        f"{record['unit']}, so that their mean is the score. Predictions of several networks: the most frequent one, and how "
        "many of them have it. "
        + " ".join(sentences),
        [
            *fold_column, "group", "rank", "input", *(["text"] if is_text else []), "label", "Teacher", "Students", "Bases",
            "part", "residual part",
        ],
        rows,
        is_detail=True,
        thumbnails=thumbnails,
    )  # fmt: skip


def _named(record: Record, found: Measurements, names: Sequence[str], place: int) -> str:
    """The class that most of some networks predict, with their number if they are several."""
    label, count = Counter(int(found.predictions[name][place]) for name in names).most_common(1)[0]
    return str(record["classes"][label]) + (f" ({count} of {len(names)})" if len(names) > 1 else "")


def _words(examples: Examples, place: int) -> str:
    assert isinstance(examples, Texts)
    chosen = examples[place : place + 1]
    special = set(chosen.source.special.tolist())
    ids = chosen.stored["input_ids"][0].tolist()
    return " ".join(token for token, each in zip(chosen.tokens[0], ids) if each not in special).replace(" ##", "")


def _thumbnail(examples: Examples, place: int) -> bytes:
    """A small PNG file."""
    image = Image.fromarray(examples[place : place + 1].pixels[0].permute(1, 2, 0).numpy())
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def input_reliability(record: Record) -> Table:
    """The agreement of the inputs' parts between seeds."""
    fold = ["fold"] if len(record["folds"]) > 1 else []
    rows: list[list[Cell]] = [
        [
            *([row["fold"]] if fold else []), row["group"], row["layer"],
            "Teacher's share" if row["score"] == PART else "RS distilled", row["correlation"], row["null_correlation"],
            row["comparisons"],
        ]
        for row in input_parts(record, "reliability")
    ]  # fmt: skip
    return Table(
        "input_reliability",
        f"Does another seed have the same {record['unit']} on top?",
        f"Correlation of the parts of the {record['unit']} between pairs of Student and Base without a common network, and "
        "between pairs of two Bases, the null. Where it is low, the order in the table above is mostly that of the seeds.",
        [*fold, "group", "layer", "score", "correlation", "null", "comparisons"],
        rows,
        is_detail=True,
    )
