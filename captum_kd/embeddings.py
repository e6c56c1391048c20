"""Classes as points: where embeddings of classes come from, and the geometry that labels give a population.

Without embeddings classes are one-hot, all equally far apart. :func:`classifier_embeddings` and
:func:`class_prototypes` place them by what a model has learned; any (num_classes, e) tensor will do
(a text model's vectors of the class names, for example; this package loads none). With two classes the choice
cannot matter: two points have one distance, and scores and maps do not depend on its size.
"""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor

from captum_kd._class_tables import class_prototypes, classifier_embeddings
from captum_kd._values import check_dense
from captum_kd.distance import Estimator, Geometry, center, euclidean_distances

__all__ = [
    "check_class_embeddings",
    "check_label_geometry",
    "class_prototypes",
    "classifier_embeddings",
    "label_distances",
    "label_geometry",
    "label_norms",
]

MIN_LABEL_SHARE = 1e-6
"""Labels whose centred norm is at most this share of the raw norm have no geometry."""

WAYS_OUT = (
    "Pass a labelled reference population (reference=), more inputs with at least two inputs in "
    "each of two classes, or target=None for the objective without labels."
)
"""What a call that makes maps can do about labels without geometry."""

WAYS_OUT_OF_POPULATION = (
    "Pass more inputs with at least two inputs in each of two classes, or target=None for a population that "
    "serves the objective without labels."
)
WAYS_OUT_OF_SCORE = "Pass more inputs with at least two inputs in each of two classes."


def check_class_embeddings(class_embeddings: Optional[Tensor]) -> Optional[Tensor]:
    """A detached float64 copy of (num_classes, e) embeddings on the CPU, or None for one-hot.

    Scaled by a power of two to entries of about 1 at most: only the shape of the classes' geometry
    matters, and tables of any size then keep their digits in float32.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: not two-dimensional, fewer than two rows, or non-finite.
    """
    if class_embeddings is None:
        return None
    if not isinstance(class_embeddings, Tensor) or not class_embeddings.is_floating_point():
        raise TypeError(
            "class_embeddings must be a floating point tensor of shape (num_classes, e) or None for "
            f"one-hot, got {_kind(class_embeddings)}."
        )
    check_dense(class_embeddings, "class_embeddings")
    if class_embeddings.dim() != 2 or class_embeddings.shape[0] < 2 or class_embeddings.shape[1] == 0:
        raise ValueError(
            "class_embeddings must have shape (num_classes, e), one row for each of at least two classes, "
            f"got {tuple(class_embeddings.shape)}."
        )
    if not bool(torch.isfinite(class_embeddings).all()):
        raise ValueError("class_embeddings has non-finite values (NaN or infinity); all must be finite.")
    table = class_embeddings.detach().to("cpu", torch.float64, copy=True)
    largest = float(table.abs().max())
    return table / (math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0)


def label_distances(labels: Tensor, others: Tensor, class_embeddings: Optional[Tensor] = None) -> Tensor:
    """Distances between the embeddings of two sets of labels, one-hot without a table.

    Args:
        labels (Tensor): (n,) integers.
        others (Tensor): (m,) integers.
        class_embeddings (Tensor, optional): (num_classes, e).

    Returns:
        Tensor: (n, m), float64, on the labels' device.

    Raises:
        ValueError: a label that has no row in ``class_embeddings``.
    """
    if class_embeddings is None:
        return (labels[:, None] != others[None, :]).double() * 2**0.5
    classes = class_embeddings.shape[0]
    for given in (labels, others):
        outside = (given < 0) | (given >= classes)
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
    """Centred distances of the labels' embeddings: the G of the relevance score.

    Args:
        labels (Tensor): (n,) integers, n >= 4.
        class_embeddings (Tensor, optional): (num_classes, e); one-hot without.
        dtype (torch.dtype): of the result.
        estimator (str): "unbiased" or "biased" centring.
        ways_out (str): what the caller's user can do about labels without geometry, for the error.

    Raises:
        ValueError: labels outside the table, or labels without geometry: one label only, all
            distinct under equidistant embeddings, or one against the rest.
    """
    check_label_geometry(labels, class_embeddings, estimator, ways_out)
    target = center(label_distances(labels, labels, class_embeddings), estimator)
    return Geometry(target.matrix.to(dtype), target.raw_norm.to(dtype))


def check_label_geometry(
    labels: Tensor,
    class_embeddings: Optional[Tensor],
    estimator: Estimator = "unbiased",
    ways_out: str = WAYS_OUT,
) -> None:
    """Raises what :func:`label_geometry` raises, from the classes alone, whatever the number of inputs."""
    seen, counts = torch.unique(labels, return_counts=True)
    norm, raw_norm = label_norms(label_distances(seen, seen, class_embeddings), counts.double(), estimator)
    if norm <= MIN_LABEL_SHARE * raw_norm:
        raise ValueError(
            f"target gives the {labels.numel()} inputs no geometry: all labels are equal, all are distinct, or "
            f"one stands against the rest (labels: {_some(labels)}). {ways_out}"
        )


def label_norms(apart: Tensor, counts: Tensor, estimator: Estimator = "unbiased") -> tuple[float, float]:
    """Frobenius norms of the (n, n) distances between labels, centred and raw.

    Args:
        apart (Tensor): (c, c) distances between the classes, float64.
        counts (Tensor): (c,) inputs of each, float64.
        estimator (str): of the centring.
    """
    n = float(counts.sum())
    by_class = apart @ counts
    squares, rows, total = counts @ apart.square() @ counts, counts @ by_class.square(), counts @ by_class
    first, second = (n - 2, (n - 1) * (n - 2)) if estimator == "unbiased" else (n, n * n)
    square = squares - 2 * rows / first + total.square() / second
    return float(square.clamp(min=0).sqrt()), float(squares.sqrt())


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _some(labels: Tensor) -> str:
    listed = ", ".join(str(label) for label in labels[:8].tolist())
    return listed + (", ..." if labels.numel() > 8 else "")
