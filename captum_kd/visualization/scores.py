"""Figures of scores over layers, with their intervals."""

from __future__ import annotations

import re
from math import ceil
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd._utils.validation import check_str
from captum_kd.metrics import scores_table
from captum_kd.metrics.report.nulls import NULL, mean_nulls
from captum_kd.metrics.scores_table import EXPLANATIONS, OVER_PLACEBOS, PROGRESSION, RELEVANCE, SIMILARITY, TEACHERS_SHARE
from captum_kd.visualization._rows import Estimate, checked_rows
from captum_kd.visualization._style import (
    BLACK,
    BLUE,
    GREEN,
    LABEL_SIZE,
    LINE_HEIGHT,
    ORANGE,
    PAGE_WIDTH,
    SKY,
    TEXT_SIZE,
    TITLE_SIZE,
    LineStyle,
    heading_room,
    legend_below,
    legend_columns,
    prepare_axis,
    text_width,
    verbatim,
    wrapped,
)

__all__ = ["plot_layer_scores"]

Array = npt.NDArray[Any]


LINES = {
    "fss": LineStyle(BLUE, "o", "-"),
    "fss_student_teacher": LineStyle(SKY, "D", "--"),
    "fss_base_teacher": LineStyle(ORANGE, "s", ":"),
    "rs_student": LineStyle(BLUE, "o", "-"),
    "rs_base": LineStyle(ORANGE, "s", "-"),
    "rs_distilled": LineStyle(GREEN, "^", "--"),
    "rs_residual": LineStyle(BLACK, "v", ":"),
    "rs_teacher": LineStyle(SKY, "D", "-."),
    "teacher_distilled": LineStyle(GREEN, "^", "-"),
    "teacher_residual": LineStyle(BLACK, "v", "-"),
    "teacher_only_distilled": LineStyle(GREEN, "D", "--"),
    "teacher_only_residual": LineStyle(BLACK, "s", ":"),
    "teacher_distilled_over_placebos": LineStyle(GREEN, "^", "-"),
    "teacher_residual_over_placebos": LineStyle(BLACK, "v", "-"),
    "teacher_only_distilled_over_placebos": LineStyle(GREEN, "D", "--"),
    "teacher_only_residual_over_placebos": LineStyle(BLACK, "s", ":"),
    "rs_distilled_all": LineStyle(GREEN, "P", "-"),
    "teacher_distilled_all": LineStyle(BLUE, "P", "-"),
    "teacher_only_distilled_all": LineStyle(BLUE, "X", "--"),
    "explanation_student_teacher": LineStyle(BLUE, "o", "-"),
    "explanation_base_teacher": LineStyle(ORANGE, "s", "-"),
    "explanation_over_base": LineStyle(GREEN, "^", "--"),
    "explanation_over_placebos": LineStyle(BLACK, "D", ":"),
    "progression_student": LineStyle(BLUE, "o", "-"),
    "progression_base": LineStyle(ORANGE, "s", "--"),
    "progression_teacher": LineStyle(SKY, "D", "-."),
}

BEYOND = "beyond the labels"
PANELS = {
    SIMILARITY: ("fss", "fss_student_teacher", "fss_base_teacher"),
    RELEVANCE: ("rs_student", "rs_base", "rs_teacher"),
    f"{RELEVANCE} given the other": ("rs_distilled", "rs_residual", "rs_distilled_all"),
    TEACHERS_SHARE: ("teacher_distilled", "teacher_residual", "teacher_distilled_all"),
    f"{TEACHERS_SHARE} {BEYOND}": ("teacher_only_distilled", "teacher_only_residual", "teacher_only_distilled_all"),
    OVER_PLACEBOS: ("teacher_distilled_over_placebos", "teacher_residual_over_placebos"),
    f"{OVER_PLACEBOS} {BEYOND}": ("teacher_only_distilled_over_placebos", "teacher_only_residual_over_placebos"),
    EXPLANATIONS: ("explanation_student_teacher", "explanation_base_teacher"),
    f"{EXPLANATIONS}, difference": ("explanation_over_base", "explanation_over_placebos"),
    PROGRESSION: ("progression_student", "progression_base", "progression_teacher"),
}
"""Scores of one panel; with more than three a reader could not tell intervals at a layer from each other."""

SCORES: dict[str, dict[str, tuple[str, LineStyle]]] = {
    panel: {name: (scores_table.BY_NAME[name].label, LINES[name]) for name in names} for panel, names in PANELS.items()
}
"""Panel -> score -> label and style."""

STYLES = {score: style for scores in SCORES.values() for score, style in scores.items()}

MAX_COLUMNS = 4
"""The most panels side by side on a page that leave room for a few layers each."""

ONE_BASE: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.6, "marker": "_", "markersize": 2.5}
NULL_MARK: dict[str, Any] = {
    "linestyle": "none", "marker": "s", "markersize": 3.5, "markerfacecolor": "none", "markeredgecolor": ORANGE,
}  # fmt: skip


