"""Figures of randomization tests."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Optional

import numpy as np
from matplotlib.figure import Figure

from captum_kd._utils.validation import check_str
from captum_kd.visualization._style import (
    LABEL_SIZE,
    LINE_HEIGHT,
    PAGE_WIDTH,
    TEXT_SIZE,
    TITLE_SIZE,
    cycled_style,
    heading_room,
    legend_below,
    prepare_axis,
    text_width,
    verbatim,
    wrapped,
)

if TYPE_CHECKING:
    from captum_kd.metrics.randomization import RandomizationTest

# Inches from one module's name to the next one's.
_LEAST_STEP, _STEP = 0.13, 0.3


def plot_randomization(test: RandomizationTest, *, title: Optional[str] = None) -> Figure:
    """The figure of :meth:`captum_kd.metrics.RandomizationTest.plot`."""
    title = check_str(title, "title")
    names = ["trained", *test.modules]
    width = min(max(3.4, 0.6 + _STEP * len(names)), PAGE_WIDTH)
    shown = range(0, len(names), ceil(_LEAST_STEP * len(names) / (width - 0.6)))
    heading = None if title is None else wrapped(title, width, TITLE_SIZE)
    labels = [verbatim(names[place]) for place in shown]
    room = max(text_width(label, TEXT_SIZE) for label in labels)
    legend_height = 2 * 2 * 1.08 * LINE_HEIGHT
    figure = Figure(figsize=(width, 2.2 + room + legend_height + heading_room(heading)), layout="constrained")
    axis, below = figure.subplots(2, 1, height_ratios=[2.2, legend_height])
    at = np.arange(len(names))
    measures = (
        ("with sign", test.spearman, test.null),
        ("absolute values", test.absolute_spearman, test.absolute_null),
    )
    for i, (label, values, null) in enumerate(measures):
        style = cycled_style(i)
        each = np.concatenate([np.ones((1, test.n)), values.numpy()])
        axis.plot(at, each.mean(1), label=f"{label}: mean and quartiles of {test.n} inputs", zorder=3, **style.artist())
        low, high = np.quantile(each, (0.25, 0.75), axis=1)
        axis.fill_between(at, low, high, color=style.color, alpha=0.15, linewidth=0.0, zorder=1)
        if null is not None:
            line = {"color": style.color, "linestyle": ":", "linewidth": 1.0}
            axis.plot(at[1:], null.numpy(), label=f"{label}: maps of other inputs", zorder=2, **line)
    axis.axhline(0.0, color="0.5", linewidth=0.8, zorder=1)
    legend_below(below, axis.lines[:-1], 1)
    axis.set_xticks(list(shown), labels=labels, rotation=90)
    models = {"student": "Student", "base": "Base", "both": "Student and Base"}[test.randomized]
    axis.set_xlabel(f"{models} randomized up to this module", fontsize=LABEL_SIZE)
    axis.set_ylabel("similarity to the original maps", fontsize=LABEL_SIZE)
    prepare_axis(axis)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure
