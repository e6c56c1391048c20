"""Checks of the tidy rows that the figures plot."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from captum_kd.metrics.scores_table import BY_NAME

Estimate = tuple[float, float, float]
"""Value, low and high; NaN for None."""


def checked_rows(rows: Any, scores: Sequence[str]) -> dict[tuple[str, str, str, str], Estimate]:
    """(student, base, layer, score) -> (value, low, high), from records, a report or its ``to_dict()``."""
    records = _records(rows)
    if len(records) == 0:
        raise ValueError("rows is empty: there is nothing to plot; pass at least one record.")
    table: dict[tuple[str, str, str, str], Estimate] = {}
    others = set(BY_NAME) - set(scores)
    for row in records:
        absent = [key for key in ("student", "base", "layer", "score", "value") if key not in row]
        if absent:
            raise ValueError(f"Every row needs student, base, layer, score and value; {dict(row)} lacks {absent}.")
        key = (str(row["student"]), str(row["base"]), str(row["layer"]), str(row["score"]))
        if key[3] in others:  # drawn in another figure
            continue
        if key[3] not in scores:
            raise ValueError(f"Unknown score {key[3]!r}; the scores are {', '.join(scores)}.")
        if key in table:
            raise ValueError(f"Two rows for student {key[0]!r}, base {key[1]!r}, layer {key[2]!r}, score {key[3]!r}.")
        value, low, high = (_number(row, name) for name in ("value", "low", "high"))
        if low > high:
            raise ValueError(f"low must not exceed high, got {low:g} and {high:g} in {dict(row)}.")
        table[key] = (value, low, high)
    if not table:
        raise ValueError(f"rows has none of the scores that this figure shows: {', '.join(scores)}.")
    return table


def report_content(report: Any, part: str) -> Mapping[str, Any]:
    """A report as its ``to_dict()``, which must have a part of this name.

    Raises:
        TypeError: not a report.
    """
    content: Any = report.to_dict() if hasattr(report, "to_dict") else report
    if not isinstance(content, Mapping) or part not in content:
        raise TypeError(f"report must be a TransferReport or its to_dict(), got {type(report).__name__}.")
    return content


def _records(rows: Any) -> Sequence[Mapping[str, Any]]:
    content: Any = rows.to_dict() if hasattr(rows, "to_dict") else rows
    if isinstance(content, Mapping):
        content = content.get("rows")
    if not isinstance(content, Sequence) or isinstance(content, str) or not all(isinstance(row, Mapping) for row in content):
        raise TypeError(
            "rows must be a list of records (dicts with student, base, layer, score and value) or a report whose "
            f'to_dict()["rows"] is one, got {type(rows).__name__}. A pandas table becomes one by '
            '.to_dict("records").'
        )
    return content


def _number(row: Mapping[str, Any], name: str) -> float:
    given = row.get(name)
    if given is None:
        return float("nan")
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or None, got {given!r} in {dict(row)}.") from None
    if np.isinf(number):
        raise ValueError(f"{name} must be finite or None, got {number} in {dict(row)}.")
    return number
