"""Figures of the same inputs in several models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd._utils.validation import check_bool, check_str, short_repr
from captum_kd.visualization._squares import square_panels
from captum_kd.visualization._style import AMBER, BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, verbatim

if TYPE_CHECKING:
    from captum_kd.metrics import InputEmbeddings

__all__ = ["plot_embeddings"]

_NOTES = {
    "mds": "Share of the variance that two dimensions show: where it is low, inputs that look close may be far apart.",
    "tsne": "t-SNE shows neighbors. Distances between clusters and sizes of clusters mean nothing.",
}
_COLORS = (BLUE, ORANGE, GREEN, AMBER, PURPLE, SKY, BLACK, "#8C8C8C", "#7F3B08", "#A8A800")
_MARKERS = "os^DvPX*"
_SCALES = {True: "All panels have one scale.", False: "Each panel has its own scale."}


def plot_embeddings(
    embeddings: InputEmbeddings,
    *,
    class_names: Optional[Sequence[str]] = None,
    same_scale: bool = False,
    title: Optional[str] = None,
) -> Figure:
    """Draws the same inputs as points, in one panel for each model, with a color and a marker for each class.

    Directions mean nothing: each panel is rotated or reflected to be closest to the first.

    Args:
        embeddings (InputEmbeddings): the result of :func:`captum_kd.metrics.input_embeddings`.
        class_names (sequence of str, optional): the name of each class, in the order of the labels 0, 1, ....
            Default: None, the labels themselves
        same_scale (bool, optional): One scale for all panels. Features of different models often differ in size, so that the
            smaller ones are then hard to see.
            Default: False, each panel has its own scale
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot, at most 7 inches wide. Up to 40 classes have their own color and marker.

    Raises:
        TypeError: not embeddings, names that are not strings.
        ValueError: fewer names than classes; names without labels.

    Examples::

        >>> found = input_embeddings({"Teacher": teacher, "Student": student}, "layer4", loader)
        >>> plot_embeddings(found, class_names=dataset.classes).savefig("embeddings.png")
    """
    from captum_kd.metrics import InputEmbeddings

    if not isinstance(embeddings, InputEmbeddings):
        raise TypeError(f"embeddings must be the result of input_embeddings(), got {short_repr(embeddings)}.")
    same_scale, title = check_bool(same_scale, "same_scale"), check_str(title, "title")
    labels = np.zeros(embeddings.n, dtype=int) if embeddings.labels is None else embeddings.labels.numpy()
    styles = {int(label): _artist(number) for number, label in enumerate(np.unique(labels))}
    names = _names(list(styles), class_names, embeddings.labels is not None)
    entries = [Line2D([], [], label=verbatim(name), **styles[label]) for label, name in names.items()]
    feet = [_foot(embeddings, name) for name in embeddings.coordinates]
    note = f"{_NOTES[embeddings.method]}\n{_SCALES[same_scale]}" if len(feet) > 1 else _NOTES[embeddings.method]
    drawn = square_panels(list(embeddings.coordinates), feet, note, entries, title, has_ruler=False)
    panels = [points.numpy() for points in embeddings.coordinates.values()]
    reaches = [1.06 * float(np.ptp(points, axis=0).max()) / 2 or 1.0 for points in panels]
    for axis, points, reach in zip(drawn.axes, panels, reaches):
        middle, reach = (points.max(0) + points.min(0)) / 2, max(reaches) if same_scale else reach
        axis.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
        for label, style in styles.items() if points.any() else ():
            axis.plot(*points[labels == label].T, **style)
    return drawn.figure


def _names(labels: list[int], class_names: Any, has_labels: bool) -> dict[int, str]:
    """The legend's text of each class; none without labels."""
    if class_names is None:
        return {label: str(label) for label in labels} if has_labels else {}
    if not has_labels:
        raise ValueError("class_names belong to labels, but the inputs have none; leave out class_names.")
    if not isinstance(class_names, (list, tuple)) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names must be a list of names (str), one for each class, got {short_repr(class_names)}.")
    if min(labels) < 0 or max(labels) >= len(class_names):
        raise ValueError(
            f"class_names must have a name for each label from 0 on, but it has {len(class_names)} names and the labels go from "
            f"{min(labels)} to {max(labels)}."
        )
    return {label: class_names[label] for label in labels}


def _foot(embeddings: InputEmbeddings, name: str) -> str:
    share = embeddings.shares[name]
    if share is not None:
        return f"{share:.0%} of the variance"
    return "" if embeddings.coordinates[name].any() else "constant features"


def _artist(number: int) -> dict[str, Any]:
    marker = _MARKERS[number % len(_MARKERS)]
    return {
        "color": _COLORS[number % len(_COLORS)], "marker": marker, "linestyle": "none", "markeredgewidth": 0.0, "alpha": 0.75,
        "markersize": 4.2 if marker in "^v*" else 3.2,
    }  # fmt: skip
