"""The experiments' one figure and one table: what separates from its seed null, where, and what does not.

Reads the ``report.json`` of several runs, one a data set, each with several seeds, and writes
``docs/images/experiments.png``, ``docs/tables/experiments.csv`` and ``docs/tables/experiments.md``; and of the first run
``docs/tables/transferred.md``::

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
from distillation.outcomes import SECOND, WHOLE, Record, placebo_tests, seed_comparisons  # noqa: E402
from distillation.tables.classes import classes  # noqa: E402
from distillation.tables.explanations import explanations  # noqa: E402
from distillation.tables.inputs import input_reliability  # noqa: E402
from distillation.tables.layers import layer_matches  # noqa: E402
from distillation.tables.predictions import prediction_tests, predictions  # noqa: E402

QUESTIONS = {
    "fss": "FSS",
    "rs_distilled": "RS distilled",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share\nbeyond the labels",
    "teacher_distilled_over_placebos": "Teacher's share\nover placebos",
}
DRAWN = ("rs_distilled", "teacher_distilled", "teacher_distilled_over_placebos")
TRANSFERRED = (predictions, prediction_tests, classes, input_reliability, explanations, layer_matches)
"""Tables of what else was transferred."""

ANSWERS = {True: "yes", False: "no", None: "undecidable"}
COLUMNS = (
    "data", "view", "group", "control", "layer", "score", "students", "students_sd", "null", "null_sd", "difference", "p",
    "p_corrected", "answer",
)  # fmt: skip


def records(report: Record) -> Iterator[Record]:
    """One row for each view, group, layer and question of a run."""
    controls = {group["name"]: group["is_control"] for group in report["plan"]["groups"]}
    for each in seed_comparisons(report):
        # Scores given all Bases but one are in the runs' own tables.
        in_pairs = each.test["score"].startswith(("fss", "rs_", "teacher_")) and not each.test["score"].endswith("_all")
        if each.fold == 1 and in_pairs:
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


def teacher_tests(report: Record) -> Iterator[Record]:
    """The t tests of the Teacher against the placebo Teachers, of whole images."""
    for fold, group, view, test in placebo_tests(report):
        if (fold, view, test["score"]) == (1, WHOLE, "teacher_distilled"):
            yield {**test, "data": report["task"], "group": group}


def write_tables(rows: Sequence[Record], tests: Sequence[Record], folder: Path) -> None:
    with open(folder / "experiments.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["# Students and Bases beside their seed null", "", "## Whole images", ""]
    lines += [
        "Mean over pairs / mean of the null, and p corrected over the layers; bold: above the null. Second Teacher: the "
        "Teacher's share with Students of a second Teacher in the Bases' place. t test: the Teacher's share / mean (SD) of the "
        "placebo Teachers' shares.",
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        headings = [*(q.replace("\n", " ") for q in QUESTIONS.values()), "second Teacher", "t test"]
        lines += [f"### {data}", "", "| group | layer | " + " | ".join(headings) + " |"]
        lines += ["|" + " --- |" * (2 + len(headings))]
        of_data = [row for row in rows if row["data"] == data]
        for group, layer in dict.fromkeys((row["group"], row["layer"]) for row in of_data):
            here = [row for row in of_data if (row["group"], row["layer"]) == (group, layer)]
            chosen = [*((WHOLE, question) for question in QUESTIONS), (SECOND, "teacher_distilled")]
            cells = [_cell([row for row in here if (row["view"], row["score"]) == each]) for each in chosen]
            cells.append(_test([test for test in tests if (test["data"], test["group"], test["layer"]) == (data, group, layer)]))
            lines.append(f"| {group} | {layer} | " + " | ".join(cells) + " |")
        lines.append("")
    (folder / "experiments.md").write_text("\n".join(lines), encoding="utf-8")


def write_transferred(report: Record, folder: Path) -> None:
    """The tables of what else was transferred in a run; runs of earlier versions have none."""
    if "layers" not in report["folds"][0]["scores"][0]:
        return
    title, tables = f"# {report['task']}", (table(report).to_markdown() for table in TRANSFERRED)
    lines = ["# What else was transferred", "", title, "", *tables]
    (folder / "transferred.md").write_text("\n".join(lines), encoding="utf-8")


def _cell(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    (row,) = rows
    text = f"{row['students']:.3f} / {row['null']:.3f}, p {row['p_corrected']:.3f}"
    return f"**{text}**" if row["answer"] == "yes" else text


def _test(tests: Sequence[Record]) -> str:
    if not tests or tests[0]["adjusted_p_value"] is None:
        return ""
    (test,) = tests
    text = f"{test['share']:.3f} / {test['mean']:.3f} ({test['standard_deviation']:.3f}), p {test['adjusted_p_value']:.3f}"
    return f"**{text}**" if test["decision"] else text


def draw(rows: Sequence[Record]) -> Figure:
    """Points: pairs of networks; bars: their means; a star: above the null after correction over the layers."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    drawn = [question for question in DRAWN if any(row["score"] == question for row in rows)]
    panels = figure.subplots(len(drawn), len(data), squeeze=False)
    for number, (line, question) in enumerate(zip(panels, drawn)):
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
    reports = [json.loads((run / "report.json").read_text(encoding="utf-8")) for run in arguments.runs]
    rows = [row for report in reports for row in records(report)]
    tests = [test for report in reports for test in teacher_tests(report)]
    for folder in ("tables", "images"):
        (arguments.docs / folder).mkdir(parents=True, exist_ok=True)
    write_tables(rows, tests, arguments.docs / "tables")
    write_transferred(reports[0], arguments.docs / "tables")
    draw(rows).savefig(arguments.docs / "images" / "experiments.png", dpi=200)


if __name__ == "__main__":
    main()
