"""Figure of trainings: scores over the epochs, one row of panels for each score, one column for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from statistics import mean
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from captum_kd._utils.validation import check_str, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.metrics.scores_table import ALL_BASES, BY_NAME, PREDICTIONS_LAYER
from captum_kd.monitor.transfer_monitor import check_records
from captum_kd.visualization._style import (
    AMBER,
    BLACK,
    BLUE,
    GREEN,
    LABEL_SIZE,
    LINE_HEIGHT,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SKY,
    TEXT_SIZE,
    TITLE_SIZE,
    cycled_style,
    heading_room,
    legend_below,
    legend_columns,
    prepare_axis,
    verbatim,
    wrapped,
)

if TYPE_CHECKING:
    from captum_kd.monitor.transfer_monitor import TransferMonitor

__all__ = ["plot_process"]

Run = Union["TransferMonitor", Sequence[Mapping[str, Any]]]
"""A training: a monitor or its history."""
Runs = Union[Run, Sequence[Run]]

DRAWN = (
    "fss_student_teacher", "rs_student", "rs_distilled", "teacher_distilled", "teacher_distilled_over_placebos",
    "agreement_student_teacher", "accuracy_student",
)  # fmt: skip
"""The scores of a figure unless others are chosen; those that a history lacks are left out."""
_NAMES = {
    "fss": "FSS to Base", "fss_student_teacher": "FSS to Teacher", "rs_student": "relevance (RS)",
    "rs_distilled": "RS, distilled",
    "teacher_distilled": "Teacher's share", "teacher_only_distilled": "Teacher's share beyond labels",
    "teacher_distilled_over_placebos": "Teacher's share over placebos", "agreement_student_teacher": "agreement with Teacher",
    "accuracy_student": "accuracy", "agreement_over_base": "agreement over Base's",
}  # fmt: skip
_OF_BASE = {
    "fss_student_teacher": "fss_base_teacher", "rs_student": "rs_base", "agreement_student_teacher": "agreement_base_teacher",
    "accuracy_student": "accuracy_base",
}  # fmt: skip
"""The same score of the trained Base, which is drawn as a level."""
_COLORS = (BLUE, GREEN, PURPLE, SKY, AMBER, BLACK)
"""Without the orange of Bases; black last, since its band resembles that of the null."""
_GRAY: dict[str, Any] = {"color": "0.5", "linestyle": "-", "linewidth": 1.4}
_LEVEL: dict[str, Any] = {"color": ORANGE, "linestyle": ":", "linewidth": 1.0}
_SAME = 1e-3
"""Scores of one network on one probe differ by less, also between devices."""
NO_NULL = "without null=, this cannot show transfer"
_PANEL = 1.15
"""Inches: height of a panel."""

# The values of one training by epoch.
Curve = dict[float, float]
Curves = dict[tuple[str, str], Curve]


def plot_process(
    students: Union[Runs, Mapping[str, Runs]],
    null: Optional[Runs] = None,
    *,
    scores: Optional[Sequence[str]] = None,
    title: Optional[str] = None,
) -> Figure:
    """Draws how scores of Students change over the epochs of their trainings, layer by layer.

    Several trainings of one kind (seeds) are a line, their mean, and a band from the smallest to the largest value, at the epochs
    that all of them have. With several Bases, values are means over the Bases. Dotted lines are the trained Base's own values.
    Panels of one row share a scale.

    Networks that learn the same task come closer to any good Teacher, and scores of distilled features are above 0 for any two
    networks. So compare with the gray line: trainings without a Teacher, measured in the same way by monitors of their own.
    A line above the gray one shows that this training differs. A faster training or another Teacher can be the cause; only
    placebo Teachers tell whether it is this Teacher. A gap between bands of few seeds can be chance (docs/monitor.md).

    A warning says if the groups were compared with different Bases, Teachers or inputs, since their curves then differ anyway.

    Args:
        students (TransferMonitor, history, list of them, or dict): one training, several seeds, or {name: one or several}.
        null (TransferMonitor, history or list of them, optional): trainings without a Teacher, from other seeds than the Base.
        scores (sequence of str, optional): names of scores of ``compare_transfer``.
            Default: similarity with the Teacher, relevance, distilled relevance, the Teacher's share (also over placebos),
            agreement with the Teacher, accuracy; those that there are
        title (str, optional): a heading over the figure.

    Returns:
        Figure: not registered with pyplot, 7 inches wide for up to five layers.

    Raises:
        ValueError: no trainings, or none that was measured; unknown scores, or scores that no history has.
        TypeError: trainings that are neither monitors nor histories.

    Examples::

        >>> plot_process({"logits": [monitor_1, monitor_2], "hints": [monitor_3, monitor_4]}, null=[base_1, base_2])
    """
    groups = students if isinstance(students, Mapping) else {"Student": students}
    if not groups:
        raise ValueError("students is an empty mapping: there is nothing to plot; pass at least one training.")
    runs = {str(name): _runs(group, "students") for name, group in groups.items()}
    curves = {name: [_curves(run) for run in group] for name, group in runs.items()}
    runs_of_null = [] if null is None else _runs(null, "null")
    of_null = [_curves(run) for run in runs_of_null]
    title = check_str(title, "title")
    _check_same_bases([*runs.values(), runs_of_null])
    every = [curve for group in (*curves.values(), of_null) for curve in group]
    present = list(dict.fromkeys(key for curve in every for key in curve))
    chosen = _chosen(scores, {score for _, score in present})
    by_layer = [score for score in chosen if any(score == each and layer != PREDICTIONS_LAYER for layer, each in present)]
    of_predictions = [score for score in chosen if score not in by_layer]
    layers = list(dict.fromkeys(layer for layer, score in present if score in by_layer))

    columns = max(len(layers), min(len(of_predictions), 4), 1)
    rows = len(by_layer) + ceil(len(of_predictions) / columns)
    width = max(PAGE_WIDTH * min(1.0, (columns + 1) / 4), 1.4 * columns)
    bases = {record["base"] for group in runs.values() for run in group for record in run} - {ALL_BASES}
    handles = _handles(curves, of_null, len(bases) if any(score in _OF_BASE for score in chosen) else 0)
    labels = [str(handle.get_label()) for handle in handles]
    in_legend = legend_columns(labels, width)
    legend_height = 1.1 * LINE_HEIGHT * ceil(len(labels) / in_legend) + 0.05
    heading = None if title is None else wrapped(title, width, TITLE_SIZE)
    height = _PANEL * rows + 0.35 + legend_height + heading_room(heading)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[_PANEL] * rows + [legend_height])

    for row, score in enumerate(by_layer):
        panels = [figure.add_subplot(grid[row, column]) for column in range(len(layers))]
        for axis, layer in zip(panels, layers):
            _draw(axis, (layer, score), curves, of_null)
            if row == 0:
                axis.set_title(wrapped(layer, width / columns, LABEL_SIZE), fontsize=LABEL_SIZE)
        low, high = (choose(axis.get_ylim()[i] for axis in panels) for i, choose in enumerate((min, max)))
        for axis in panels:
            axis.set_ylim(low, high)
            axis.tick_params(labelleft=axis is panels[0], labelbottom=row == len(by_layer) - 1)
            if row == len(by_layer) - 1:
                axis.set_xlabel("epoch", fontsize=TEXT_SIZE)
        panels[0].set_ylabel(wrapped(_name(score), _PANEL, TEXT_SIZE), fontsize=TEXT_SIZE)
    for place, score in enumerate(of_predictions):
        axis = figure.add_subplot(grid[len(by_layer) + place // columns, place % columns])
        _draw(axis, (PREDICTIONS_LAYER, score), curves, of_null)
        axis.set_title(wrapped(_name(score), width / columns, TEXT_SIZE), fontsize=TEXT_SIZE)
        axis.set_xlabel("epoch", fontsize=TEXT_SIZE)
    legend_below(figure.add_subplot(grid[rows, :]), handles, in_legend)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _runs(given: Any, argument: str) -> list[Sequence[Mapping[str, Any]]]:
    """The histories of one or several trainings."""
    is_history = isinstance(given, (list, tuple)) and all(isinstance(each, Mapping) for each in given) and bool(given)
    several = [given] if is_history or not isinstance(given, (list, tuple)) else list(given)
    histories = [getattr(each, "history", each) for each in several]
    for each in histories:
        if not isinstance(each, (list, tuple)) or not all(isinstance(record, Mapping) for record in each):
            raise TypeError(f"{argument} must be a TransferMonitor, its history, or a list of these, got {short_repr(each)}.")
        check_records(each, f"A history of {argument}")
        if not each:
            raise ValueError(f"{argument} holds a training without measurements; call monitor.step(student, epoch) first.")
    if not histories:
        raise ValueError(f"{argument} is empty: there is nothing to plot; pass at least one training.")
    return histories


def _curves(history: Sequence[Mapping[str, Any]]) -> Curves:
    """The curve of each layer and score, mean over the Bases."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for record in history:
        if record["base"] != ALL_BASES:
            of_score = found.setdefault((record["layer"], record["score"]), {})
            of_score.setdefault(float(record["epoch"]), []).append(float(record["value"]))
    return {key: {epoch: mean(values) for epoch, values in curve.items()} for key, curve in found.items()}