APART, BAND = 0.12, 0.22
"""In units of the distance of two layers: from one score to the next, and half of the gray band around a layer's tick."""


def plot_layer_scores(rows: Any, *, title: Optional[str] = None) -> Figure:
    """Draws scores over the layers, with intervals where there are any.

    There is one panel for each Student and kind of score: similarity, relevance of whole models and of distilled and residual
    features, the Teacher's share and its part beyond the labels, their differences from those of placebo Teachers, agreement
    with the Teacher's maps, progression. A panel has at most three scores, side by side at the tick of their layer.
    Panels of one kind share a scale. With several Bases each score has a thin line for each Base, with that pair's
    interval, and a bold line for their mean. The mean has no interval; the spread of the thin lines shows how much the
    score depends on the Base. A score that is the same for all Bases is drawn once. To distinguish the Bases, pass the
    rows of one Base at a time. Of a report with several Bases, hollow squares show the null, the mean of the same score of a Base
    given another Base: compare a distilled score, a Teacher's share or FSS with it, not with 0.

    Args:
        rows (sequence of mappings, or report): tidy records with ``student``, ``base``, ``layer``, ``score`` and
            ``value``, and optionally ``low`` and ``high`` (numbers or None); other keys are ignored. Or the result of
            ``compare_transfer``, or its ``to_dict()``. Layers, Students and Bases are drawn in the order of their first
            appearance. A value of None leaves a gap.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, at most 7 inches wide.

    Raises:
        TypeError: rows that are neither records nor a report, or values that are not numbers.
        ValueError: no rows, a record without one of its keys, a score that does not exist, an infinite value, an
            interval that ends before it begins, or two records for the same student, base, layer and score.

    Examples::

        >>> rows = [{"student": "student", "base": "base", "layer": "layer4", "score": "fss", "value": 0.9}]
        >>> plot_layer_scores(rows).savefig("layers.pdf")
    """
    table = checked_rows(rows, list(STYLES))
    content: Any = rows.to_dict() if hasattr(rows, "to_dict") else rows
    nulls = mean_nulls(content.get("seed_control")).get(NULL, {}) if isinstance(content, Mapping) else {}
    nulls = {key: value for key, value in nulls.items() if not scores_table.BY_NAME[key[0]].needs_all_bases}
    title = check_str(title, "title")
    students, bases, layers = (list(dict.fromkeys(key[i] for key in table)) for i in range(3))
    present = {score for _, _, _, score in table}
    drawn = {kind: [score for score in scores if score in present] for kind, scores in SCORES.items()}
    bands = _bands([kind for kind, scores in drawn.items() if scores], students)
    columns = max(len(row) for band in bands for row in band.panels)
    width = min(3.4, PAGE_WIDTH / columns)
    names = _LayerNames.fitting(layers, width - 0.6)
    panel_height = (1.9 if columns == 1 else 1.6) + names.height

    entries: dict[str, int] = {}
    heights: list[float] = []
    for band in bands:
        for kind in band.legends:
            labels = [STYLES[score][0] for score in drawn[kind]]
            entries[kind] = 1 if len(band.legends) > 1 else legend_columns(labels, width * columns)
        lines = max(ceil(len(drawn[kind]) / entries[kind]) for kind in band.legends)
        heights += [panel_height] * len(band.panels) + [LINE_HEIGHT * lines + 0.1]
    which = [
        Line2D([], [], color="0.35", linewidth=1.4, label="mean over the Bases"),
        Line2D([], [], color="0.35", **ONE_BASE, label="one Base"),
        *([Line2D([], [], **NULL_MARK, label="null: a Base given another Base")] if nulls else []),
    ]
    named = [str(line.get_label()) for line in which]
    if len(bases) > 1:
        heights.append(LINE_HEIGHT * ceil(len(which) / legend_columns(named, width * columns)))
    heading = None if title is None else wrapped(title, width * columns, TITLE_SIZE)
    figure = Figure(figsize=(width * columns, sum(heights) + heading_room(heading)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    top = 0
    for band in bands:
        first: dict[str, Axes] = {}
        for i, row in enumerate(band.panels):
            for j, (kind, student) in enumerate(row):
                axis = figure.add_subplot(grid[top + i, j], sharey=first.get(kind))
                _draw_scores(axis, table, student, bases, layers, drawn[kind], nulls)
                names.put(axis)
                if j == 0 or kind not in first:
                    axis.set_ylabel(wrapped(kind, 1.4, LABEL_SIZE), fontsize=LABEL_SIZE)
                else:
                    axis.tick_params(labelleft=False)
                if len(students) > 1:
                    axis.set_title(wrapped(student, width - 0.4, LABEL_SIZE), fontsize=LABEL_SIZE, pad=3.0)
                first.setdefault(kind, axis)
        top += len(band.panels)
        for j, kind in enumerate(band.legends):
            place = grid[top, :] if len(band.legends) == 1 else grid[top, j]
            legend_below(figure.add_subplot(place), [_handle(score) for score in drawn[kind]], entries[kind])
        top += 1
    if len(bases) > 1:
        legend_below(figure.add_subplot(grid[top, :]), which, legend_columns(named, width * columns))
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


# ----------------------------------------------------------------------------- layout


class _Band(NamedTuple):
    """Rows of panels (kind of score, Student), and kinds whose legends are below them: one for all, or one per column."""

    panels: list[list[tuple[str, str]]]
    legends: list[str]


def _bands(kinds: Sequence[str], students: Sequence[str]) -> list[_Band]:
    if len(students) > 1:
        columns = ceil(len(students) / ceil(len(students) / MAX_COLUMNS))
        rows = [students[i : i + columns] for i in range(0, len(students), columns)]
        return [_Band([[(kind, student) for student in row] for row in rows], [kind]) for kind in kinds]
    blocks = [kinds[i : i + 2] for i in range(0, len(kinds), 2)]
    return [_Band([[(kind, students[0]) for kind in block]], list(block)) for block in blocks]


class _LayerNames(NamedTuple):
    """Tick labels that fit below a panel: every ``step``-th name, at an angle in degrees; height in inches."""

    names: Sequence[str]
    angle: int
    step: int
    height: float

    @classmethod
    def fitting(cls, names: Sequence[str], width: float) -> _LayerNames:
        room = width / len(names)
        folded = [_folded(name, room) for name in names]
        lines = max(name.count("\n") + 1 for name in folded)
        if lines <= 4 and all(text_width(name, TEXT_SIZE) <= room for name in folded):
            return cls(folded, 0, 1, 0.03 + 0.12 * lines)
        longest = max(text_width(name, TEXT_SIZE) for name in names)
        angle, height = (45, 0.75 * longest) if longest < 1.2 else (90, longest)
        line = 1.3 * TEXT_SIZE / 72 * (1.4 if angle == 45 else 1.0)
        return cls(names, angle, ceil(line / room), height)

    def put(self, axis: Axes) -> None:
        axis.set_xticks(range(0, len(self.names), self.step), [verbatim(name) for name in self.names[:: self.step]])
        axis.set_xlim(-0.5, len(self.names) - 0.5)
        for label in axis.get_xticklabels():
            label.set(rotation=self.angle, rotation_mode="anchor")
            label.set(ha="right" if self.angle else "center", va="center" if self.angle == 90 else "top")


def _folded(name: str, width: float) -> str:
    """A dotted name in lines of at most ``width`` inches if it can be broken after dots."""
    lines = [""]
    for part in re.split(r"(?<=\.)", name):
        if lines[-1] and text_width(lines[-1] + part, TEXT_SIZE) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _handle(score: str) -> Line2D:
    label, style = STYLES[score]
    return Line2D([], [], label=label, **style.artist())


# ----------------------------------------------------------------------------- panels


def _draw_scores(
    axis: Axes,
    table: Mapping[tuple[str, str, str, str], Estimate],
    student: str,
    bases: Sequence[str],
    layers: Sequence[str],
    scores: Sequence[str],
    nulls: Mapping[tuple[str, str], float],
) -> None:
    missing = (np.nan, np.nan, np.nan)
    lines: list[tuple[str, list[Array]]] = []
    for score in scores:
        estimates = [np.array([table.get((student, base, layer, score), missing) for layer in layers]).T for base in bases]
        known = [one for one in estimates if np.isfinite(one[0]).any()]
        if known and all(np.array_equal(one, known[0], equal_nan=True) for one in known):
            known = known[:1]
        if known:
            lines.append((score, known))

    for layer in range(len(layers)):
        axis.axvspan(layer - BAND, layer + BAND, color="0.96", linewidth=0, zorder=0)
    # Side by side at their layer's tick, so that intervals do not cover each other.
    for number, (score, known) in enumerate(lines):
        label, style = STYLES[score]
        middle = APART * (number - (len(lines) - 1) / 2)
        beside = np.linspace(-0.35 * APART, 0.35 * APART, len(known)) if len(known) > 1 else np.zeros(1)
        places = np.arange(len(layers)) + middle + beside[:, None]
        for at, (values, lows, highs) in zip(places, known):
            axis.vlines(at, lows, highs, color=style.color, linewidth=1.2 if len(known) == 1 else 0.8)
            if len(known) > 1:
                axis.plot(at, values, color=style.color, label=f"{label}, one Base", **ONE_BASE)
        mean = np.mean([values for values, _, _ in known], axis=0)
        axis.plot(places.mean(axis=0), mean, zorder=3, label=label, **style.artist())
        null = [nulls.get((score, layer), np.nan) for layer in layers]
        axis.plot(places.mean(axis=0), null, zorder=4, label=f"{label}, null", **NULL_MARK)
    axis.axhline(0.0, color="0.5", linewidth=0.8, zorder=1)
    prepare_axis(axis)
