"""Figures of keep curves."""

from __future__ import annotations

from typing import Any, Mapping, Optional

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from captum_kd._utils.validation import check_float, check_str
from captum_kd.visualization._style import (
    LABEL_SIZE,
    LINE_HEIGHT,
    TEXT_SIZE,
    TITLE_SIZE,
    cycled_style,
    heading_room,
    legend_below,
    prepare_axis,
    wrapped,
)

__all__ = ["plot_keep_curve"]

Array = npt.NDArray[Any]

WIDTH = 3.4
"""Inches: one column of a page in two columns."""


def plot_keep_curve(
    curves: Mapping[str, Any], *, whole_accuracy: Optional[float] = None, chance: Optional[float] = None,
    title: Optional[str] = None,
) -> Figure:
    """Draws accuracy against the share of pixels or tokens that are kept, one line per curve.

    The legend gives the area under each curve, and its standard error if the curve has one. A band of one standard error around
    each accuracy shows how much it depends on the choice of inputs. Curves of one call share their inputs, so their differences
    are more certain than two overlapping bands suggest: test ``areas``, input by input.

    Args:
        curves (mapping of str to curve): name -> curve, as ``keep_curve`` returns for several maps by name, or any
            objects with ``shares`` (k,), ``accuracy`` (k,) and ``area``, and optionally ``area_standard_error`` and
            ``correct`` (k, N), as tensors or numbers. Shares may differ between curves. Long names are wrapped.
        whole_accuracy (float, optional): accuracy on whole inputs, drawn as a horizontal line.
        chance (float, optional): accuracy of a model that always predicts the most frequent class, drawn as a dotted line.
        title (str, optional): a heading over the figure.

    Returns:
        Figure: not registered with pyplot, 3.4 inches wide, a column of a page in two columns.

    Raises:
        TypeError: curves that are not a mapping, or a curve without one of its attributes.
        ValueError: no curves, shares and accuracies of different lengths, not finite or outside [0, 1], shares
            that do not increase, or an area or standard error that is not a finite, non-negative number.

    Examples::

        >>> curves = keep_curve(student, images, labels, transfer._asdict())
        >>> plot_keep_curve(curves, whole_accuracy=0.93).savefig("keep_curve.pdf")
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"curves must map names to keep curves, as in {{'distilled': curve}}, got {type(curves).__name__}.")
    if not curves:
        raise ValueError("curves is empty: there is nothing to plot; pass at least one curve.")
    for name, curve in curves.items():
        _check_curve(name, curve)
    if whole_accuracy is not None:
        whole_accuracy = check_float(whole_accuracy, "whole_accuracy", "between 0 and 1 or None", 0.0, 1.0, closed=True)
    if chance is not None:
        chance = check_float(chance, "chance", "between 0 and 1 or None", 0.0, 1.0, closed=True)
    title = check_str(title, "title")

    labels = [wrapped(_label(name, curve), WIDTH - 0.6, TEXT_SIZE) for name, curve in curves.items()]
    if whole_accuracy is not None:
        labels.append(f"whole inputs, accuracy {whole_accuracy:.3f}")
    if chance is not None:
        labels.append(f"most frequent class, accuracy {chance:.3f}")
    legend_height = 1.08 * LINE_HEIGHT * sum(label.count("\n") + 1 for label in labels) + 0.05
    heading = None if title is None else wrapped(title, WIDTH, TITLE_SIZE)
    figure = Figure(figsize=(WIDTH, 2.4 + legend_height + heading_room(heading)), layout="constrained")
    axis, below = figure.subplots(2, 1, height_ratios=[2.4, legend_height])
    for i, (curve, label) in enumerate(zip(curves.values(), labels)):
        style = cycled_style(i).artist()
        shares, accuracy = _as_array(curve.shares), _as_array(curve.accuracy)
        axis.plot(shares, accuracy, label=label, zorder=3, **style)
        if getattr(curve, "correct", None) is not None and (n := _as_array(curve.correct).shape[-1]) > 1:
            error = np.sqrt(accuracy * (1.0 - accuracy) / (n - 1))
            axis.fill_between(shares, accuracy - error, accuracy + error, color=style["color"], alpha=0.12, linewidth=0)
    levels = ((whole_accuracy, (0, (6, 2))), (chance, (0, (1, 2))))
    for label, (level, dash) in zip(labels[len(curves) :], [each for each in levels if each[0] is not None]):
        axis.axhline(level, color="0.35", linestyle=dash, linewidth=0.9, zorder=1, label=label)
    legend_below(below, axis.lines, 1)
    bottom, top = axis.get_ylim()
    # Room for markers at 0 and 1, but no tick labels beyond.
    axis.set_ylim(max(bottom, -0.03), min(top, 1.03))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_xlabel("share of each input kept", fontsize=LABEL_SIZE)
    axis.set_ylabel("accuracy", fontsize=LABEL_SIZE)
    prepare_axis(axis)
    if heading is not None:
        figure.suptitle(heading, fontsize=TITLE_SIZE)
    return figure


def _label(name: str, curve: Any) -> str:
    error = getattr(curve, "area_standard_error", None)
    shown = "" if error is None else f" \u00b1 {float(error):.3f}"
    return f"{name}, area {float(curve.area):.3f}{shown}"


def _check_curve(name: str, curve: Any) -> None:
    absent = [attribute for attribute in ("shares", "accuracy", "area") if not hasattr(curve, attribute)]
    if absent:
        raise TypeError(
            f"Curve {name!r} needs shares, accuracy and area, as keep_curve gives them; {type(curve).__name__} lacks {absent}."
        )
    shares, accuracy = _as_array(curve.shares), _as_array(curve.accuracy)
    if shares.ndim != 1 or shares.shape != accuracy.shape or shares.size == 0:
        raise ValueError(
            f"Curve {name!r} must have one accuracy for each share, got shapes {accuracy.shape} and {shares.shape}."
        )
    for label, values in (("shares", shares), ("accuracy", accuracy)):
        # NaN fails this condition too.
        if not bool(np.all((values >= 0.0) & (values <= 1.0))):
            raise ValueError(f"The {label} of curve {name!r} must be between 0 and 1, got {values.tolist()}.")
    if not bool(np.all(np.diff(shares) > 0.0)):
        raise ValueError(f"The shares of curve {name!r} must increase, got {shares.tolist()}.")
    for attribute in ("area", "area_standard_error"):
        value = getattr(curve, attribute, None)
        if value is None and attribute != "area":
            continue
        array = _as_array(value)
        if array.ndim > 0 or not np.isfinite(array) or array < 0.0:
            raise ValueError(
                f"The {attribute} of curve {name!r} must be one finite number that is not negative, got {array.tolist()}."
            )


def _as_array(values: Any) -> Array:
    array: Array = torch.as_tensor(values, device="cpu").detach().double().cpu().numpy()
    return array
