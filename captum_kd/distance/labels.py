"""The geometry of labels: distances between the embeddings of the inputs' classes."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._utils.arguments import check_not_negative
from captum_kd.distance.centering import CENTERINGS, Estimator, Geometry, center, centering_of, noise_level
from captum_kd.distance.pairwise import euclidean_distances
from captum_kd.distance.precision import widest

__all__ = ["LabelDistances", "check_label_geometry", "label_distances", "label_geometry", "label_norms"]

MIN_LABEL_SHARE = 1e-6
"""Labels whose centered norm is at most this fraction of the raw norm have no geometry."""

WAYS_OUT = (
    "Pass a labeled reference population (reference=), more inputs with at least two inputs in "
    "each of two classes, or target=None for the objective without labels."
)
"""Advice for calls that make maps, if labels have no geometry."""

WAYS_OUT_OF_POPULATION = (
    "Pass more inputs with at least two inputs in each of two classes, or target=None for a population that "
    "serves the objective without labels."
)
WAYS_OUT_OF_REFERENCE = (
    "Make the population of more inputs, with at least two in each of two classes, or pass target=None for the objective "
    "without labels."
)
WAYS_OUT_OF_SCORE = "Pass more inputs with at least two inputs in each of two classes."


def label_distances(labels: Tensor, others: Tensor, class_embeddings: Optional[Tensor] = None) -> Tensor:
    """Distances between the embeddings of two sets of labels; one-hot embeddings by default.

    Args:
        labels (Tensor): (n,) integers.
        others (Tensor): (m,) integers.
        class_embeddings (Tensor, optional): (num_classes, e).

    Returns:
        Tensor: (n, m), float64, on the labels' device.

    Raises:
        ValueError: a negative label, or one without a row in ``class_embeddings``.
    """
    for given in (labels, others):
        check_not_negative(given)
    if class_embeddings is None:
        return (labels[:, None] != others[None, :]).double() * 2**0.5
    classes = class_embeddings.shape[0]
    for given in (labels, others):
        outside = given >= classes
        if bool(outside.any()):
            raise ValueError(
                f"target holds the label {int(given[outside][0])}, but class_embeddings has rows for the "
                f"labels 0 to {classes - 1} only."
            )
    table = euclidean_distances(class_embeddings.double().cpu()).to(labels.device)
    return table[labels][:, others]


def label_geometry(
    labels: Tensor,
    class_embeddings: Optional[Tensor],
    dtype: torch.dtype,
    estimator: Estimator = "unbiased",
    ways_out: str = WAYS_OUT,
) -> Geometry:
    """Centered distances of the labels' embeddings, the G of the relevance score.

    Args:
        labels (Tensor): (n,) integers, n >= 4.
        class_embeddings (Tensor, optional): (num_classes, e); default: one-hot.
        dtype (torch.dtype): dtype of the result.
        estimator (str): "unbiased" or "biased" centering.
        ways_out (str): advice at the end of the error about labels without geometry.

    Raises:
        ValueError: labels outside the table, or labels without geometry: all are equal, all are distinct under equidistant
            embeddings, or one differs from the rest, which are equal.
    """
    target = center(label_distances(labels, labels, class_embeddings), estimator)
    _check_norms(float(torch.linalg.matrix_norm(target.matrix)), float(target.raw_norm), labels, class_embeddings, ways_out)
    return Geometry(target.matrix.to(dtype), target.raw_norm.to(dtype))


def check_label_geometry(
    labels: Tensor,
    class_embeddings: Optional[Tensor],
    estimator: Estimator = "unbiased",
    ways_out: str = WAYS_OUT,
) -> None:
    """Raises the errors of :func:`label_geometry` from the counts of the classes, without an (n, n) matrix."""
    seen, counts = torch.unique(labels, return_counts=True)
    apart = label_distances(seen, seen, class_embeddings)
    _check_norms(*label_norms(apart, counts.double(), estimator), labels, class_embeddings, ways_out)


def _check_norms(
    norm: float, raw_norm: float, labels: Tensor, class_embeddings: Optional[Tensor], ways_out: str
) -> None:
    if norm <= MIN_LABEL_SHARE * raw_norm:
        if class_embeddings is not None and len(labels.unique()) > 1:
            ways_out = f"Or class_embeddings has equal rows for these classes. {ways_out}"
        raise ValueError(
            f"target gives the {labels.numel()} inputs no geometry: all labels are equal, all are distinct, or "
            f"one differs from the rest, which are equal (labels: {_some(labels)}). {ways_out}"
        )


def label_norms(apart: Tensor, counts: Tensor, estimator: Estimator = "unbiased") -> tuple[float, float]:
    """Frobenius norms of the (n, n) distances between labels, centered and raw.

    Args:
        apart (Tensor): (c, c) distances between the classes, float64.
        counts (Tensor): (c,) number of inputs of each class, float64.
        estimator (str): "unbiased" or "biased" centering.
    """
    centering, n = centering_of(estimator), int(counts.sum())
    by_class = apart @ counts
    shift = centering.shift(by_class, counts @ by_class, n)
    square = counts @ (apart - shift[:, None] - shift).square() @ counts
    if centering.has_zero_diagonal:
        square = square - 4 * counts @ shift.square()
    return float(square.clamp(min=0).sqrt()), float((counts @ apart.square() @ counts).sqrt())


def _some(labels: Tensor) -> str:
    listed = ", ".join(str(label) for label in labels[:8].tolist())
    return listed + (", ..." if labels.numel() > 8 else "")


class LabelDistances:
    """Distances between the classes of inputs, tile by tile; see :class:`~captum_kd.distance.sources.DistanceSource`.

    Args:
        labels (Tensor): (n,) integers, on any device.
        class_embeddings (Tensor, optional): (num_classes, e); default: one-hot.
        device (torch.device): device of the distances.

    Raises:
        ValueError: a label without a row in ``class_embeddings``.
    """

    def __init__(self, labels: Tensor, class_embeddings: Optional[Tensor], device: torch.device) -> None:
        seen, place, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        self.n = labels.shape[0]
        self.device = device
        self.noise = noise_level(widest(device))
        self.rounding = 0.0
        self._place = place.to(device)
        self._counts = counts.to(device, widest(device))
        self._apart = label_distances(seen, seen, class_embeddings).to(device, widest(device))

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        return self._apart[self._place[rows]][:, self._place[columns]]

    def shift(self) -> tuple[Tensor, bool]:
        sums = self._apart @ self._counts  # the row sum of an input, by its class
        return CENTERINGS["unbiased"].shift(sums, self._counts @ sums, self.n)[self._place], True
