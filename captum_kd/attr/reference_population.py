r"""Reference mode: a fixed population to which each input is added alone.

Adding one input to a population of m changes one row of each distance matrix. In centered form
nothing else has to be looked at: subtract from the reference block the vector u that centers it
(:func:`captum_kd.distance.centering.u_shift`), from the added row the same u, and then the row's mean. Rows
of the block and the added row now sum to zero, U-centering leaves only

.. math:: \langle P, Q\rangle_{m+1} = \langle P, Q\rangle_m + 2\,\frac{m-2}{m-1}\; p \cdot q,

with p and q the added rows. All inputs of a batch take one (N, m) matrix and no loop.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.layer_activations import Layouts
from captum_kd._utils.tensors import largest_of
from captum_kd._utils.validation import check_mapping, short_repr
from captum_kd.attr.made_with import check_made_alike
from captum_kd.distance.centering import center, noise_level, raw_scale, u_shift
from captum_kd.distance.labels import MIN_LABEL_SHARE, WAYS_OUT_OF_REFERENCE, label_distances
from captum_kd.distance.pairwise import safe_size, unchecked_distances
from captum_kd.distance.sources import widest

__all__ = [
    "AddedRows",
    "LayerReference",
    "Pairing",
    "ReferencePopulation",
    "ReferenceFeatures",
    "added_rows",
]


class Pairing(NamedTuple):
    """Sums of products within a reference population, (2,): of distilled features and of residual ones.

    With P the model that is explained, Q the one that is removed and T the target, the labels or
    the Teacher: "rest" is P - slope Q, the part of P that the population alone leaves, and
    "target_rest" is T - target_slope Q. "target" is T as it is.
    """

    slope: Tensor
    target_slope: Tensor
    rest_rest: Tensor
    other_other: Tensor
    target_target: Tensor
    rest_target_rest: Tensor
    other_target_rest: Tensor
    target_rest_target_rest: Tensor

    def to(self, device: torch.device) -> "Pairing":
        return Pairing(*(value.to(device) for value in self))

    def swapped(self) -> "Pairing":
        """With the two models in each other's place."""
        return Pairing(*(value.flip(0) for value in self))


class AddedRows(NamedTuple):
    """Inputs added to a population, each as a centered row of distances to its members.

    Attributes:
        rows (Tensor): (..., N, m), float64 where the device has it.
        floor (Tensor): (..., N) squared norms at most this large are rounding.
        raw_squares (Tensor): (..., N) square of the scale against which rounding is told from structure
            (:func:`captum_kd.distance.centering.raw_scale`).
    """

    rows: Tensor
    floor: Tensor
    raw_squares: Tensor

    @property
    def weight(self) -> float:
        """2 (m - 2) / (m - 1), what a product of rows adds to the sum over the population."""
        m = self.rows.shape[-1]
        return 2 * (m - 2) / (m - 1)

    @property
    def row_weight(self) -> float:
        """(m - 2) / (m - 1), from the centered row to the row of the U-centered matrix."""
        return self.weight / 2


class ReferenceFeatures(NamedTuple):
    """A population as one model, or the labels, see it.

    Attributes:
        points (Tensor): (m, d) features, or (m,) labels.
        largest (float): the features' largest absolute value.
        shift (Tensor): (m,) the vector that centers the population's distances.
        raw_square (Tensor): scalar, square of the scale against which rounding is told from structure.
        square (Tensor): scalar, squared norm of the centered distances.
    """

    points: Tensor
    largest: float
    shift: Tensor
    raw_square: Tensor
    square: Tensor

    @classmethod
    def of(
        cls, points: Tensor, distances: Tensor, centered: Tensor, rounding: Optional[Tensor] = None
    ) -> "ReferenceFeatures":
        # A copy: features may be a view of all activations, which would stay alive and be pickled along.
        largest = largest_of(points) if points.is_floating_point() else 0.0
        scale = torch.linalg.vector_norm(distances)
        if rounding is not None:
            scale = raw_scale(scale, rounding.to(scale), len(points), points.dtype)
        return cls(points.clone(), largest, u_shift(distances), scale.square(), centered.square().sum())

    def to(self, device: torch.device) -> "ReferenceFeatures":
        points, shift, raw_square, square = (each.to(device) for each in (self.points, *self[2:]))
        return ReferenceFeatures(points, self.largest, shift, raw_square, square)

    def floor(self) -> Tensor:
        """Squared norms at most this large are rounding."""
        return noise_level(self.points.dtype) ** 2 * self.raw_square


