"""Single panels of a figure: images, maps over images, color bars and shared scales.

Captum's ``visualize_image_attr`` selects the sign and draws each map over its image. Three things are changed here, so
that maps can be compared (Captum 0.9):

- Captum scales each map by its own threshold, so that all maps look equally strong. Here the color limits come from the
  map, its column or the whole figure.
- Captum raises an AssertionError for maps without values of the selected sign. Here a caption says so.
- Captum's ``blended_heat_map`` covers the image with one opacity and stretches its gray levels. Here the opacity fades
  with the map's values, and gray levels do not change.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt
from captum.attr import visualization
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from captum_kd.visualization._style import TEXT_SIZE

Array = npt.NDArray[Any]

SIGNS = {"positive": "inferno", "absolute_value": "inferno", "negative": "inferno", "all": "RdBu_r"}
"""Default color maps, readable with any color vision; inferno also in gray print."""
NOTHING = {"positive": "nothing positive", "negative": "nothing negative"}
"""Captions of maps that have values, but none of the selected sign."""
NO_OUTLIERS = 1e-9
"""Percent. At 0 Captum's threshold may round to more than the sum of all values, and raise an IndexError."""


def draw_picture(axis: Axes, picture: Array) -> None:
    visualization.visualize_image_attr(
        np.ones((*picture.shape[:2], 1)), picture, "original_image",
        plt_fig_axis=(axis.figure, axis), use_pyplot=False,
    )  # fmt: skip
    _remove_ticks(axis)


def draw_map(
    axis: Axes, picture: Array, values: Array, top: float, sign: str, method: str, alpha: float, cmap: str
) -> None:
    shown = of_sign(values, sign)
    if not np.any(shown):
        draw_picture(axis, picture.mean(axis=2, keepdims=True).repeat(3, axis=2))
        draw_caption(axis, NOTHING.get(sign, "all zero") if np.any(values) else "all zero")
        return
    largest = np.abs(shown).max()
    # Scaled to a largest value of 1, since Captum warns of values below 1e-5, which are common in maps.
    visualization.visualize_image_attr(
        (values / largest)[..., None], picture, method, sign, plt_fig_axis=(axis.figure, axis),
        outlier_perc=NO_OUTLIERS, cmap=cmap, alpha_overlay=alpha, use_pyplot=False,
    )  # fmt: skip
    heat = axis.images[-1]
    limit = top / largest
    heat.set_clim(-limit if sign == "all" else 0.0, limit)
    if method == "blended_heat_map":
        axis.images[0].set_clim(0.0, 255.0)
        heat.set_alpha(alpha * np.clip(np.abs(shown) / top, 0.0, 1.0) ** 0.5)
    _remove_ticks(axis)


def _remove_ticks(axis: Axes) -> None:
    # Captum makes the labels empty; empty labels still take room.
    axis.set_xticks([])
    axis.set_yticks([])


def draw_caption(axis: Axes, text: str) -> None:
    axis.text(
        0.5, 0.5, text.replace(" ", "\n"), transform=axis.transAxes, ha="center", va="center", fontsize=TEXT_SIZE,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6, "alpha": 0.9},
    )  # fmt: skip


def draw_outline(axis: Axes, mask: Array) -> None:
    if not mask.any():
        return
    # A frame of zeros closes the outline of a mask that touches the image's border.
    framed = np.pad(mask.astype(float), 1)
    rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    lines = axis.contour(columns, rows, framed, levels=[0.5], colors="white", linewidths=1.0)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="black")])
    axis.set_xlim(-0.5, mask.shape[1] - 0.5)
    axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def draw_bar(figure: Figure, axis: Axes, top: Optional[float], sign: str, cmap: str) -> None:
    """A color bar up to ``top``, or up to each map's own maximum."""
    low = -1.0 if sign == "all" else 0.0
    bar = figure.colorbar(ScalarMappable(Normalize(low, 1.0), cmap=cmap), cax=axis, orientation="horizontal")
    end = "own max." if top is None else _short(top)
    ends = {"all": (f"-{end}", end), "negative": ("0", f"-{end}")}.get(sign, ("0", end))
    ticks = {low: ends[0], 0.0: "0", 1.0: ends[1]}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.outline.set_linewidth(0.6)
    axis.tick_params(labelsize=TEXT_SIZE, length=2, pad=1.5)
    # Inside the bar's width, so that numbers of neighboring columns do not touch.
    labels = axis.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _short(value: float) -> str:
    """Two digits, short enough for both ends of a narrow color bar."""
    if 0.01 <= value < 10_000:
        return f"{value:.2g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def of_sign(values: Array, sign: str) -> Array:
    if sign == "positive":
        return np.maximum(values, 0.0)
    return np.minimum(values, 0.0) if sign == "negative" else values


def scale_tops(
    panels: Mapping[str, Array], groups: Optional[Sequence[Sequence[str]]], sign: str, outlier_perc: float
) -> dict[str, list[float]]:
    """The value that gets the last color, for each map; 1 for maps with nothing to show.

    Maps of the columns of a group share it. If ``groups`` is None, every map has its own.
    """

    def top(values: Array) -> float:
        ordered = np.sort(np.abs(of_sign(values, sign)), axis=None)
        sums = np.cumsum(ordered)
        # Captum's threshold for one map, here for all maps that share a scale.
        return float(ordered[np.argmax(sums >= sums[-1] * (1.0 - 0.01 * outlier_perc))]) or 1.0

    if groups is None:
        return {name: [top(one) for one in values] for name, values in panels.items()}
    tops = {}
    for group in groups:
        shown = [name for name in group if name in panels]
        of_group = top(np.concatenate([panels[name] for name in shown])) if shown else 1.0
        tops.update({name: [of_group] * len(panels[name]) for name in shown})
    return tops


def hatched(pictures: Array) -> Array:
    """Pale gray images under diagonal lines, which are visible on pale images too."""
    pale = 0.8 + 0.18 * pictures.mean(axis=3, keepdims=True)
    height, width = pictures.shape[1:3]
    period = max(4, round(max(height, width) / 24))
    across = np.add.outer(np.arange(height), np.arange(width)) % period < max(1, period // 5)
    result: Array = np.where(across[..., None], pale - 0.3, pale)
    return result
