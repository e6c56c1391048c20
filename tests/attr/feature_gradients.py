"""Gradients of pairs of models: the explained one first."""

from typing import Optional

from torch import Tensor

from captum_kd.attr.gradients import ScaledFeatures, Target, population_gradients, reference_gradients
from captum_kd.attr.layer_reference import AddedRows, LayerReference
from captum_kd.attr.objective import directions_of
from captum_kd.distance.centering import Geometry

Pair = tuple[ScaledFeatures, ...]
PAIR = directions_of(2)


def batch_gradients(
    pair: Pair, teacher: Optional[ScaledFeatures], labels: Optional[Geometry], both: bool
) -> list[Tensor]:
    found = population_gradients(pair, PAIR[: 1 + both], Target(teacher, labels))
    return [each.gradients for each in found]


def added_gradients(
    layer: LayerReference,
    direction: int,
    pair: Pair,
    teacher: Optional[ScaledFeatures],
    rows: Optional[AddedRows],
    both: bool,
) -> list[Tensor]:
    explained = [direction, 1 - direction][: 1 + both]
    student_first = pair if direction == 0 else pair[::-1]
    found = reference_gradients(layer, [0, 1], student_first, explained, Target(teacher, rows))
    return [each.gradients for each in found]
