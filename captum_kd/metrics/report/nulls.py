"""The mean scores of a Base given another Base, which a report shows beside the scores of Students."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from captum_kd.metrics.scores_table import SCORES

NULL = "null"
BUT_ONE = "but one"
DIFFERENCES = {each.name for each in SCORES if each.test == "mean"}
"""They change their sign when two models change places, so their mean over two Bases is 0 and no null."""
Nulls = dict[str, dict[tuple[str, str], float]]
"""By the name of a table's row, mean scores by score and layer."""


def mean_nulls(seed_control: Optional[Mapping[str, Any]]) -> Nulls:
    """The mean scores that seed control compares with each other, and for pairs only those of a Base given another Base."""
    if seed_control is None:
        return {}
    bases = {name for group in seed_control.get("groups", ()) for name in group["bases"]}
    left_out = seed_control.get("left_out", ())
    rows = {
        BUT_ONE: [row for row in left_out if row["model"] != row["left_out"]],
        NULL: [row for row in seed_control.get("pairs", ()) if row["model"] in bases and row["given"] in bases]
        + [row for row in left_out if row["model"] == row["left_out"]],
    }
    found: Nulls = {}
    for name, of_name in rows.items():
        values: dict[tuple[str, str], list[float]] = {}
        for row in of_name:
            if row["value"] is not None and row["score"] not in DIFFERENCES:
                values.setdefault((row["score"], row["layer"]), []).append(row["value"])
        if values:
            found[name] = {key: sum(of_key) / len(of_key) for key, of_key in values.items()}
    return found
