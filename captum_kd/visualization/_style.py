"""Style of all figures: sizes for print, colors for any color vision, plain axes."""

from __future__ import annotations

import textwrap
from math import ceil
from typing import Any, Literal, NamedTuple, Optional, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from captum_kd._utils.text import printable

PAGE_WIDTH = 7.0
"""Inches: the text width of a page in two columns, or in one with narrow margins."""

TEXT_SIZE, LABEL_SIZE, TITLE_SIZE = 7.0, 8.0, 9.0
"""Points: ticks and legends; axis labels and titles of panels; the heading of a figure."""

LINE_HEIGHT = 0.135
"""Inches per line of small text."""

# Okabe and Ito's palette without its yellow, which is too pale for lines on white. The first four are easiest to
# distinguish without red and green, and in gray print.
BLUE, ORANGE, BLACK, SKY, GREEN, PURPLE, AMBER = (
    "#0072B2", "#D55E00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#E69F00",
)  # fmt: skip
BROWN = "#7A4B23"
_COLORS = (BLUE, ORANGE, BLACK, SKY, GREEN, PURPLE, AMBER, BROWN)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Dash = Literal["-", "--", "-.", ":"]
_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


class LineStyle(NamedTuple):
    """Color, marker and dash of a series. Each alone distinguishes it from the others."""

    color: str
    marker: str
    dash: Dash

    def artist(self) -> dict[str, Any]:
        """Keyword arguments for a line and its entry in the legend."""
        # Triangles fill half of their box, and would look smaller than other markers.
        size = 5.2 if self.marker in "^v*" else 4.0
        return {
            "color": self.color, "marker": self.marker, "linestyle": self.dash, "markersize": size,
            "markeredgewidth": 0.0, "linewidth": 1.4,
        }  # fmt: skip


def cycled_style(i: int) -> LineStyle:
    """The style of the i-th series of a figure. The first 8 differ in color and in marker, the first 64 in one of them."""
    turn = i // len(_COLORS)
    return LineStyle(_COLORS[i % len(_COLORS)], _MARKERS[(i + turn) % len(_MARKERS)], _DASHES[(i + turn) % len(_DASHES)])


def text_width(text: str, size: float) -> float:
    """Inches that the longest line of a text takes, an upper estimate for running text in sans serif."""
    return max(map(len, text.split("\n"))) * 0.58 * size / 72


def verbatim(text: object) -> str:
    """The text as it is shown, without formulas and control characters."""
    return printable(str(text)).replace("$", r"\$")


def wrapped(text: object, width: float, size: float) -> str:
    """The :func:`verbatim` text in lines of at most ``width`` inches; its own line breaks stay."""
    letters = max(4, int(width * 72 / (0.58 * size)))
    lines = [textwrap.fill(line, letters, break_on_hyphens=False) for line in printable(str(text)).split("\n")]
    return verbatim("\n".join(lines))  # last, so that no line break separates a dollar sign from its backslash


def prepare_axis(axis: Axes) -> None:
    """Small ticks, horizontal grid lines behind the data, no box."""
    axis.tick_params(labelsize=TEXT_SIZE, length=2.5)
    # The automatic locator depends on the axis' height, so that labels could get longer after the layout made room.
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """The largest number of evenly filled columns in which a legend is at most ``width`` inches wide."""
    for columns in range(len(labels), 1, -1):
        rows = ceil(len(labels) / columns)
        # Legends are filled column by column.
        widest = [max(text_width(label, TEXT_SIZE) for label in labels[i : i + rows]) for i in range(0, len(labels), rows)]
        if len(widest) == columns and sum(widest) + 0.6 * columns <= width:
            return columns
    return 1


def legend_below(axis: Axes, handles: Sequence[Line2D], columns: int) -> None:
    """Fills an otherwise empty axis with a legend; inside a panel it might cover data."""
    axis.set_axis_off()
    axis.legend(
        handles=list(handles), loc="upper center", ncols=columns, fontsize=TEXT_SIZE, frameon=False,
        borderaxespad=0.0, borderpad=0.0, handlelength=3.2, columnspacing=1.4, labelspacing=0.3,
    )  # fmt: skip


def heading_room(heading: Optional[str]) -> float:
    """Inches that a wrapped heading takes above a figure."""
    return 0.0 if heading is None else 0.15 * (2 + heading.count("\n"))
