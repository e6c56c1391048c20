"""Figure of seed control: scores of Students given Bases beside those of Bases given other Bases."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_kd._utils.validation import check_str, short_repr
from captum_kd.metrics.scores_table import BY_NAME
from captum_kd.visualization._rows import report_content
from captum_kd.visualization._style import (
    GREEN, LABEL_SIZE, ORANGE, PAGE_WIDTH, TEXT_SIZE, TITLE_SIZE, heading_room, prepare_axis, text_width, verbatim, wrapped,
)  # fmt: skip

__all__ = ["plot_seed_control"]

NULL = "null: Bases"
MARKS = {True: "yes", False: "", None: "undecided"}
SCORES = (
    "rs_distilled", "teacher_distilled", "teacher_only_distilled", "teacher_distilled_over_placebos",
    "teacher_only_distilled_over_placebos",
)  # fmt: skip
"""Questions that are drawn by default, if the report has them."""

COLUMNS = 4
"""The most layers side by side."""

CAPTION = (
    "Green dot: one Student, mean over the Bases that were removed from it. Orange square: one Base, mean over the other Bases: "
    "the null. Thick bar: mean. yes: Students above the null (exact test, corrected over the layers, p at most .05); undecided: "
    "too few seeds; no word: no evidence. Over placebos, the t test against them is stricter: see the table."
)


class _Row(NamedTuple):
    """The values of the null or of a group of Students, their color and marker, and the word beside them."""

    values: list[float]
    color: str
    marker: str
    word: str


def plot_seed_control(report: Any, *, scores: Optional[Sequence[str]] = None, title: Optional[str] = None) -> Figure:
    """Draws what seed control compares: the score of each Student given Bases, and of each Base given the other Bases.

    There is one line of panels for each score, with one panel for each layer. The word "yes" stands beside Students that the
    exact test finds above the null, and "undecided" where there are too few seeds.

    Args:
        report (TransferReport or mapping): a report with several Students and Bases, or its ``to_dict()``.
        scores (sequence of str, optional): the questions: scores of ``report.seed_control["tests"]`` that are of pairs of models.
            Default: RS distilled, the Teacher's share, and its part beyond the labels, also over placebo Teachers.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, 7 inches wide.

    Raises:
        TypeError: not a report.
        ValueError: a report without seed control, or without these scores.

    Examples::

        >>> report = compare_transfer(students, bases, ["layer3", "layer4"], loader, teacher=teacher)
        >>> plot_seed_control(report).savefig("seed_control.pdf")
    """
    content = report_content(report, "seed_control")
    control = content["seed_control"]
    if control is None:
        raise ValueError("The report has no seed control; pass two or more Students and Bases, as dicts by name.")
    title = check_str(title, "title")
    known = list(dict.fromkeys(row["score"] for row in control["pairs"]))
    if scores is not None and (not isinstance(scores, (list, tuple)) or not all(isinstance(each, str) for each in scores)):
        raise TypeError(f"scores must be a list of names of scores or None, got {short_repr(scores)}.")
    chosen = [score for score in SCORES if score in known] if scores is None else list(scores)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"scores must be some of {', '.join(known)}; got {short_repr(scores)}.")
    lines = [
        (score, layers[i : i + COLUMNS])
        for score in chosen
        for layers in [list(dict.fromkeys(row["layer"] for row in control["pairs"] if row["score"] == score))]
        for i in range(0, len(layers), COLUMNS)
    ]
    columns = max(len(layers) for _, layers in lines)
    names = [NULL, *(group["group"] or "Students" for group in control["groups"])]
    caption = wrapped(CAPTION, PAGE_WIDTH - 0.2, TEXT_SIZE)
    heading = None if title is None else wrapped(title, PAGE_WIDTH, TITLE_SIZE)
    height = len(lines) * (0.55 + 0.24 * len(names)) + 0.15 * (2 + caption.count("\n"))
    figure = Figure(figsize=(PAGE_WIDTH, height + heading_room(heading)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    width = min(1.4, max(text_width(name, TEXT_SIZE) for name in names) + 0.1)
    for (score, layers), line in zip(lines, axes):
        drawn = {layer: _rows(control, score, layer) for layer in layers}
        limits = _limits([value for rows in drawn.values() for row in rows for value in row.values])
        for place, axis in enumerate(line):
            if place >= len(layers):
                axis.set_axis_off()
                continue
            _draw(axis, drawn[layers[place]], [f"{_label(score)}, {name}" for name in names])
            axis.set_xlim(*limits)
            axis.set_yticks(range(len(names)), [wrapped(name, width, TEXT_SIZE) if place == 0 else "" for name in names])
            axis.set_title(wrapped(layers[place], PAGE_WIDTH / columns - 0.5, LABEL_SIZE), fontsize=LABEL_SIZE, pad=3.0)
        line[0].set_ylabel(wrapped(_label(score), 1.1, LABEL_SIZE), fontsize=LABEL_SIZE)
    figure.supxlabel(caption, fontsize=TEXT_SIZE, color="0.35")
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _label(score: str) -> str:
    of = BY_NAME[score]
    return f"{of.kind}, {of.label}" if of.label not in of.kind else of.kind


def _means(control: Mapping[str, Any], score: str, layer: str, models: Sequence[str], bases: Sequence[str]) -> list[float]:
    """For each model the mean of its scores given the Bases."""
    values: dict[str, list[float]] = {model: [] for model in models}
    for row in control["pairs"]:
        if (row["score"], row["layer"]) == (score, layer) and row["model"] in values and row["given"] in bases:
            values[row["model"]] += [] if row["value"] is None else [row["value"]]
    return [float(np.mean(of_model)) for of_model in values.values() if of_model]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """One scale for the panels of a line, with room for a word at the right."""
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    return low - 0.08 * span, high + 0.45 * span


def _rows(control: Mapping[str, Any], score: str, layer: str) -> list[_Row]:
    null = control["groups"][0]["bases"]
    rows = [_Row(_means(control, score, layer, null, null), ORANGE, "s", "")]
    for group in control["groups"]:
        decisions = [
            test["decision"]
            for test in control["tests"]
            if (test["score"], test["layer"], test["group"]) == (score, layer, group["group"])
        ]
        values = _means(control, score, layer, group["students"], group["bases"])
        rows.append(_Row(values, GREEN, "o", MARKS[decisions[0]] if decisions else ""))
    return rows


def _draw(axis: Axes, rows: Sequence[_Row], labels: Sequence[str]) -> None:
    for place, (values, color, marker, word) in enumerate(rows):
        style: dict[str, Any] = {"color": color, "markersize": 4.0, "alpha": 0.6, "markeredgewidth": 0.0}
        axis.plot(values, [place] * len(values), marker, label=labels[place], **style)
        if values:
            axis.vlines(float(np.mean(values)), place - 0.32, place + 0.32, color="0.0", linewidth=1.4)
        if place == 0 and values:
            axis.axvline(float(np.mean(values)), color=ORANGE, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        if word and values:
            axis.annotate(
                verbatim(word), (max(values), place), (4, 0), textcoords="offset points", va="center", fontsize=TEXT_SIZE
            )
    prepare_axis(axis)
    axis.grid(False, axis="y")
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.axvline(0.0, color="0.7", linewidth=0.6, zorder=1)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", labelsize=TEXT_SIZE)