def added_rows(sides: Sequence[ReferenceFeatures], distances: Tensor, dtype: torch.dtype) -> AddedRows:
    """Centers distances of new inputs to a population's.

    Args:
        sides (sequence of ReferenceFeatures): k ways to see the population.
        distances (Tensor): (k, N, m), of the sides' dtype.
        dtype (torch.dtype): of the features behind them.
    """
    rows = distances - torch.stack([side.shift for side in sides])[:, None]
    rows = rows - rows.mean(2, keepdim=True)
    raw_squares = torch.stack([side.raw_square for side in sides])[:, None] + 2 * distances.square().sum(2)
    return AddedRows(rows, noise_level(dtype) ** 2 * raw_squares, raw_squares)


class LayerReference(NamedTuple):
    """A population at one pair of layers.

    Attributes:
        features (tuple of ReferenceFeatures): as the two models see it, Student's first.
        labels (ReferenceFeatures or None): as the labels see it; on the CPU, wherever the rest is.
        teacher (ReferenceFeatures or None): as the Teacher sees it, in the labels' place.
        pairings (Pairing): distilled (Base removed from Student) and residual.
    """

    features: tuple[ReferenceFeatures, ReferenceFeatures]
    labels: Optional[ReferenceFeatures]
    teacher: Optional[ReferenceFeatures]
    pairings: Pairing

    @classmethod
    def of(
        cls,
        student: Tensor,
        base: Tensor,
        labels: Optional[Tensor],
        class_embeddings: Optional[Tensor],
        teacher: Optional[Tensor] = None,
        rounding: Sequence[Optional[Tensor]] = (None, None, None),
    ) -> "LayerReference":
        """Measures a population once and for all, from (m, d) features and (m,) labels or (m, e) Teacher's features.

        ``rounding`` holds, of Student, Base and Teacher, by which distance rounding may have moved each input at most.
        """
        base = base.to(student.device)
        first, second = (_distances(features) for features in (student, base))
        p, q = center(first).matrix, center(second).matrix
        t = torch.zeros_like(p)
        by_labels = by_teacher = None
        if teacher is not None:
            teacher = teacher.to(student.device)
            third = _distances(teacher).to(first)
            t = center(third).matrix
            by_teacher = ReferenceFeatures.of(teacher, third, t, rounding[2])
        elif labels is not None:
            labels = labels.cpu()
            third = label_distances(labels, labels, class_embeddings)
            t = center(third).matrix
            by_labels, t = ReferenceFeatures.of(labels, third, t), t.to(first)
        of_student = ReferenceFeatures.of(student, first, p, rounding[0])
        of_base = ReferenceFeatures.of(base, second, q, rounding[1])
        pairings = _pairing(p, q, t, of_base.floor()), _pairing(q, p, t, of_student.floor())
        return cls(
            (of_student, of_base),
            by_labels,
            by_teacher,
            Pairing(*map(torch.stack, zip(*pairings))),
        )

    def added_labels(self, target: Tensor, class_embeddings: Optional[Tensor]) -> AddedRows:
        """The inputs' labels as rows, (N, m) on the CPU.

        Raises:
            ValueError: an input whose label, added to the population's, leaves no geometry.
        """
        assert self.labels is not None
        target = target.cpu()
        distances = label_distances(target, self.labels.points, class_embeddings)
        added = AddedRows(*(each[0] for each in added_rows([self.labels], distances[None], torch.float64)))
        squares = self.labels.square + added.weight * added.rows.square().sum(1)
        flat = squares <= MIN_LABEL_SHARE**2 * added.raw_squares
        if bool(flat.any()):
            index = int(flat.nonzero()[0])
            raise ValueError(
                f"target gives input {index} (label {int(target[index])}) and the reference population together no "
                f"geometry: all labels equal, all distinct, or one against the rest. {WAYS_OUT_OF_REFERENCE}"
            )
        return added

    def to(self, device: torch.device) -> "LayerReference":
        first, second = self.features
        return LayerReference(
            (first.to(device), second.to(device)),
            self.labels,
            None if self.teacher is None else self.teacher.to(device),
            self.pairings.to(device),
        )


