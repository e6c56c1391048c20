"""The table of docs/quickstart.md: what came out of the quickstart with several seeds, and how often the tests decided.

Reads the ``report.json`` of several runs and prints a table in Markdown, a column for each run::

    python docs/scripts/quickstart_table.py outputs/seed0 outputs/seed1 outputs/seed2 outputs/seed3 outputs/seed4
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Callable, Optional, Sequence

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from distillation.outcomes import SALIENT, WHOLE, Record  # noqa: E402

MAPS = (
    ("net", "net by the Teacher", "net of two Bases"),
    ("distilled", "residual"),
    ("Grad-CAM Student", "paper's gradient"),
)
TESTS = {
    "rs_distilled": "RS distilled above another seed of the Base",
    "teacher_distilled": "Teacher's share above another seed of the Base",
    "teacher_only_distilled": "the same beyond the labels",
}
LEVEL = 0.05


def number(value: float) -> str:
    """Three digits without the zero in front."""
    return f"{value:.3f}".replace("0.", ".", 1)


def accuracy(record: Record, name: str) -> float:
    """The mean over the networks of that name and a number."""
    return mean(value for each, value in record["folds"][0]["accuracy"].items() if each.split()[0] == name)


def scores(record: Record, names: Sequence[str], view: str = WHOLE) -> str:
    """Means over pairs at the last layer."""
    rows = [row for row in record["folds"][0]["scores"][0][view]["rows"] if row["layer"] == record["map_layer"]]
    return "; ".join(number(mean(row["value"] for row in rows if row["score"] == name)) for name in names)


def decided(record: Record, name: str) -> str:
    """Difference from the null at each layer, with a star where the corrected p is below .05."""
    tests = record["folds"][0]["scores"][0][WHOLE]["seed_control"]["tests"]
    return ", ".join(
        number(test["statistic"]) + ("*" if test["adjusted_p_value"] < LEVEL else "") for test in tests if test["score"] == name
    )


def on_digit(record: Record, kinds: Sequence[str]) -> str:
    """Share of the positive energy of these maps, means over pairs."""
    places = [pair["localization"]["maps"] for pair in record["folds"][0]["maps"]]
    return "; ".join(number(mean(place[kind]["energy_share"][0] for place in places)) for kind in kinds)


def kept(record: Record, kinds: Sequence[str]) -> str:
    """The Student's accuracy by these maps, means over shares and pairs."""
    curves = [pair["keep_curves"] for pair in record["folds"][0]["maps"]]
    return "; ".join(number(mean(mean(curve[kind]["accuracy"]) for curve in curves)) for kind in kinds)


def rows() -> dict[str, Callable[[Record], str]]:
    """By title, what a run has in that row."""
    found: dict[str, Callable[[Record], str]] = {
        "accuracy: Teacher; Students; Bases": lambda record: "; ".join(
            number(accuracy(record, name)) for name in ("Teacher", "Student", "Base")
        ),
        "FSS (similarity) of Student and Base": partial(scores, names=["fss"]),
        "RS (relevance) of Student; Base": partial(scores, names=["rs_student", "rs_base"]),
        "RS distilled; residual": partial(scores, names=["rs_distilled", "rs_residual"]),
        "the Teacher's share: distilled; residual": partial(scores, names=["teacher_distilled", "teacher_residual"]),
        "RS distilled; residual on Grad-CAM's half of each image": partial(
            scores, names=["rs_distilled", "rs_residual"], view=SALIENT
        ),
    }
    for name, title in TESTS.items():
        found[f"{title}, by stage"] = partial(decided, name=name)
    for kinds in MAPS:
        found[f"map energy on the digit: {'; '.join(kinds)}"] = partial(on_digit, kinds=kinds)
    for kinds in (*MAPS, ("random",)):
        found[f"accuracy with 10 to 90 % kept: {'; '.join(kinds)}"] = partial(kept, kinds=kinds)
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Prints the table of the runs in these folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of the quickstart")
    records = [json.loads((run / "report.json").read_text()) for run in parser.parse_args(argv).runs]
    titles = ["measurement", *(f"seed {record['settings']['seed']}" for record in records)]
    for cells in (titles, ["---"] * len(titles), *([title, *map(cell, records)] for title, cell in rows().items())):
        print(f"| {' | '.join(cells)} |")
    tests = [test for record in records for test in record["folds"][0]["scores"][0][WHOLE]["seed_control"]["tests"]]
    for name, title in TESTS.items():
        asked = [test["adjusted_p_value"] < LEVEL for test in tests if test["score"] == name]
        print(f"\n{title}: decided in {sum(asked)} of {len(asked)} stages of {len(records)} runs.")


if __name__ == "__main__":
    main()
