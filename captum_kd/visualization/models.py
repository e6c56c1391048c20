"""Figures of the models of a report: networks as points, close together if their features are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Sequence, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd._utils.validation import check_str, short_repr
from captum_kd.metrics._multidimensional_scaling import Array, aligned, classical_scaling
from captum_kd.metrics.scores_table import BASE, PLACEBO, STUDENT, TEACHER
from captum_kd.visualization._squares import square_panels
from captum_kd.visualization._style import AMBER, BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, TEXT_SIZE, text_width, verbatim

__all__ = ["plot_models"]

_STUDENT_COLORS, _STUDENT_MARKERS = (BLUE, GREEN, PURPLE, SKY, AMBER), "o^vPX"
_OTHERS = {BASE: (ORANGE, "s"), TEACHER: (BLACK, "*"), PLACEBO: (BLACK, "D")}
_LABELS = {BASE: "Base", TEACHER: "Teacher", PLACEBO: "placebo Teacher"}
_RULERS = (0.999, 0.99, 0.95, 0.9, 0.8, 0.6, 0.5, 0.0)
"""Similarities whose distance may be the ruler."""
_CAUTION = "Shown: the share of all squared distances. Where it is low, models that look close may differ."


class _Panel(NamedTuple):
    """The points of one layer: coordinates (m, 2) of the models at ``places``, and the share that they show."""

    layer: str
    places: list[int]
    points: Array
    share: Optional[float]


def plot_models(report: Any, layer: Union[None, str, Sequence[str]] = None, *, title: Optional[str] = None) -> Figure:
    """Draws the models of a report as points: models with similar features are close together.

    The squared distance of two models is 2 (1 - FSS), that of their centered distance matrices at unit length. Each panel shows
    the two principal axes of these points (classical multidimensional scaling), and says which share of all squared distances
    they show. Where the share is low, models that look close together may differ. Read their FSS in ``report.similarities``.
    All panels have one scale, and each is rotated or reflected so that it fits the one before.

    Args:
        report (TransferReport or mapping): the result of ``compare_transfer``, or its ``to_dict()``.
        layer (str or sequence of str, optional): one layer, or several.
            Default: None, all layers
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, at most 7 inches wide. Names are drawn where there is room.

    Raises:
        TypeError: not a report.
        ValueError: a report without similarities (``localize="unicam"``), a layer that it does not have.

    Source: Torgerson, Psychometrika 1952.

    Examples::

        >>> report = compare_transfer(students, bases, ["layer3", "layer4"], loader, teacher=teacher)
        >>> plot_models(report).savefig("models.png")
    """
    content = _checked(report)
    found = content["similarities"]
    layers = _chosen(layer, list(found["layers"]))
    title = check_str(title, "title")
    names, kinds = found["models"], _kinds(content)
    panels = _panels({label: np.array(found["layers"][label], dtype=float) for label in layers})

    heads, feet = [panel.layer for panel in panels], [_foot(panel, names) for panel in panels]
    drawn = square_panels(heads, feet, _CAUTION, _handles(kinds), title, has_ruler=True)
    reach = 1.15 * max((float(np.ptp(each.points, axis=0).max()) / 2 for each in panels if each.places), default=0.0) or 1.0
    inch = 2 * reach / drawn.side
    for axis, panel in zip(drawn.axes, panels):
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
        if panel.places:
            points = panel.points - (panel.points.max(0) + panel.points.min(0)) / 2
            for place, point in zip(panel.places, points):
                axis.plot(*point, label=names[place], **_artist(kinds, kinds[place]))
            _put_names(axis, [names[place] for place in panel.places], points, inch, reach)
    if drawn.ruler is not None:
        _put_ruler(drawn.ruler, inch, drawn.side)
    return drawn.figure


# ----------------------------------------------------------------------------- checks


def _checked(report: Any) -> Mapping[str, Any]:
    content: Any = report.to_dict() if hasattr(report, "to_dict") else report
    if not isinstance(content, Mapping) or "similarities" not in content:
        raise TypeError(f"report must be the result of compare_transfer, or its to_dict(), got {short_repr(report)}.")
    if content["similarities"] is None:
        raise ValueError(
            'The report has no similarities of all models: with localize="unicam" a model has other features in each pair. '
            "Compare whole inputs, or localize by Grad-CAM."
        )
    return content


def _chosen(layer: Any, known: list[str]) -> list[str]:
    layers = known if layer is None else [layer] if isinstance(layer, str) else layer
    if not isinstance(layers, (list, tuple)):
        raise TypeError(f"layer must be a layer of the report, a list of them, or None, got {short_repr(layer)}.")
    for each in layers:
        if each not in known:
            raise ValueError(f"layer must be one of the report's layers {', '.join(map(repr, known))}, got {short_repr(each)}.")
    if not layers:
        raise ValueError("layer is empty; name at least one layer, or leave it out for all of them.")
    return list(dict.fromkeys(layers))


def _kinds(content: Mapping[str, Any]) -> list[str]:
    """The legend's entry of each model: the Student's group, or the role."""
    groups: dict[str, str] = {}
    for group in (content.get("seed_control") or {}).get("groups", []):
        if group["group"] is not None:
            groups.update({name: f"Student: {group['group']}" for name in group["students"] if name not in groups})
    other = "Student without a group" if groups else "Student"
    models = zip(content["similarities"]["models"], content["similarities"]["roles"])
    return [groups.get(name, other) if role == STUDENT else _LABELS[role] for name, role in models]


# ----------------------------------------------------------------------------- points


def _panels(matrices: Mapping[str, Array]) -> list[_Panel]:
    """The points of each layer, each aligned with the layer before."""
    panels: list[_Panel] = []
    for layer, matrix in matrices.items():
        places = [place for place in range(len(matrix)) if np.isfinite(matrix[place, place])]
        # A pair of models that no mini-batch defines both counts as unrelated.
        squares = 2 * (1 - np.nan_to_num(matrix[np.ix_(places, places)]))
        points, share = classical_scaling(np.where(squares < 1e-9, 0.0, squares)) if places else (np.zeros((0, 2)), None)
        if panels:
            before = panels[-1]
            common = [place for place in places if place in before.places]
            points = aligned(
                points, before.points, ([places.index(each) for each in common], [before.places.index(each) for each in common])
            )
        panels.append(_Panel(layer, places, points, share))
    return panels


def _foot(panel: _Panel, names: Sequence[str]) -> str:
    shown = "no distances" if panel.share is None else f"{panel.share:.0%} shown"
    left_out = [name for place, name in enumerate(names) if place not in panel.places]
    if not left_out:
        return shown
    return f"{shown}; undefined: {left_out[0] if len(left_out) == 1 else f'{len(left_out)} models'}"


# ----------------------------------------------------------------------------- artists


def _artist(kinds: Sequence[str], kind: str) -> dict[str, Any]:
    roles = {label: role for role, label in _LABELS.items()}
    if kind in roles:
        color, marker = _OTHERS[roles[kind]]
    else:
        number = [each for each in dict.fromkeys(kinds) if each not in roles].index(kind)
        color, marker = _STUDENT_COLORS[number % 5], _STUDENT_MARKERS[(number + number // 5) % 5]
    is_placebo, is_teacher = kind == _LABELS[PLACEBO], kind == _LABELS[TEACHER]
    return {
        "marker": marker, "linestyle": "none", "markersize": 9.0 if is_teacher else 4.0 if is_placebo else 5.0,
        "markerfacecolor": "white" if is_placebo else color, "markeredgecolor": color if is_placebo else "white",
        "markeredgewidth": 0.8 if is_placebo else 0.4, "zorder": 3,
    }  # fmt: skip


def _handles(kinds: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=verbatim(kind), **_artist(kinds, kind)) for kind in dict.fromkeys(kinds)]


def _put_names(axis: Axes, names: Sequence[str], points: Array, inch: float, reach: float) -> None:
    """Writes each name beside its point if it covers no point and no other name. ``inch`` is one inch in data units."""
    taken = [(x - 0.05 * inch, y - 0.05 * inch, x + 0.05 * inch, y + 0.05 * inch) for x, y in points]
    high, apart = 1.2 * TEXT_SIZE / 72 * inch, 0.08 * inch
    for name, (x, y) in zip(names, points):
        wide = text_width(verbatim(name), TEXT_SIZE) * inch
        for side, left, bottom in (
            ("left", x + apart, y - high / 2), ("right", x - apart - wide, y - high / 2),
            ("center", x - wide / 2, y + apart), ("center", x - wide / 2, y - apart - high),
            ("left", x - apart, y + apart), ("left", x - apart, y - apart - high),
            ("right", x + apart - wide, y + apart), ("right", x + apart - wide, y - apart - high),
        ):  # fmt: skip
            box = (left, bottom, left + wide, bottom + high)
            inside = min(box) > -reach and max(box) < reach
            if inside and not any(_overlap(box, other) for other in taken):
                at = {"left": left, "right": left + wide, "center": x}[side]
                axis.text(at, bottom + high / 2, verbatim(name), fontsize=TEXT_SIZE, ha=side, va="center")
                taken.append(box)
                break


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _put_ruler(axis: Axes, inch: float, side: float) -> None:
    """A line as long as the distance of two models with a round similarity; a third of a panel, or nearly."""
    lengths = {similarity: (2 * (1 - similarity)) ** 0.5 / inch for similarity in _RULERS}
    similarity = min(lengths, key=lambda each: abs(lengths[each] - side / 3))
    text = f"distance of two models with FSS {similarity:g}"
    total = lengths[similarity] + 0.1 + text_width(text, TEXT_SIZE)
    start = (axis.get_xlim()[1] - total) / 2
    axis.plot([start, start + lengths[similarity]], [0.5, 0.5], color="0.35", marker="|", markersize=5, linewidth=1.0)
    axis.text(start + lengths[similarity] + 0.1, 0.5, text, fontsize=TEXT_SIZE, va="center")
