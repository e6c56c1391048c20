"""Square panels without numbers on their axes, for points whose distances matter and whose axes do not."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple, Optional, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd.visualization._style import (
    LABEL_SIZE,
    LINE_HEIGHT,
    TEXT_SIZE,
    TITLE_SIZE,
    heading_room,
    legend_below,
    legend_columns,
    wrapped,
)

_GAP = 0.15
"""Inches between panels."""
_SIDES = (3.7, 2.4, 2.1, 1.56)
"""Inches, by the number of columns."""
RULER_HEIGHT = 0.22


class SquarePanels(NamedTuple):
    """A figure with its panels, their side in inches, and empty axes in units of inches for a ruler below them."""

    figure: Figure
    axes: list[Axes]
    side: float
    ruler: Optional[Axes]


def square_panels(
    heads: Sequence[str], feet: Sequence[str], note: str, entries: Sequence[Line2D], title: Optional[str], *, has_ruler: bool
) -> SquarePanels:
    """Empty panels with a head above and a foot below each, and below all of them a note and the legend."""
    columns = min(len(heads), len(_SIDES))
    side = _SIDES[columns - 1]
    width = _GAP + columns * (side + _GAP)
    heads, feet = ([wrapped(text, side, size) for text in texts] for texts, size in ((heads, LABEL_SIZE), (feet, TEXT_SIZE)))
    head_room, foot_room = (0.05 + LINE_HEIGHT * (1 + max(text.count("\n") for text in texts)) for texts in (heads, feet))
    note = wrapped(note, width, TEXT_SIZE)
    note_height, ruler_height = 0.05 + LINE_HEIGHT * (1 + note.count("\n")), RULER_HEIGHT * has_ruler
    in_legend = legend_columns([str(each.get_label()) for each in entries], width) if entries else 1
    legend_height = 0.05 + 1.1 * LINE_HEIGHT * ceil(len(entries) / in_legend)
    heading = None if title is None else wrapped(title, width, TITLE_SIZE)
    step, below = side + head_room + foot_room, note_height + ruler_height + legend_height
    height = heading_room(heading) + ceil(len(heads) / columns) * step + below
    figure = Figure(figsize=(width, height))

    def axes(left: float, top: float, wide: float, high: float) -> Axes:
        """Axes at a place in inches from the figure's top left corner."""
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    panels = []
    for number, (head, foot) in enumerate(zip(heads, feet)):
        row, column = divmod(number, columns)
        axis = axes(_GAP + column * (side + _GAP), heading_room(heading) + row * step + head_room, side, side)
        axis.set(xticks=[], yticks=[])
        axis.set_title(head, fontsize=LABEL_SIZE, pad=3.0)
        axis.set_xlabel(foot, fontsize=TEXT_SIZE, labelpad=3.0)
        for spine in axis.spines.values():
            spine.set(color="0.7", linewidth=0.6)
        panels.append(axis)
    figure.text(0.5, (below - 0.05) / height, note, fontsize=TEXT_SIZE, ha="center", va="top")
    ruler = axes(0.0, height - legend_height - ruler_height, width, ruler_height) if has_ruler else None
    if ruler is not None:
        ruler.set(xlim=(0, width), ylim=(0, 1))
        ruler.set_axis_off()
    if entries:
        legend_below(axes(0.0, height - legend_height, width, legend_height), entries, in_legend)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE, y=1 - 0.08 / height, va="top")
    return SquarePanels(figure, panels, side, ruler)
