"""Figures from maps and scores.

Captum's ``visualize_image_attr`` gives every map a scale of its own, taken from that map, and refuses
maps that are all zero. Rows of maps that are to be compared need one scale and a place for empty maps, so
the panels here are drawn directly; ``sign`` and the ``heat_map`` and ``blended_heat_map`` methods mean what
they mean to Captum.

Figures are plain ``matplotlib.figure.Figure`` objects: nothing is registered with pyplot, nothing is shown,
no display is needed. Save one with ``figure.savefig(path)``; notebooks display the returned object.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

__all__ = ["plot_layer_scores", "visualize_transfer"]

Array = npt.NDArray[Any]

INPUT = "input"
"""The column name that stands for the images themselves."""

SIGNS = {"positive": "inferno", "all": "RdBu_r"}
"""Default colour maps, both readable with any colour vision; inferno also in grey print."""
METHODS = ("heat_map", "blended_heat_map")
SCALES = ("map", "column", "shared")

# Okabe and Ito's palette, whose colours stay apart with any colour vision; markers and dashes repeat the
# distinction for grey print.
_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
SCORE_STYLES: dict[str, dict[str, tuple[str, str, str, str]]] = {
    "Feature similarity (FSS)": {
        "fss": ("Student and Base", _BLUE, "o", "-"),
        "fss_student_teacher": ("Student and Teacher", _GREEN, "^", "--"),
        "fss_base_teacher": ("Base and Teacher", _ORANGE, "s", ":"),
    },
    "Relevance (RS)": {
        "rs_student": ("Student", _BLUE, "o", "-"),
        "rs_base": ("Base", _ORANGE, "s", "-"),
        "rs_distilled": ("distilled (Student given Base)", _GREEN, "^", "--"),
        "rs_residual": ("residual (Base given Student)", _PURPLE, "v", ":"),
        "rs_teacher": ("Teacher", _SKY, "D", "-."),
    },
    "Teacher's share": {
        "teacher_distilled": ("distilled", _GREEN, "^", "-"),
        "teacher_residual": ("residual", _PURPLE, "v", "-"),
        "teacher_only_distilled": ("distilled, beyond the labels", _GREEN, "^", "--"),
        "teacher_only_residual": ("residual, beyond the labels", _PURPLE, "v", ":"),
    },
}


# ----------------------------------------------------------------------------- maps


def visualize_transfer(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    columns: Optional[Sequence[str]] = None,
    masks: Optional[Tensor] = None,
    row_labels: Optional[Sequence[str]] = None,
    scale: str = "column",
    sign: str = "positive",
    method: str = "blended_heat_map",
    alpha_overlay: float = 0.75,
    outlier_perc: float = 1.0,
    cmap: Optional[str] = None,
    panel_size: float = 1.5,
    title: Optional[str] = None,
) -> Figure:
    """Draws one row an image: the image, and one map of it in each further column.

    Maps come as attribution methods return them, at the layer's resolution, and are enlarged bilinearly by
    ``LayerAttribution.interpolate``. A map without anything to show is drawn as the bare image with the caption
    "all zero" (or "nothing positive").

    Args:
        images (Tensor): (N, C, H, W) with C = 1 or 3 and values between 0 and 1, as ``imshow`` wants them. Undo
            the network's normalisation first.
        maps (mapping of str to Tensor): column title -> maps (N, 1, h, w), one an image, of any resolution. A
            title may hold a line break.
        columns (sequence of str, optional): which columns to draw, from left to right: titles out of ``maps``
            and "input" for the images. Default: "input", then ``maps`` in its own order.
        masks (Tensor, optional): (N, H, W) or (N, 1, H, W), true or positive where the evidence is known to be.
            Its outline is drawn into every panel.
        row_labels (sequence of str, optional): N texts to the left of the rows.
        scale (str): what the colours of a panel are relative to: "column" (one scale for all maps of a column,
            so that rows compare), "shared" (one scale for the whole figure, for maps in the same unit) or
            "map" (each map by itself: where, not how much). Default: "column"
        sign (str): "positive" or "all", as in Captum. Default: "positive"
        method (str): "blended_heat_map" (over the image in grey) or "heat_map". Default: "blended_heat_map"
        alpha_overlay (float): opacity of the blended map at full colour; it fades with the value, so the image
            shows where the map is empty. Default: 0.75
        outlier_perc (float): this share of the pixels, in percent, may exceed the scale and is drawn in its
            last colour. Default: 1.0
        cmap (str, optional): colour map instead of the default for ``sign``.
        panel_size (float): side of a panel in inches.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot.

    Raises:
        TypeError: images or maps that are not tensors.
        ValueError: shapes that do not belong together, values that are not finite or outside [0, 1], or options
            that do not exist.

    Examples::

        >>> # Maps of 8 images of 3 x 224 x 224 from a layer of 7 x 7: (8, 1, 7, 7) each.
        >>> distilled, residual = UniCAM(student, "layer4", base).attribute_transfer(images, target=labels)
        >>> figure = visualize_transfer(images, {"distilled": distilled, "residual": residual})
        >>> figure.savefig("transfer.png", dpi=150)
    """
    _check_option("scale", scale, SCALES)
    _check_option("sign", sign, tuple(SIGNS))
    _check_option("method", method, METHODS)
    pictures = _checked_images(images)
    n, height, width = pictures.shape[:3]
    outlines = None if masks is None else _checked_masks(masks, n, height, width)
    names = _checked_columns(columns, maps)
    if row_labels is not None and len(row_labels) != n:
        raise ValueError(f"row_labels must hold one text for each of the {n} images, got {len(row_labels)}.")
    panels = {name: _checked_map(name, maps[name], n, height, width) for name in names if name != INPUT}

    tops = _tops(panels, scale, sign, outlier_perc)
    colours = cmap or SIGNS[sign]
    low = 0.0 if sign == "positive" else -1.0
    # Room for the row labels, the column titles and the colour bars beside the panels themselves.
    lines = [line for label in row_labels or () for line in label.split("\n")]
    room_left = 0.085 * max(map(len, lines), default=0)
    room_above = 0.15 + 0.15 * max(name.count("\n") + 1 for name in names) + (0.3 if title else 0.0)
    figure = Figure(
        figsize=(panel_size * len(names) * 1.05 + room_left, panel_size * n * 1.05 + room_above + 0.25),
        layout="constrained",
    )
    # The bars have a row of their own: taken out of the panels they would shrink some columns and not others.
    axes = figure.subplots(n + 1, len(names), squeeze=False, height_ratios=[1.0] * n + [0.06])
    for column, name in enumerate(names):
        for row, axis in enumerate(axes[:n, column]):
            axis.set_xticks([])
            axis.set_yticks([])
            if name == INPUT:
                axis.imshow(pictures[row], vmin=0.0, vmax=1.0, cmap="gray")
            else:
                top = tops[name][row]
                _draw_map(axis, pictures[row], panels[name][row], top, sign, method, alpha_overlay, colours)
            if outlines is not None:
                _draw_outline(axis, outlines[row])
            if column == 0 and row_labels is not None:
                axis.set_ylabel(row_labels[row], rotation=0, ha="right", va="center", fontsize=8)
        axes[0, column].set_title(name, fontsize=9)
        if name == INPUT:
            axes[n, column].set_axis_off()
        else:
            top_label = "own max." if scale == "map" else f"{tops[name].max():.2g}"
            _draw_bar(figure, axes[n, column], ScalarMappable(Normalize(low, 1.0), cmap=colours), top_label, sign)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_map(
    axis: Axes, picture: Array, values: Array, top: float, sign: str, method: str, alpha: float, cmap: str
) -> None:
    shown = np.maximum(values, 0.0) if sign == "positive" else values
    empty = not np.any(shown)
    if method == "blended_heat_map" or empty:
        grey = picture if picture.ndim == 2 else picture.mean(axis=2)
        axis.imshow(grey, cmap="gray", vmin=0.0, vmax=1.0)
    if empty:
        caption = "nothing positive" if np.any(values) else "all zero"
        axis.text(
            0.5, 0.5, caption, transform=axis.transAxes, ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "black", "alpha": 0.85},
        )  # fmt: skip
        return
    share = np.clip(shown / top, -1.0, 1.0)
    opacity = alpha * np.abs(share) ** 0.5 if method == "blended_heat_map" else None
    axis.imshow(share, cmap=cmap, vmin=0.0 if sign == "positive" else -1.0, vmax=1.0, alpha=opacity)


def _draw_outline(axis: Axes, mask: Array) -> None:
    if not mask.any():
        return
    # A frame of zeros closes the outline of a mask that touches the image's border.
    framed = np.pad(mask.astype(float), 1)
    rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    lines = axis.contour(columns, rows, framed, levels=[0.5], colors="white", linewidths=1.0)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="black")])
    axis.set_xlim(-0.5, mask.shape[1] - 0.5)
    axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def _draw_bar(figure: Figure, axis: Axes, colours: ScalarMappable, top: str, sign: str) -> None:
    bar = figure.colorbar(colours, cax=axis, orientation="horizontal")
    ticks = {0.0: "0", 1.0: top} if sign == "positive" else {-1.0: f"-{top}", 0.0: "0", 1.0: top}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(labelsize=7, length=2)


def _tops(panels: Mapping[str, Array], scale: str, sign: str, outlier_perc: float) -> dict[str, Array]:
    """For each map the value that gets the last colour; 1 where there is nothing to show."""
    if not 0.0 <= outlier_perc < 100.0:
        raise ValueError(f"outlier_perc is a percentage below 100, got {outlier_perc}.")

    def top(values: Array) -> float:
        shown = np.maximum(values, 0.0) if sign == "positive" else np.abs(values)
        # Most maps are sparse: a percentile of zeros would leave nothing to scale by.
        return float(np.percentile(shown, 100.0 - outlier_perc)) or float(shown.max()) or 1.0

    if scale == "map":
        return {name: np.array([top(one) for one in values]) for name, values in panels.items()}
    if scale == "column":
        return {name: np.full(len(values), top(values)) for name, values in panels.items()}
    everything = top(np.concatenate(list(panels.values()))) if panels else 1.0
    return {name: np.full(len(values), everything) for name, values in panels.items()}


def _check_option(name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}.")


def _checked_columns(columns: Optional[Sequence[str]], maps: Mapping[str, Tensor]) -> list[str]:
    names = [INPUT, *maps] if columns is None else list(columns)
    unknown = [name for name in names if name != INPUT and name not in maps]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"columns must name some of {[INPUT, *maps]}, each once; got {names}"
            + (f", of which {unknown} have no maps." if unknown else ".")
        )
    return names


def _checked_images(images: Tensor) -> Array:
    """(N, H, W, 3) or (N, H, W), as ``imshow`` wants them."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}.")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or images.shape[0] == 0:
        raise ValueError(f"images must have shape (N, 1 or 3, H, W) with N >= 1, got {tuple(images.shape)}.")
    values = images.detach().float().cpu()
    if not bool(torch.isfinite(values).all()) or float(values.min()) < -1e-3 or float(values.max()) > 1.001:
        raise ValueError(
            f"images must be finite and between 0 and 1, got values from {float(values.min()):.3g} to "
            f"{float(values.max()):.3g}. Undo the normalisation, or divide by 255."
        )
    array: Array = values.clamp(0.0, 1.0).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _checked_masks(masks: Tensor, n: int, height: int, width: int) -> Array:
    flat = masks[:, 0] if masks.dim() == 4 and masks.shape[1] == 1 else masks
    if tuple(flat.shape) != (n, height, width):
        raise ValueError(
            f"masks must have shape ({n}, {height}, {width}) or ({n}, 1, {height}, {width}) like the images, "
            f"got {tuple(masks.shape)}."
        )
    array: Array = (flat > 0).cpu().numpy()
    return array


