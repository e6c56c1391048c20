"""Gradients of the objectives with respect to the features: where the way back to a map begins.

Features come as (N, d), the model that is explained first, then the one whose features are removed,
all of one dtype and on one device. Gradients come in the same order: of the first model alone, or,
with ``both``, also those of the second one's objective, in which the two change places.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd.attr.objective import population_objective, reference_objective
from captum_kd.attr.reference import AddedRows, LayerReference, added_features
from captum_kd.distance import Geometry, geometry
from captum_kd.labels import label_geometry

__all__ = ["population_gradients", "reference_gradients"]


def population_gradients(
    features: tuple[Tensor, Tensor],
    teacher: Optional[Tensor],
    labels: Optional[Tensor],
    class_embeddings: Optional[Tensor],
    both: bool,
) -> list[Tensor]:
    """Batch mode: the inputs are the population.

    Args:
        features (tuple of Tensor): (N, d) of the two models.
        teacher (Tensor, optional): (N, e) features of the Teacher, which take the labels' place.
        labels (Tensor, optional): (N,) integers.
        class_embeddings (Tensor, optional): (num_classes, e) or None for one-hot.
        both (bool): gradients of both directions.
    """
    leaves = _leaves(features)
    sides: list[Geometry] = [geometry(leaf) for leaf in leaves]
    target = None
    if teacher is not None:
        target = geometry(teacher)
    elif labels is not None:
        target = label_geometry(labels.to(leaves[0].device), class_embeddings, leaves[0].dtype)
    objectives = []
    for i in (0, 1) if both else (0,):
        objectives.append(population_objective(sides[i], sides[1 - i], target, _whose(teacher)))
    # Each objective depends on its own model's features alone: one way back serves both.
    return list(torch.autograd.grad(objectives, leaves[: len(objectives)]))


def reference_gradients(
    layer: LayerReference,
    direction: int,
    features: tuple[Tensor, Tensor],
    teacher: Optional[Tensor],
    labels: Optional[Tensor],
    class_embeddings: Optional[Tensor],
    both: bool,
) -> list[Tensor]:
    """Reference mode: every input is added to the population on its own.

    Args:
        layer (LayerReference): the population, on the features' device.
        direction (int): 0 where the first features are the Student's, 1 where they are the Base's.
        features, teacher, labels, class_embeddings, both: as for :func:`population_gradients`.
    """
    leaves = _leaves(features)
    order = (direction, 1 - direction)
    rows: list[AddedRows] = [added_features(layer.features[side], leaf) for side, leaf in zip(order, leaves)]
    target = None
    if teacher is not None:
        assert layer.teacher is not None
        target = added_features(layer.teacher, teacher)
    elif labels is not None:
        target = layer.added_labels(labels.to(leaves[0].device), class_embeddings, direction)
    objectives = []
    for i in (0, 1) if both else (0,):
        # An input's objective depends on its own features alone: the sum keeps them apart.
        of_inputs = reference_objective(layer.pairings[order[i]], rows[i], rows[1 - i], target, _whose(teacher))
        objectives.append(of_inputs.sum())
    return list(torch.autograd.grad(objectives, leaves[: len(objectives)]))


def _leaves(features: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in features]


def _whose(teacher: Optional[Tensor]) -> str:
    return "labels" if teacher is None else "Teacher"