def _chosen(scores: Optional[Sequence[str]], present: set[str]) -> list[str]:
    if scores is None:
        return [score for score in DRAWN if score in present]
    if not isinstance(scores, (list, tuple)) or not all(isinstance(score, str) for score in scores) or not scores:
        raise TypeError(f"scores must be a list of names of scores, such as ['rs_student'], got {short_repr(scores)}.")
    for score in scores:
        if score not in BY_NAME or score not in present:
            raise ValueError(f"scores: no training has the score {score!r}; there are {', '.join(sorted(present))}.")
    return list(scores)


def _name(score: str) -> str:
    return _NAMES.get(score, f"{BY_NAME[score].kind}: {BY_NAME[score].label}")


def _draw(axis: Axes, key: tuple[str, str], groups: Mapping[str, Sequence[Curves]], null: Sequence[Curves]) -> None:
    layer, score = key
    if score in _OF_BASE:
        of_base, trainings = (layer, _OF_BASE[score]), [each for group in groups.values() for each in group]
        levels = [value for each in trainings for value in each.get(of_base, {}).values()]
        if levels:
            axis.axhline(mean(levels), zorder=1, **_LEVEL)
    _draw_group(axis, [each[key] for each in null if key in each], _GRAY, 2)
    for place, group in enumerate(groups.values()):
        _draw_group(axis, [each[key] for each in group if key in each], _style(place), 3)
    prepare_axis(axis)
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_group(axis: Axes, curves: Sequence[Curve], style: Mapping[str, Any], order: int) -> None:
    """The mean of the curves, and the band between the smallest and the largest value."""
    if not curves:
        return
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    axis.plot(epochs, [mean(each) for each in values], zorder=order, **style)
    if len(curves) > 1:
        ends = [min(each) for each in values], [max(each) for each in values]
        axis.fill_between(epochs, *ends, color=style["color"], alpha=0.2, linewidth=0, zorder=order - 1)


