"""The experiments' one figure and one table: what separates from its seed null, where, and what does not.

Reads the ``report.json`` of several runs, one a data set, each with several seeds, and writes
``docs/images/experiments.png``, ``docs/tables/experiments.csv`` and ``docs/tables/experiments.md``::

    python docs/scripts/collect_experiments.py outputs/cifar10 outputs/asirra outputs/plant_disease
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]

QUESTIONS = {
    "fss": "FSS",
    "rs_distilled": "RS distilled",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share\nbeyond the labels",
}
DRAWN = ("rs_distilled", "teacher_distilled", "teacher_only_distilled")
ANSWERS = {True: "yes", False: "no", None: "undecidable"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COLUMNS = (
    "data", "view", "group", "control", "layer", "score", "students", "students_sd", "null", "null_sd", "difference", "p",
    "p_corrected", "answer",
)  # fmt: skip

Record = dict[str, Any]


def records(report: Record) -> Iterator[Record]:
    """One row for each view, group, layer and question of a run."""
    bases = set(report["plan"]["bases"])
    groups = {group["name"]: group for group in report["plan"]["groups"]}
    for scores in report["folds"][0]["scores"]:
        for view in ("whole", "salient"):
            control = scores[view]["seed_control"]
            for test in control["tests"]:
                name = test["group"] or next(iter(groups))
                pairs = [p for p in control["pairs"] if (p["score"], p["layer"]) == (test["score"], test["layer"])]
                students = [p["value"] for p in pairs if p["model"] in groups[name]["students"]]
                null = [p["value"] for p in pairs if {p["model"], p["given"]} <= bases]
                yield {
                    "data": report["task"],
                    "view": view,
                    "group": name,
                    "control": groups[name]["is_control"],
                    "layer": test["layer"],
                    "score": test["score"],
                    "students": mean(students),
                    "students_sd": stdev(students),
                    "null": mean(null),
                    "null_sd": stdev(null),
                    "difference": test["statistic"],
                    "p": test["p_value"],
                    "p_corrected": test["adjusted_p_value"],
                    "answer": ANSWERS[test["decision"]],
                    "_students": students,
                    "_null": null,
                }


def write_tables(rows: Sequence[Record], folder: Path) -> None:
    with open(folder / "experiments.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [f"### {data}", "", "| group | layer | " + " | ".join(q.replace("\n", " ") for q in QUESTIONS.values()) + " |"]
        lines += ["|" + " --- |" * (2 + len(QUESTIONS))]
        of_data = [row for row in rows if row["data"] == data and row["view"] == "whole"]
        for group, layer in dict.fromkeys((row["group"], row["layer"]) for row in of_data):
            cells = []
            for question in QUESTIONS:
                (row,) = [r for r in of_data if (r["group"], r["layer"], r["score"]) == (group, layer, question)]
                text = f"{row['students']:.3f} / {row['null']:.3f}, p {row['p_corrected']:.3f}"
                cells.append(f"**{text}**" if row["answer"] == "yes" else text)
            lines.append(f"| {group} | {layer} | " + " | ".join(cells) + " |")
        lines.append("")
    (folder / "experiments.md").write_text("\n".join(lines), encoding="utf-8")


def draw(rows: Sequence[Record]) -> Figure:
    """Points: pairs of networks; bars: their means; a star: above the null after correction over the layers."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure = Figure(figsize=(7.0, 6.2), layout="constrained")
    panels = figure.subplots(len(DRAWN), len(data), squeeze=False)
    for number, (line, question) in enumerate(zip(panels, DRAWN)):
        for axis, name in zip(line, data):
            axis.axhline(0.0, color="0.7", linewidth=0.6)
            chosen = [r for r in rows if (r["data"], r["view"], r["score"]) == (name, "whole", question)]
            layers = list(dict.fromkeys(row["layer"] for row in chosen))
            for place, layer in enumerate(layers):
                here = {row["group"]: row for row in chosen if row["layer"] == layer}
                width = 0.85 / (len(groups) + 1)
                left = place - 0.425 + width / 2
                _points(axis, left, next(iter(here.values()))["_null"], "0.55", width)
                for i, group in enumerate(groups):
                    if group in here:
                        x = left + (i + 1) * width
                        _points(axis, x, here[group]["_students"], COLOURS[i], width)
                        if here[group]["answer"] == "yes":
                            axis.text(x, max(here[group]["_students"]), "*", ha="center", va="bottom", fontsize=9)
            axis.set_xticks(range(len(layers)), layers, fontsize=7)
            axis.tick_params(labelsize=7)
            axis.grid(axis="y", color="0.9", linewidth=0.6)
            axis.margins(y=0.12)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
            if number == 0:
                axis.set_title(name, fontsize=8)
        line[0].set_ylabel(QUESTIONS[question], fontsize=8)
    handles = [panels[0][0].plot([], [], "o", color=colour, markersize=4, label=label)[0]
               for label, colour in zip(["a Base beside another Base: the null", *groups], ("0.55", *COLOURS))]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def _points(axis: Axes, x: float, values: Sequence[float], colour: str, width: float) -> None:
    step = 0.7 * width / max(1, len(values) - 1)
    axis.plot([x - 0.35 * width + i * step for i in range(len(values))], values, ".", color=colour, markersize=2.5, alpha=0.6)
    middle = mean(values)
    axis.plot([x - 0.45 * width, x + 0.45 * width], [middle, middle], color=colour, linewidth=1.8)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of runs with two seeds or more")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write; default: %(default)s")
    arguments = parser.parse_args(argv)
    rows = [row for run in arguments.runs for row in records(json.loads((run / "report.json").read_text(encoding="utf-8")))]
    for folder in ("tables", "images"):
        (arguments.docs / folder).mkdir(parents=True, exist_ok=True)
    write_tables(rows, arguments.docs / "tables")
    draw(rows).savefig(arguments.docs / "images" / "experiments.png", dpi=200)


if __name__ == "__main__":
    main()