def _checked_map(name: str, values: Tensor, n: int, height: int, width: int) -> Array:
    if not isinstance(values, Tensor):
        raise TypeError(f"The maps of column {name!r} must be a tensor (N, 1, h, w), got {type(values).__name__}.")
    if values.dim() != 4 or values.shape[0] != n or values.shape[1] != 1:
        raise ValueError(
            f"The maps of column {name!r} must have shape ({n}, 1, h, w), one map for each image, got "
            f"{tuple(values.shape)}. Sum or select channels first."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"The maps of column {name!r} are not finite.")
    large = LayerAttribution.interpolate(values.detach().float().cpu(), (height, width), "bilinear")
    array: Array = large[:, 0].numpy()
    return array


# ----------------------------------------------------------------------------- scores


def plot_layer_scores(rows: Sequence[Mapping[str, Any]], *, title: Optional[str] = None) -> Figure:
    """Draws FSS and RS over the layers, with intervals where there are any.

    One panel for each kind of score (similarity, relevance, the Teacher's share); several pairs of Student and
    Base stand side by side on common scales.

    Args:
        rows (sequence of mappings): tidy records with ``student``, ``base``, ``layer``, ``score`` and ``value``,
            and optionally ``low`` and ``high`` (numbers or None), as in ``compare_transfer(...).to_dict()["rows"]``.
            Layers are drawn in the order in which they first appear. A value of None leaves a gap.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot.

    Raises:
        ValueError: no rows, a record without one of its keys, a score that does not exist, or two records for
            the same student, base, layer and score.

    Examples::

        >>> rows = [{"student": "student", "base": "base", "layer": "layer4", "score": "fss", "value": 0.9}]
        >>> plot_layer_scores(rows).savefig("layers.png", dpi=150)
    """
    table = _checked_rows(rows)
    pairs = list(dict.fromkeys((student, base) for student, base, _, _ in table))
    layers = list(dict.fromkeys(layer for _, _, layer, _ in table))
    present = {score for _, _, _, score in table}
    kinds = [kind for kind, styles in SCORE_STYLES.items() if present & set(styles)]

    # One pair reads best as a strip; several compare best in columns, one row a kind of score.
    shape = (1, len(kinds)) if len(pairs) == 1 else (len(kinds), len(pairs))
    figure = Figure(figsize=(4.0 * shape[1] + 0.4, 3.3 * shape[0] + (0.3 if title else 0.0)), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False, sharey="row" if len(pairs) > 1 else False)
    for i, kind in enumerate(kinds):
        for j, pair in enumerate(pairs):
            axis = axes[0, i] if len(pairs) == 1 else axes[i, j]
            _draw_scores(axis, table, pair, layers, kind)
            if j == 0:
                axis.set_ylabel(kind, fontsize=9)
            if len(pairs) > 1 and i == 0:
                axis.set_title(f"{pair[0]} and {pair[1]}", fontsize=9)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_scores(
    axis: Axes,
    table: Mapping[tuple[str, str, str, str], tuple[float, float, float]],
    pair: tuple[str, str],
    layers: Sequence[str],
    kind: str,
) -> None:
    drawn = [score for score in SCORE_STYLES[kind] if any((*pair, layer, score) in table for layer in layers)]
    missing = (np.nan, np.nan, np.nan)
    for i, score in enumerate(drawn):
        label, colour, marker, dash = SCORE_STYLES[kind][score]
        values, lows, highs = np.array([table.get((*pair, layer, score), missing) for layer in layers]).T
        # Side by side at a layer, so that intervals do not hide each other.
        places = np.arange(len(layers)) + 0.06 * (i - (len(drawn) - 1) / 2)
        axis.plot(places, values, dash, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=label)
        axis.vlines(places, lows, highs, color=colour, linewidth=1.2)
    axis.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    axis.set_xticks(range(len(layers)), layers, fontsize=8, rotation=0 if len(layers) <= 6 else 45)
    axis.set_xlim(-0.4, len(layers) - 0.6)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if drawn:
        axis.legend(fontsize=7, frameon=False)


def _checked_rows(
    rows: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str, str, str], tuple[float, float, float]]:
    """(student, base, layer, score) -> (value, low, high), NaN where there is none."""
    if len(rows) == 0:
        raise ValueError("rows is empty: there is nothing to plot.")
    known = [score for styles in SCORE_STYLES.values() for score in styles]
    table: dict[tuple[str, str, str, str], tuple[float, float, float]] = {}
    for row in rows:
        absent = [key for key in ("student", "base", "layer", "score", "value") if key not in row]
        if absent:
            raise ValueError(f"Every row needs student, base, layer, score and value; {dict(row)} lacks {absent}.")
        key = (str(row["student"]), str(row["base"]), str(row["layer"]), str(row["score"]))
        if key[3] not in known:
            raise ValueError(f"Unknown score {key[3]!r}; the scores are {', '.join(known)}.")
        if key in table:
            raise ValueError(f"Two rows for student {key[0]!r}, base {key[1]!r}, layer {key[2]!r}, score {key[3]!r}.")
        value, low, high = (row[name] if row.get(name) is not None else np.nan for name in ("value", "low", "high"))
        table[key] = (float(value), float(low), float(high))
    return table
