r"""Reference mode: a fixed population to which each input is added alone.

Adding one input to a population of m changes one row of each distance matrix. In centered form
nothing else has to be looked at: subtract from the reference block the vector u that centers it
(:func:`captum_kd.distance.centering.u_shift`), from the added row the same u, and then the row's mean. Rows
of the block and the added row now sum to zero, U-centering leaves only

.. math:: \langle P, Q\rangle_{m+1} = \langle P, Q\rangle_m + 2\,\frac{m-2}{m-1}\; p \cdot q,

with p and q the added rows. All inputs of a batch take one (N, m) matrix and no loop.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.objective import PAIR, PopulationGram
from captum_kd.distance.centering import noise_level, raw_scale, u_centered, u_shift
from captum_kd.distance.labels import MIN_LABEL_SHARE, WAYS_OUT_OF_REFERENCE, label_distances
from captum_kd.distance.pairwise import safe_size, unchecked_distances
from captum_kd.distance.precision import widest

__all__ = [
    "AddedRows",
    "LayerReference",
    "ReferenceFeatures",
    "added_rows",
]


class AddedRows(NamedTuple):
    """Inputs added to a population, each as centered rows of distances to its members.

    Attributes:
        rows (Tensor): (N, k, m), float64 where the device has it.
        raw_squares (Tensor): (N, k) squares of the scale against which rounding is told from structure
            (:func:`captum_kd.distance.centering.raw_scale`).
    """

    rows: Tensor
    raw_squares: Tensor


class ReferenceFeatures(NamedTuple):
    """One geometry of a population, to which inputs can be added.

    Attributes:
        points (Tensor): (m, d) features, or (m,) labels.
        largest (float): the features' largest absolute value.
        shift (Tensor): (m,) the vector that centers the population's distances.
        raw_square (Tensor): scalar, square of the scale against which rounding is told from structure.
    """

    points: Tensor
    largest: float
    shift: Tensor
    raw_square: Tensor

    @classmethod
    def of(cls, points: Tensor, distances: Tensor, rounding: Optional[Tensor] = None) -> "ReferenceFeatures":
        # A copy: features may be a view of all activations, which would stay alive and be pickled along.
        largest = largest_of(points) if points.is_floating_point() else 0.0
        scale = torch.linalg.vector_norm(distances)
        if rounding is not None:
            scale = raw_scale(scale, rounding.to(scale), len(points), points.dtype)
        return cls(points.clone(), largest, u_shift(distances), scale.square())

    def to(self, device: torch.device) -> "ReferenceFeatures":
        return ReferenceFeatures(self.points.to(device), self.largest, self.shift.to(device), self.raw_square.to(device))


def added_rows(sides: Sequence[ReferenceFeatures], distances: Tensor) -> AddedRows:
    """Centers distances of new inputs to a population's.

    Args:
        sides (sequence of ReferenceFeatures): the population in k geometries.
        distances (Tensor): (k, N, m), of the sides' dtype.
    """
    rows = distances - torch.stack([side.shift for side in sides])[:, None]
    rows = rows - rows.mean(2, keepdim=True)
    raw_squares = torch.stack([side.raw_square for side in sides])[:, None] + 2 * distances.square().sum(2)
    return AddedRows(rows.transpose(0, 1), raw_squares.T)


class LayerReference(NamedTuple):
    """A population at one pair of layers.

    Attributes:
        features (tuple of ReferenceFeatures): as the two models see it, Student's first.
        labels (ReferenceFeatures or None): as the labels see it; on the CPU, wherever the rest is.
        teacher (ReferenceFeatures or None): as the Teacher sees it, in the labels' place.
        gram (PopulationGram): of Student, Base and, if there is one, the target; both directions of removal.
    """

    features: tuple[ReferenceFeatures, ReferenceFeatures]
    labels: Optional[ReferenceFeatures]
    teacher: Optional[ReferenceFeatures]
    gram: PopulationGram

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
        points = [each.to(student.device) for each in (student, base, teacher) if each is not None]
        distances = [_distances(each) for each in points]
        sides = [ReferenceFeatures.of(*each) for each in zip(points, distances, rounding)]
        by_labels = None
        if teacher is None and labels is not None:
            labels = labels.cpu()
            of_labels = label_distances(labels, labels, class_embeddings)
            by_labels = ReferenceFeatures.of(labels, of_labels)
            distances.append(of_labels)
        geometries = u_centered(torch.stack([each.to(distances[0]) for each in distances]))
        raw_squares = [side.raw_square.to(geometries) for side in (*sides, by_labels) if side is not None]
        noise = noise_level(student.dtype) ** 2 * torch.stack(raw_squares)
        gram = PopulationGram.of(geometries, noise, PAIR, 2 if len(geometries) == 3 else None)
        return cls((sides[0], sides[1]), by_labels, sides[2] if len(sides) == 3 else None, gram)

    def added_labels(self, target: Tensor, class_embeddings: Optional[Tensor]) -> AddedRows:
        """The inputs' labels as rows, (N, 1, m) on the CPU.

        Raises:
            ValueError: an input whose label, added to the population's, leaves no geometry.
        """
        assert self.labels is not None
        target = target.cpu()
        distances = label_distances(target, self.labels.points, class_embeddings)
        added = added_rows([self.labels], distances[None])
        m = distances.shape[1]
        squares = self.gram.gram[0, -1, -1].cpu() + 2 * (m - 2) / (m - 1) * added.rows[:, 0].square().sum(1)
        flat = squares <= MIN_LABEL_SHARE**2 * added.raw_squares[:, 0]
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
            self.gram.to(device),
        )


def _distances(features: Tensor) -> Tensor:
    """In float64 where the device has it: float32 cannot hold the distances of all features that it holds."""
    unit = safe_size(features)
    return unchecked_distances(features if unit == 1 else features / unit).to(widest(features.device)) * unit