def _style(place: int) -> dict[str, Any]:
    return {**cycled_style(place).artist(), "color": _COLORS[place % len(_COLORS)], "markersize": 2.5, "linewidth": 1.2}


def _check_same_bases(groups: Sequence[Sequence[Sequence[Mapping[str, Any]]]]) -> None:
    """Warns if a score of a trained Base is not the same in all groups. Within a group it may vary, as over folds."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for group in groups:
        values: dict[tuple[str, str, str], list[float]] = {}
        for record in (record for history in group for record in history):
            if record["score"] in _OF_BASE.values() and record["base"] != ALL_BASES:
                values.setdefault((record["base"], record["layer"], record["score"]), []).append(float(record["value"]))
        for key, of_key in values.items():
            found.setdefault(key, []).append((min(of_key), max(of_key)))
    for (base, layer, score), ends in found.items():
        for of_groups in zip(*ends):
            if max(of_groups) - min(of_groups) > _SAME:
                warn_user(
                    f"The groups were compared with different Bases, Teachers or inputs: {score} of {base!r} at {layer} is "
                    f"{min(of_groups):.3f} in one group and {max(of_groups):.3f} in another. Their curves differ for that reason "
                    "alone. Pass the same models and data to all monitors."
                )
                return


def _handles(groups: Mapping[str, Sequence[Curves]], null: Sequence[Curves], bases: int) -> list[Line2D]:
    found = []
    for place, (name, group) in enumerate(groups.items()):
        found.append(Line2D([], [], label=verbatim(f"{name}{_seeds(group)}"), **_style(place)))
    if null:
        found.append(Line2D([], [], label=f"no Teacher (null){_seeds(null)}", **_GRAY))
    if bases:
        found.append(Line2D([], [], label="the trained Base" if bases == 1 else f"mean of {bases} trained Bases", **_LEVEL))
    if not null:
        found.append(Line2D([], [], label=NO_NULL, linestyle="none"))
    return found


def _seeds(group: Sequence[Curves]) -> str:
    return f", mean and range of {len(group)}" if len(group) > 1 else ""
