r"""The geometries of a reference population at one layer, and their inner products when an input is added.

Adding one input to a population of m adds one row to each distance matrix. Let u be the vector that centers the
population's distances (:func:`captum_kd.distance.centering.u_shift`). Subtract u from the added row, and then the row's
mean. The inner products of U-centered distances become

.. math:: \langle P, Q\rangle_{m+1} = \langle P, Q\rangle_m + 2\,\frac{m-2}{m-1}\; p \cdot q,

with p and q the added rows in this form. So N inputs need one (N, m) matrix for each geometry, and no loop.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.objective import PopulationGram, directions_of, row_weight
from captum_kd.distance.centering import noise_level, raw_scale, u_centered, u_shift
from captum_kd.distance.labels import MIN_LABEL_SHARE, WAYS_OUT_OF_REFERENCE, label_distances
from captum_kd.distance.pairwise import safe_size, unchecked_distances
from captum_kd.distance.precision import widest


class AddedRows(NamedTuple):
    """Centered distances of added inputs to the m inputs of a population, in k geometries.

    Attributes:
        rows (Tensor): (N, k, m), float64 if the device has it.
        raw_squares (Tensor): (N, k) squares of the scale that separates rounding from structure
            (:func:`captum_kd.distance.centering.raw_scale`).
    """

    rows: Tensor
    raw_squares: Tensor


class ReferenceFeatures(NamedTuple):
    """One geometry of a population, to which inputs can be added.

    Attributes:
        points (Tensor): (m, d) features, or (m,) labels.
        largest (float): largest absolute value of the features; 0 for labels.
        shift (Tensor): (m,) the vector that centers the population's distances.
        raw_square (Tensor): scalar, square of the scale that separates rounding from structure.
    """

    points: Tensor
    largest: float
    shift: Tensor
    raw_square: Tensor

    @classmethod
    def of(cls, points: Tensor, distances: Tensor, rounding: Optional[Tensor] = None) -> "ReferenceFeatures":
        # Features may be a view of all activations; a copy keeps these from staying in memory and in pickles.
        largest = largest_of(points) if points.is_floating_point() else 0.0
        scale = torch.linalg.vector_norm(distances)
        if rounding is not None:
            scale = raw_scale(scale, rounding.to(scale), len(points), points.dtype)
        return cls(points.clone(), largest, u_shift(distances), scale.square())

    def to(self, device: torch.device) -> "ReferenceFeatures":
        return ReferenceFeatures(self.points.to(device), self.largest, self.shift.to(device), self.raw_square.to(device))


def added_rows(sides: Sequence[ReferenceFeatures], distances: Tensor) -> AddedRows:
    """Centers the distances of added inputs.

    Args:
        sides (sequence of ReferenceFeatures): the population in k geometries.
        distances (Tensor): (k, N, m) distances to the population's inputs, in the dtype of ``sides``.
    """
    rows = distances - torch.stack([side.shift for side in sides])[:, None]
    rows = rows - rows.mean(2, keepdim=True)
    raw_squares = torch.stack([side.raw_square for side in sides])[:, None] + 2 * distances.square().sum(2)
    return AddedRows(rows.transpose(0, 1), raw_squares.T)


class LayerReference(NamedTuple):
    """A population at one entry of ``layer``.

    Attributes:
        features (tuple of ReferenceFeatures): of the Student and of the Bases.
        labels (ReferenceFeatures or None): of the labels, always on the CPU; None with a Teacher.
        teacher (ReferenceFeatures or None): of the Teacher.
        gram (PopulationGram): of Student, Bases and, if there is one, the target, for all directions of removal.
    """

    features: tuple[ReferenceFeatures, ...]
    labels: Optional[ReferenceFeatures]
    teacher: Optional[ReferenceFeatures]
    gram: PopulationGram

    @classmethod
    def of(
        cls,
        features: Sequence[Tensor],
        labels: Optional[Tensor],
        class_embeddings: Optional[Tensor],
        teacher: Optional[Tensor] = None,
        rounding: Sequence[Optional[Tensor]] = (),
    ) -> "LayerReference":
        """From (m, d) features of the Student and of the Bases, and (m,) labels or (m, e) features of a Teacher.

        ``rounding`` holds, for each model, the largest distance by which rounding may have moved an input.
        """
        student = features[0]
        points = [each.to(student.device) for each in (*features, teacher) if each is not None]
        distances = [_distances(each) for each in points]
        sides = [ReferenceFeatures.of(*each) for each in zip(points, distances, rounding or (None,) * len(points))]
        by_labels = None
        if teacher is None and labels is not None:
            labels = labels.cpu()
            of_labels = label_distances(labels, labels, class_embeddings)
            by_labels = ReferenceFeatures.of(labels, of_labels)
            distances.append(of_labels)
        geometries = u_centered(torch.stack([each.to(distances[0]) for each in distances]))
        raw_squares = [side.raw_square.to(geometries) for side in (*sides, by_labels) if side is not None]
        noise = noise_level(student.dtype) ** 2 * torch.stack(raw_squares)
        models = len(features)
        gram = PopulationGram.of(geometries, noise, directions_of(models), models if len(geometries) > models else None)
        return cls(tuple(sides[:models]), by_labels, None if teacher is None else sides[models], gram)

    def added_labels(self, target: Tensor, class_embeddings: Optional[Tensor]) -> AddedRows:
        """Adds labels (N,) of inputs: rows (N, 1, m) on the CPU.

        Raises:
            ValueError: an input whose label gives, together with the population's labels, no geometry.
        """
        assert self.labels is not None
        target = target.cpu()
        distances = label_distances(target, self.labels.points, class_embeddings)
        added = added_rows([self.labels], distances[None])
        m = distances.shape[1]
        squares = self.gram.gram[0, -1, -1].cpu() + 2 * row_weight(m) * added.rows[:, 0].square().sum(1)
        flat = squares <= MIN_LABEL_SHARE**2 * added.raw_squares[:, 0]
        if bool(flat.any()):
            index = int(flat.nonzero()[0])
            raise ValueError(
                f"target gives input {index} (label {int(target[index])}) and the reference population together no "
                f"geometry: all labels equal, all distinct, or one against the rest. {WAYS_OUT_OF_REFERENCE}"
            )
        return added

    def to(self, device: torch.device) -> "LayerReference":
        return LayerReference(
            tuple(side.to(device) for side in self.features),
            self.labels,
            None if self.teacher is None else self.teacher.to(device),
            self.gram.to(device),
        )


def _distances(features: Tensor) -> Tensor:
    """Distances (m, m) in float64 if the device has it: those of large float32 features may exceed float32."""
    unit = safe_size(features)
    return unchecked_distances(features if unit == 1 else features / unit).to(widest(features.device)) * unit
