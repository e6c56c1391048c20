"""Heat maps of the similarity of two models' layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from captum_kd._utils.validation import check_str, short_repr
from captum_kd.visualization._style import (
    BLACK,
    LABEL_SIZE,
    LINE_HEIGHT,
    ORANGE,
    PAGE_WIDTH,
    TEXT_SIZE,
    TITLE_SIZE,
    heading_room,
    text_width,
    verbatim,
    wrapped,
)

if TYPE_CHECKING:
    from captum_kd.metrics.similarity_matrices import LayerSimilarity

__all__ = ["plot_layer_similarity"]

# Inches of a cell: at least the height of a name in small text.
_LEAST_CELL, _CELL = 0.115, 0.3
_BAR = 0.75
_LEAD = 0.3
"""Inches of a lead's number."""
_HATCH = "////"
LEAST_LEAD = 0.02
"""Of a match with a mark. Below it, another seed of the same network had the same best match in 36 to 58 % of cases only
(docs/layers.md)."""


def plot_layer_similarity(
    result: LayerSimilarity,
    measure: Optional[str] = None,
    *,
    names: tuple[str, str] = ("model_a", "model_b"),
    title: Optional[str] = None,
) -> Figure:
    """Draws the similarity of all layers of two models as a heat map, or as one below the other for several measures.

    Colors go from 0 (white) to 1 (blue). Negative values are orange on the same scale, so that they cannot be taken for
    similarity. Pairs of layers without a value are hatched. A dot marks the best match of each layer of the first model, a
    circle that of each layer of the second one, and a dot in a circle two layers that choose each other. The numbers beside
    rows and above columns say by how much the best match exceeds the runner-up. A match that leads by less than .02
    has no mark: another seed often has another one.

    Args:
        result (LayerSimilarity): of :func:`captum_kd.metrics.layer_similarity`.
        measure (str, optional): "fss" or "cka".
                    Default: all measures of the result
        names (tuple of str, optional): names of the two models for the axes.
        title (str, optional): a heading over the figure.

    Returns:
        Figure: not registered with pyplot. Its size grows with the number of layers, so that every name can be read.

    Raises:
        TypeError: something other than a result of ``layer_similarity``, names that are not two strings.
        ValueError: a measure that was not computed.

    Example::

        >>> plot_layer_similarity(found, "cka", names=("ResNet-18", "ResNet-50")).savefig("layers.pdf")
    """
    if not hasattr(result, "best_match"):
        raise TypeError(f"result must be a LayerSimilarity, made by layer_similarity(), got {short_repr(result)}.")
    if not isinstance(names, (tuple, list)) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be two strings, the names of the two models, got {short_repr(names)}.")
    measures = result.measures if measure is None else (result._checked_measure(measure),)
    title = check_str(title, "title")
    rows, columns = len(result.layers_a), len(result.layers_b)
    cell = min(max(PAGE_WIDTH / 2 / max(rows, columns), _LEAST_CELL), _CELL)
    labels_a, labels_b = ([verbatim(layer) for layer in layers] for layers in (result.layers_a, result.layers_b))
    beside, below = (max(text_width(label, TEXT_SIZE) for label in labels) + 0.35 for labels in (labels_a, labels_b))
    width = max(columns * cell + beside + _LEAD + _BAR, 3.4)
    heading = None if title is None else wrapped(title, width, TITLE_SIZE)
    panel, legend = max(rows * cell, 0.9) + below + _LEAD + 0.25, 7 * LINE_HEIGHT
    height = len(measures) * panel + legend + heading_room(heading)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(measures) + 1, 1, height_ratios=[*[panel] * len(measures), legend], squeeze=False)[:, 0]
    for axis, name in zip(axes, measures):
        image = _draw(axis, result, name, cell)
        axis.set_xticks(range(columns), labels=labels_b, rotation=90)
        axis.set_yticks(range(rows), labels=labels_a)
        axis.tick_params(labelsize=TEXT_SIZE, length=1.5, pad=1.5)
        axis.set_xlabel(f"layers of {verbatim(names[1])}", fontsize=LABEL_SIZE)
        axis.set_ylabel(f"layers of {verbatim(names[0])}", fontsize=LABEL_SIZE)
        axis.set_title(f"{name.upper()}, {result.n} inputs", fontsize=LABEL_SIZE)
        _write_leads(axis, result, name)
        bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02, aspect=25)
        bar.ax.tick_params(labelsize=TEXT_SIZE, length=2)
    _legend(axes[-1], result, measures, names)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _draw(axis: Axes, result: LayerSimilarity, measure: str, cell: float) -> Any:
    """One heat map with its marks."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    values = np.array([[np.nan if value is None else value for value in row] for row in result.matrices[measure]])
    lowest = min(0.0, float(np.nanmin(values)) if not np.isnan(values).all() else 0.0)
    # One scale on both sides of 0; only as much of the negative side as there is.
    shades = 256
    below = round(-lowest * shades)
    colors = np.concatenate(
        [colormaps["Oranges"](np.linspace(0, 1, shades + 1))[below:0:-1], colormaps["Blues"](np.linspace(0, 1, shades))]
    )
    axis.set_facecolor("0.93")
    image = axis.imshow(np.ma.masked_invalid(values), cmap=ListedColormap(colors), vmin=-below / shades, vmax=1.0)
    for row, column in np.argwhere(np.isnan(values)):
        corner = (column - 0.5, row - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor="0.55", hatch=_HATCH, linewidth=0.0))
    size = 72 * cell
    for record in result.best_match(measure):
        lead = _lead(record)
        if record["match"] is None or (lead is not None and lead < LEAST_LEAD):
            continue
        is_row = record["model"] == "model_a"
        of_a, of_b = (record["layer"], record["match"]) if is_row else (record["match"], record["layer"])
        row, column = result.layers_a.index(of_a), result.layers_b.index(of_b)
        color = "white" if values[row, column] > 0.55 else BLACK
        axis.plot(column, row, **_mark(is_row, min(size, 14), color))
    return image


def _lead(record: Mapping[str, Any]) -> Optional[float]:
    """By how much a best match exceeds the runner-up."""
    return None if record["runner_up"] is None else float(record["value"] - record["runner_up_value"])


def _write_leads(axis: Axes, result: LayerSimilarity, measure: str) -> None:
    """The lead of each best match, to the right of the rows and above the columns."""
    for model, beside, rotation in (
        ("model_a", axis.secondary_yaxis("right").yaxis, 0), ("model_b", axis.secondary_xaxis("top").xaxis, 90),
    ):  # fmt: skip
        leads = [_lead(each) for each in result.best_match(measure) if each["model"] == model]
        texts = ["" if each is None else f"+{each:.3f}".replace("+0.", "+.") for each in leads]
        beside.set_ticks(range(len(texts)), labels=texts, rotation=rotation)
        beside.set_tick_params(labelsize=TEXT_SIZE, labelcolor="0.35", length=0, pad=2.0)


def _mark(is_row: bool, size: float, color: str) -> dict[str, Any]:
    """A dot for layers of the first model, a circle for those of the second one."""
    fill = color if is_row else "none"
    return {
        "marker": "o", "linestyle": "none", "markersize": (0.28 if is_row else 0.62) * size, "markerfacecolor": fill,
        "markeredgecolor": color, "markeredgewidth": 0.0 if is_row else 0.8,
    }  # fmt: skip


def _legend(axis: Axes, result: LayerSimilarity, measures: Sequence[str], names: Sequence[str]) -> None:
    axis.set_axis_off()
    first, second = map(verbatim, names)
    handles: list[Any] = [
        Line2D([], [], label=f"best match of a layer of {first}", **_mark(True, 10, BLACK)),
        Line2D([], [], label=f"best match of a layer of {second}", **_mark(False, 10, BLACK)),
    ]
    leads = [lead for measure in measures for each in result.best_match(measure) if (lead := _lead(each)) is not None]
    if leads:
        handles.append(Line2D([], [], linestyle="none", label="+.123: lead over the runner-up"))
    if any(lead < LEAST_LEAD for lead in leads):
        least = f"{LEAST_LEAD:g}".lstrip("0")
        handles.append(Line2D([], [], linestyle="none", label=f"no mark: lead below {least}; another seed may differ"))
    values = [value for measure in measures for row in result.matrices[measure] for value in row]
    if any(value is not None and value < 0 for value in values):
        handles.append(Patch(facecolor=ORANGE, label="below 0"))
    if any(value is None for value in values):
        handles.append(Patch(facecolor="0.93", edgecolor="0.55", hatch=_HATCH, label="no value: constant features"))
    axis.legend(handles=handles, loc="upper center", fontsize=TEXT_SIZE, frameon=False, borderaxespad=0.0, labelspacing=0.3)
