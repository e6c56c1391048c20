"""Figure of predictions: accuracy, calibration, and agreement with the Teacher."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_kd._utils.validation import check_str
from captum_kd.metrics.scores_table import PREDICTIONS_LAYER
from captum_kd.visualization._rows import report_content
from captum_kd.visualization._style import (
    BLUE,
    GREEN,
    LABEL_SIZE,
    ORANGE,
    PAGE_WIDTH,
    TEXT_SIZE,
    TITLE_SIZE,
    heading_room,
    prepare_axis,
    text_width,
    verbatim,
    wrapped,
)

__all__ = ["plot_predictions"]

STUDENTS, BASES, TEACHER = "Students", "Bases", "Teacher"


class _Panel(NamedTuple):
    """A panel: its title, and the scores of Students, Bases and the Teacher; None if there is none."""

    title: str
    student: str
    base: Optional[str] = None
    teacher: Optional[str] = None


PANELS = (
    _Panel("Accuracy", "accuracy_student", "accuracy_base", "accuracy_teacher"),
    _Panel("Agreement with the Teacher", "agreement_student_teacher", "agreement_base_teacher"),
    _Panel("KL from the Teacher (nats)", "kl_student_teacher", "kl_base_teacher"),
    _Panel("Calibration error (ECE)", "ece_student", "ece_base", "ece_teacher"),
    _Panel("Right answers shared\nwith the Teacher\nwhere a Base is wrong", "shared_right_answers"),
    _Panel("Errors shared\nwith the Teacher\nwhere a Base is right", "shared_errors"),
)
COLUMNS = 3
CAPTION = (
    "Dot: one network. Thick bar: mean over networks. Line: interval over inputs, if a group is one network. "
    "Axes need not begin at 0."
)


class _Dot(NamedTuple):
    """One network's value and interval; NaN without an interval."""

    value: float
    low: float
    high: float


def plot_predictions(report: Any, *, title: Optional[str] = None) -> Figure:
    """Draws the predictions of Students, Bases and Teacher: one dot for each network, a bar for the mean of a group.

    Panels show accuracy, calibration error, agreement with the Teacher, divergence from it (KL), and right answers and errors
    that a network shares with the Teacher where a Base is on the other side. For these two, the dots of Bases compare a Base with
    the other Bases: Students are to be compared with them. Intervals are drawn for groups of a single network; in larger groups
    the spread of the dots shows the seeds.

    Args:
        report (TransferReport or mapping): a report with ``predictions=True``, or its ``to_dict()``.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, 7 inches wide.

    Raises:
        TypeError: not a report.
        ValueError: a report without predictions.

    Examples::

        >>> report = compare_transfer(students, bases, ["layer4"], loader, teacher=teacher, predictions=True)
        >>> plot_predictions(report).savefig("predictions.pdf")
    """
    content = report_content(report, "rows")
    title = check_str(title, "title")
    rows = [row for row in content["rows"] if row["layer"] == PREDICTIONS_LAYER]
    if not rows:
        raise ValueError("The report has no predictions; pass predictions=True to compare_transfer.")
    panels = [(panel, found) for panel in PANELS if (found := _dots(panel, rows, content))]
    names = list(dict.fromkeys(name for _, found in panels for name in found))
    order = [name for name in names if name not in (BASES, TEACHER)]
    order = [BASES] * (BASES in names) + order + [TEACHER] * (TEACHER in names)
    lines = -(-len(panels) // COLUMNS)
    heading = None if title is None else wrapped(title, PAGE_WIDTH, TITLE_SIZE)
    height = lines * (0.85 + 0.24 * len(order)) + 0.2
    figure = Figure(figsize=(PAGE_WIDTH, height + heading_room(heading)), layout="constrained")
    width = min(1.6, max(text_width(name, TEXT_SIZE) for name in order) + 0.1)
    axes = figure.subplots(lines, min(COLUMNS, len(panels)), squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.set_axis_off()
            continue
        panel, found = panels[place]
        _draw(axis, panel.title, found, order)
        is_first = place % COLUMNS == 0
        axis.set_yticks(range(len(order)), [wrapped(name, width, TEXT_SIZE) if is_first else "" for name in order])
        axis.tick_params(axis="y", labelsize=TEXT_SIZE)
    figure.supxlabel(CAPTION, fontsize=TEXT_SIZE, color="0.35")
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _dots(panel: _Panel, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> dict[str, list[_Dot]]:
    """The dots of a panel by the name of the group; empty without its scores."""
    control = content.get("seed_control")
    students = list(dict.fromkeys(row["student"] for row in rows))
    groups = {STUDENTS: students}
    if control is not None and control["groups"][0]["group"] is not None:
        groups = {each["group"]: each["students"] for each in control["groups"]}
    found = {name: [_dot(rows, panel.student, "student", model) for model in members] for name, members in groups.items()}
    if panel.base is not None:
        found[BASES] = [_dot(rows, panel.base, "base", each) for each in dict.fromkeys(row["base"] for row in rows)]
    elif control is not None:
        found[BASES] = _between_bases(panel.student, control)
    if panel.teacher is not None:
        found[TEACHER] = [_dot(rows, panel.teacher, "student", students[0])]
    kept = {name: [dot for dot in dots if dot is not None] for name, dots in found.items()}
    return {name: dots for name, dots in kept.items() if dots}


def _dot(rows: Sequence[Mapping[str, Any]], score: str, side: str, model: str) -> Optional[_Dot]:
    """The mean over the pairs of a model, with its interval if there is one pair or if all pairs have the same row."""
    own = [row for row in rows if row["score"] == score and row[side] == model and row["value"] is not None]
    if not own:
        return None
    ends = {(row["low"], row["high"]) for row in own}
    low, high = ends.pop() if len(ends) == 1 else (None, None)
    return _Dot(float(np.mean([row["value"] for row in own])), *(np.nan if end is None else end for end in (low, high)))


def _between_bases(score: str, control: Mapping[str, Any]) -> list[Optional[_Dot]]:
    """For each Base the mean of a score given the other Bases."""
    bases = set(control["groups"][0]["bases"])
    own: dict[str, list[float]] = {}
    for row in control["pairs"]:
        if row["score"] == score and {row["model"], row["given"]} <= bases and row["value"] is not None:
            own.setdefault(row["model"], []).append(row["value"])
    return [_Dot(float(np.mean(values)), np.nan, np.nan) for values in own.values()]


def _draw(axis: Axes, title: str, found: Mapping[str, Sequence[_Dot]], order: Sequence[str]) -> None:
    for place, name in enumerate(order):
        dots = found.get(name, ())
        color, marker = {BASES: (ORANGE, "s"), TEACHER: (BLUE, "D")}.get(name, (GREEN, "o"))
        values = [dot.value for dot in dots]
        style: dict[str, Any] = {"color": color, "markersize": 4.0, "alpha": 0.6, "markeredgewidth": 0.0}
        axis.plot(values, [place] * len(values), marker, label=name, **style)
        if len(dots) == 1:
            axis.hlines(place, dots[0].low, dots[0].high, color=color, linewidth=1.2)
        elif values:
            axis.vlines(float(np.mean(values)), place - 0.3, place + 0.3, color="0.0", linewidth=1.4)
    prepare_axis(axis)
    axis.grid(False, axis="y")
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_title(verbatim(title), fontsize=LABEL_SIZE, pad=4.0)
