"""What the examples' own figures have in common."""

from __future__ import annotations

from statistics import mean
from typing import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLORS", "NULL", "SMALL", "WIDTH", "Picture", "draw_values", "prepare_axis", "slug"]

Picture = tuple[str, str, Figure]
"""Name as a file, caption, figure."""

WIDTH = 7.0
"""Inches."""

SMALL = 8.0
"""Points."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, which stay apart with any color vision."""

NULL = "0.55"
"""The gray of what the others are compared with."""


def prepare_axis(axis: Axes) -> None:
    """Small ticks, horizontal grid lines behind the data, no box."""
    axis.tick_params(labelsize=SMALL - 1)
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw_values(axis: Axes, place: float, values: Sequence[float], color: str, width: float) -> None:
    """Values as points, spread over a width in their order so that equal ones stay apart, and a bar at their mean."""
    if not values:
        return
    step = 0.7 * width / max(1, len(values) - 1)
    places = [place - 0.35 * width + i * step for i in range(len(values))] if len(values) > 1 else [place]
    axis.plot(places, values, ".", color=color, markersize=2.5, alpha=0.6)
    middle = mean(values)
    axis.plot([place - 0.45 * width, place + 0.45 * width], [middle, middle], color=color, linewidth=1.8)


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())
