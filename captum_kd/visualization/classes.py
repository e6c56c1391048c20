"""Figure of the scores of classes, or other groups of inputs."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd._utils.validation import check_str, short_repr
from captum_kd.metrics.report.class_names import names_in
from captum_kd.metrics.report.nulls import DIFFERENCES
from captum_kd.metrics.scores_table import BY_NAME, PREDICTIONS_LAYER, RELEVANCE
from captum_kd.visualization._rows import report_content
from captum_kd.visualization._style import (
    GREEN,
    LABEL_SIZE,
    LINE_HEIGHT,
    ORANGE,
    PAGE_WIDTH,
    TEXT_SIZE,
    TITLE_SIZE,
    heading_room,
    legend_below,
    legend_columns,
    prepare_axis,
    text_width,
    verbatim,
    wrapped,
)

__all__ = ["plot_classes"]

NAME_WIDTH = 2.6
"""Inches: names that take more are wrapped."""
OF_A_PAIR: dict[str, Any] = {"color": GREEN, "linewidth": 0.7, "alpha": 0.45}
SQUARE: dict[str, Any] = {
    "color": ORANGE, "marker": "s", "markersize": 4.2, "markerfacecolor": "none", "markeredgewidth": 1.1,
}  # fmt: skip
OPPOSITE = {"rs_distilled": "rs_residual", "teacher_distilled": "teacher_residual"}
"""Scores with the reverse removal. Without two Bases, it is what to compare with."""


class _Class(NamedTuple):
    """A class: its label, the values and intervals of its pairs of models, and the value to compare with (NaN if none)."""

    label: str
    pairs: list[tuple[float, float, float]]
    compared: float

    @property
    def value(self) -> float:
        return float(np.mean([value for value, _, _ in self.pairs])) if self.pairs else float("-inf")


def plot_classes(
    report: Any,
    score: str = "rs_distilled",
    *,
    layer: Optional[str] = None,
    class_names: Union[None, Mapping[int, str], Sequence[str]] = None,
    title: Optional[str] = None,
) -> Figure:
    """Draws one score of every class, or other group of inputs, with intervals, largest first.

    A dot is the mean over the pairs of a Student and a Base, a thin line the interval of one pair. A square is the null: the
    mean score of a Base given another Base in this class. Without two Bases there is no null. For distilled features the square
    is then the residual score, since 0 is not what another seed would give. Differences from the Base have no square: compare
    them with 0. Classes without a score come last.

    Args:
        report (TransferReport or mapping): a report with ``by_class=True`` or ``groups_of_inputs``, or its ``to_dict()``.
        score (str, optional): a score of ``report.classes["rows"]``.
                    Default: "rs_distilled"
        layer (str, optional): the layer.
                    Default: None, the last one that has the score
        class_names (mapping or sequence of str, optional): name of each class, by its number.
                    Default: None, the report's own names
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, 7 inches wide; its height follows the number of classes.

    Raises:
        TypeError: not a report, names that are not strings.
        ValueError: a report without classes, or without the score at the layer.

    Examples::

        >>> report = compare_transfer(students, bases, ["layer4"], loader, teacher=teacher, by_class=True, confidence=0.95)
        >>> plot_classes(report, "teacher_distilled", class_names=dataset.classes).savefig("classes.pdf")
    """
    content = report_content(report, "classes")
    classes = content["classes"]
    if classes is None:
        raise ValueError("The report has no classes; pass by_class=True or groups_of_inputs= to compare_transfer.")
    title, layer = check_str(title, "title"), check_str(layer, "layer")
    known = list(dict.fromkeys(row["score"] for row in classes["rows"]))
    if score not in known:
        raise ValueError(f"score must be one of {', '.join(known)}, got {short_repr(score)}.")
    layers = list(dict.fromkeys(row["layer"] for row in classes["rows"] if row["score"] == score))
    if layer is not None and layer not in layers:
        raise ValueError(f"layer must be one of {', '.join(layers)}, got {short_repr(layer)}.")
    chosen = layers[-1] if layer is None else layer
    names = names_in(content.get("settings", {}), classes) if class_names is None else class_names
    found, compared = _classes(classes, score, chosen, names)
    labels = [wrapped(each.label, NAME_WIDTH, TEXT_SIZE) for each in found]
    width = PAGE_WIDTH - 0.5 - min(NAME_WIDTH, max(text_width(label, TEXT_SIZE) for label in labels))
    heading = None if title is None else wrapped(title, PAGE_WIDTH, TITLE_SIZE)
    note = wrapped(_note(score, str(classes["of"])), width, TEXT_SIZE)
    handles = [Line2D([], [], color=GREEN, marker="o", markersize=4.5, linestyle="", label="mean over pairs of models")]
    if any(low == low for each in found for _, low, _ in each.pairs):
        handles.append(Line2D([], [], **OF_A_PAIR, label="interval of one pair"))
    if compared is not None:
        handles.append(Line2D([], [], **SQUARE, linestyle="", label=compared))
    columns = legend_columns([str(handle.get_label()) for handle in handles], width)
    below = LINE_HEIGHT * -(-len(handles) // columns) + 0.1
    row_height = LINE_HEIGHT * (1 + max(label.count("\n") for label in labels)) + 0.05
    height = max(0.6, row_height * len(labels)) + 0.5 + below + (1 + note.count("\n")) * LINE_HEIGHT * bool(note)
    figure = Figure(figsize=(PAGE_WIDTH, height + heading_room(heading)), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[height - below, below])
    axis = figure.add_subplot(grid[0])
    _draw(axis, found)
    axis.set_yticks(range(len(found)), labels)
    of_layer = "" if chosen == PREDICTIONS_LAYER else f" at {verbatim(chosen)}"
    described = BY_NAME[score]
    axis.set_xlabel(f"{described.kind}: {described.label}{of_layer}", fontsize=LABEL_SIZE)
    if note:
        axis.set_title(note, fontsize=TEXT_SIZE, color="0.3", loc="left")
    legend_below(figure.add_subplot(grid[1]), handles, columns)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _classes(
    classes: Mapping[str, Any], score: str, layer: str, names: Union[None, Mapping[int, str], Sequence[str]]
) -> tuple[list[_Class], Optional[str]]:
    """The classes, those with the largest scores first, and the meaning of their squares."""
    pairs: dict[int, list[tuple[float, float, float]]] = {each["group"]: [] for each in classes["groups"]}
    others: dict[int, list[float]] = {group: [] for group in pairs}
    nulls = {
        null["group"]: null["value"]
        for null in classes["nulls"]
        if (null["layer"], null["score"]) == (layer, score) and score not in DIFFERENCES
    }
    for row in (row for row in classes["rows"] if row["layer"] == layer and row["value"] is not None):
        if row["score"] == score:
            ends = (np.nan if row[end] is None else row[end] for end in ("low", "high"))
            pairs[row["group"]].append((row["value"], *ends))
        elif row["score"] == OPPOSITE.get(score):
            others[row["group"]].append(row["value"])
    if not nulls:
        nulls = {group: float(np.mean(values)) for group, values in others.items() if values}
        compared = "mean residual score" if nulls else None
    else:
        compared = "null: a Base given another Base"
    found = []
    for each in classes["groups"]:
        group, number = each["group"], len(pairs[each["group"]])
        label = f"{_name(names, group)} ({each['inputs']})"
        found.append(_Class(label, pairs[group], nulls.get(group, np.nan) if number else np.nan))
    return sorted(found, key=lambda each: -each.value), compared


def _name(names: Union[None, Mapping[int, str], Sequence[str]], group: int) -> str:
    if names is None:
        return str(group)
    if isinstance(names, str) or not isinstance(names, (Mapping, Sequence)):
        raise TypeError(f"class_names must be a list of names or a mapping from numbers to names, got {short_repr(names)}.")
    if isinstance(names, Mapping):
        known = group in names
    else:
        known = group < len(names)
    return str(check_str(names[group], f"class_names[{group}]", or_none=False)) if known else str(group)


def _note(score: str, word: str) -> str:
    """How to read relevance; empty for other scores."""
    if BY_NAME[score].kind != RELEVANCE:
        return ""
    return (
        f"Relevance of a {word}, one against the rest, grows with its share of the inputs (numbers in parentheses): compare "
        "dot and square."
    )


def _draw(axis: Axes, found: Sequence[_Class]) -> None:
    axis.axvline(0.0, color="0.6", linewidth=0.8, zorder=1)
    for place, each in enumerate(found):
        count = len(each.pairs)
        for number, (_, low, high) in enumerate(each.pairs):
            offset = 0.0 if count == 1 else 0.6 * (number / (count - 1) - 0.5)
            axis.hlines(place + offset, low, high, zorder=2, **OF_A_PAIR)
        if not count:
            axis.annotate(
                "no score", (0.01, place), xycoords=("axes fraction", "data"), fontsize=TEXT_SIZE, color="0.45", va="center"
            )
        else:
            axis.plot(each.compared, place, zorder=3, label="to compare with", **SQUARE)
            axis.plot(each.value, place, "o", label="mean", color=GREEN, markersize=4.5, markeredgewidth=0.0, zorder=4)
    prepare_axis(axis)
    axis.grid(False, axis="y")
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_ylim(len(found) - 0.4, -0.6)