def _distances(features: Tensor) -> Tensor:
    """In float64 where the device has it: float32 cannot hold the distances of all features that it holds."""
    unit = safe_size(features)
    return unchecked_distances(features if unit == 1 else features / unit).to(widest(features.device)) * unit


def _pairing(p: Tensor, q: Tensor, t: Tensor, floor: Tensor) -> Pairing:
    other_other = (q * q).sum()
    has_other = other_other > floor
    slope, target_slope = (
        torch.where(has_other, (x * q).sum() / torch.where(has_other, other_other, 1.0), 0.0) for x in (p, t)
    )
    rest, target_rest = p - slope * q, t - target_slope * q
    products = ((rest, rest), (q, q), (t, t), (rest, target_rest), (q, target_rest), (target_rest, target_rest))
    return Pairing(slope, target_slope, *((x * y).sum() for x, y in products))


class ReferencePopulation:
    """A fixed population for :meth:`captum_kd.UniCAM.attribute`, made by :meth:`captum_kd.UniCAM.reference`.

    It holds the detached features of both models and the labels, or the Teacher's features where there
    is a Teacher, but no model. It can be reused, deep-copied and pickled, and serves distilled and
    residual maps alike. It remembers how it was made; using it otherwise is an error.

    Attributes:
        layers (tuple of LayerReference): the population at each pair of layers.
        made_with (mapping): settings that later calls have to repeat.
        layouts (sequence of mapping): how the layers of Student, Base and Teacher keep their positions, as
            far as these inputs showed it: a single input may not.

    Example::

        >>> unicam = UniCAM(student, "layer4", base)
        >>> population = unicam.reference(images, labels)
        >>> attr = unicam.attribute(image, target=3, reference=population)
    """

    def __init__(
        self, layers: tuple[LayerReference, ...], made_with: Mapping[str, Any], layouts: Sequence[Layouts] = ()
    ) -> None:
        if not isinstance(layers, tuple) or not layers or not all(isinstance(each, LayerReference) for each in layers):
            raise TypeError(
                f"layers must be a tuple of at least one LayerReference, got {short_repr(layers)}; populations are made by "
                "UniCAM.reference()."
            )
        check_mapping(made_with, "made_with", "the mapping of settings that UniCAM.reference() notes")
        if not isinstance(layouts, (tuple, list)):
            raise TypeError(f"layouts must be a sequence of mappings, one for each model, got {short_repr(layouts)}.")
        for each in layouts:
            check_mapping(each, "layouts", "a sequence of mappings, one for each model")
        self.layers = layers
        self.made_with = dict(made_with)
        self.layouts = tuple(dict(each) for each in layouts)

    def __len__(self) -> int:
        return int(self.layers[0].features[0].points.shape[0])

    @property
    def is_labeled(self) -> bool:
        return self.layers[0].labels is not None

    @property
    def has_teacher(self) -> bool:
        return self.layers[0].teacher is not None

    def check(self, made_with: Mapping[str, Any]) -> None:
        """Compares a call's settings with the population's own.

        Raises:
            ValueError: naming the setting that differs.
        """
        check_made_alike(self.made_with, made_with)

    def __repr__(self) -> str:
        kind = "labeled inputs" if self.is_labeled else "unlabeled inputs"
        if self.has_teacher:
            kind = "inputs with a Teacher"
        return f"ReferencePopulation({len(self)} {kind}, {len(self.layers)} layer(s))"
