"""The experiments' one figure and one table: what separates from its seed null, where, and what does not.

Reads the ``report.json`` of several runs, one a data set, each with several seeds, and writes
``docs/images/experiments.png``, ``docs/tables/experiments.csv`` and ``docs/tables/experiments.md``::

    python docs/scripts/collect_experiments.py outputs/cifar10 outputs/asirra outputs/plant_disease
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Iterator, Sequence

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]

sys.path.insert(0, str(DOCS.parent / "examples"))
from distillation.drawing import COLORS, NULL, SMALL, WIDTH, draw_values, prepare_axis  # noqa: E402
from distillation.outcomes import Record, seed_comparisons  # noqa: E402

QUESTIONS = {
    "fss": "FSS",
    "rs_distilled": "RS distilled",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share\nbeyond the labels",
}
DRAWN = ("rs_distilled", "teacher_distilled", "teacher_only_distilled")
ANSWERS = {True: "yes", False: "no", None: "undecidable"}
COLUMNS = (
    "data", "view", "group", "control", "layer", "score", "students", "students_sd", "null", "null_sd", "difference", "p",
    "p_corrected", "answer",
)  # fmt: skip


def records(report: Record) -> Iterator[Record]:
    """One row for each view, group, layer and question of a run."""
    controls = {group["name"]: group["is_control"] for group in report["plan"]["groups"]}
    for each in seed_comparisons(report):
        if each.fold == 1:
            yield {
                "data": report["task"],
                "view": each.view,
                "group": each.group,
                "control": controls[each.group],
                "layer": each.test["layer"],
                "score": each.test["score"],
                "students": mean(each.students),
                "students_sd": stdev(each.students),
                "null": mean(each.null),
                "null_sd": stdev(each.null),
                "difference": each.test["statistic"],
                "p": each.test["p_value"],
                "p_corrected": each.test["adjusted_p_value"],
                "answer": ANSWERS[each.test["decision"]],
                "_students": each.students,
                "_null": each.null,
            }


def write_tables(rows: Sequence[Record], folder: Path) -> None:
    with open(folder / "experiments.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["# Students and Bases beside their seed null", "", "## Whole images", ""]
    lines += ["Mean over pairs / mean of the null, and p corrected over the layers; bold: above the null.", ""]
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
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
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
                draw_values(axis, left, next(iter(here.values()))["_null"], NULL, width)
                for i, group in enumerate(groups):
                    if group in here:
                        x = left + (i + 1) * width
                        draw_values(axis, x, here[group]["_students"], COLORS[i], width)
                        if here[group]["answer"] == "yes":
                            axis.text(x, max(here[group]["_students"]), "*", ha="center", va="bottom", fontsize=9)
            axis.set_xticks(range(len(layers)), layers)
            prepare_axis(axis)
            axis.margins(y=0.12)
            if number == 0:
                axis.set_title(name, fontsize=SMALL)
        line[0].set_ylabel(QUESTIONS[question], fontsize=SMALL)
    handles = [panels[0][0].plot([], [], "o", color=color, markersize=4, label=label)[0]
               for label, color in zip(["a Base beside another Base: the null", *groups], (NULL, *COLORS))]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL - 1, frameon=False)
    return figure


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
