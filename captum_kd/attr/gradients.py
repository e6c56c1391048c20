"""Gradients of UniCAM's objectives with respect to the features.

Features come as (N, d), the model that is explained first, then the one whose features are removed,
all of one dtype and on one device. Gradients come in the same order: of the first model alone, or,
with ``both``, also those of the second one's objective, in which the two change places.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.objective import PAIR, population_objectives, reference_objectives
from captum_kd.attr.reference_population import AddedRows, LayerReference, ReferenceFeatures, added_rows
from captum_kd.distance.centering import Geometry, noise_level, raw_scale, u_centered
from captum_kd.distance.pairwise import Spread, is_async_device, power_of_two, rows_to_center
from captum_kd.distance.precision import widest

__all__ = ["ScaledFeatures", "population_gradients", "reference_gradients"]


class ScaledFeatures(NamedTuple):
    """Features that are known to be finite.

    Attributes:
        values (Tensor): (N, d), float32 or float64.
        largest (float): their largest absolute value.
        rounding (Tensor): scalar, by which distance rounding may have moved each input at most; 0 where they are no averages.
    """

    values: Tensor
    largest: float
    rounding: Tensor = torch.zeros(())


def population_gradients(
    features: tuple[ScaledFeatures, ScaledFeatures], teacher: Optional[ScaledFeatures], labels: Optional[Geometry], both: bool
) -> list[Tensor]:
    """Batch mode: the inputs are the population.

    Args:
        features (tuple of Measured): (N, d) of the two models.
        teacher (Measured, optional): (N, e) features of the Teacher, which take the labels' place.
        labels (Geometry, optional): that of the labels, on any device.
        both (bool): gradients of both directions.
    """
    sets = [*features] if teacher is None else [*features, teacher]
    first = features[0].values
    units = [power_of_two(each.largest) for each in sets]
    spreads = _spreads([(rows_to_center(each.values, unit), None) for each, unit in zip(sets, units)])
    distances = torch.stack([each.distances.to(widest(first.device)) for each in spreads])
    rounding = torch.stack([_scaled(each.rounding, unit) for each, unit in zip(sets, units)])
    raw_norms = raw_scale(torch.linalg.vector_norm(distances, dim=(1, 2)), rounding.to(distances), len(first), first.dtype)
    geometries = u_centered(distances)
    if teacher is None and labels is not None:
        geometries = torch.cat([geometries, labels.matrix.to(geometries)[None]])
        raw_norms = torch.cat([raw_norms, labels.raw_norm.to(raw_norms)[None]])
    noise = (noise_level(first.dtype) * raw_norms).square()
    target = 2 if len(geometries) == 3 else None
    slopes = population_objectives(
        geometries, noise, PAIR if both else PAIR[:1], target, _whose(teacher), first.dtype == geometries.dtype
    ).slopes
    pulled = [_pulled(*each) for each in zip(spreads, slopes)]
    if target is not None:  # a correlation does not grow with the features; the objective without a target does
        pulled = [_scaled(gradient, unit) for gradient, unit in zip(pulled, units)]
    return _checked(pulled, features)


def reference_gradients(
    layer: LayerReference,
    direction: int,
    features: tuple[ScaledFeatures, ScaledFeatures],
    teacher: Optional[ScaledFeatures],
    labels: Optional[AddedRows],
    both: bool,
) -> list[Tensor]:
    """Reference mode: every input is added to the population on its own.

    Args:
        layer (LayerReference): the population, on any device.
        direction (int): 0 where the first features are the Student's, 1 where they are the Base's.
        features, teacher, both: as for :func:`population_gradients`.
        labels (AddedRows, optional): the inputs' labels as rows (N, 1, m), on any device.

    Raises:
        ValueError: features of another width than the population's.
    """
    first = features[0].values
    layer = layer.to(first.device)
    places = [direction, 1 - direction]
    sides, sets = [*layer.features], [features[place] for place in places]
    if teacher is not None:
        assert layer.teacher is not None
        sides, sets = [*sides, layer.teacher], [*sets, teacher]
    for side, each in zip(sides, sets):
        _check_widths(side, each.values)
    units = [power_of_two(max(side.largest, each.largest)) for side, each in zip(sides, sets)]
    points = [_scaled(side.points.to(first.dtype), unit) for side, unit in zip(sides, units)]
    spreads = _spreads([(_scaled(each.values, unit), y) for each, y, unit in zip(sets, points, units)])
    wide = widest(first.device)
    distances = torch.stack([_scaled(each.distances.to(wide), 1 / unit) for each, unit in zip(spreads, units)])
    added = added_rows(sides, distances)
    if teacher is None and labels is not None:
        added = AddedRows(*(torch.cat([own, other.to(own)], 1) for own, other in zip(added, labels)))
    # Labels are exact, but what is left of them has the rounding of the features that are removed.
    noise = noise_level(first.dtype) ** 2 * added.raw_squares
    places = places if both else places[:1]
    population = layer.gram.part(places, with_target=added.rows.shape[1] == 3)
    slopes = reference_objectives(population, added.rows, noise, _whose(teacher)).slopes
    return _checked([_pulled(spreads[place], slope) for place, slope in zip(places, slopes)], features)


def _spreads(rows: Sequence[tuple[Tensor, Optional[Tensor]]]) -> list[Spread]:
    """A GPU is asked once, for all of them, whether some rows were too close for quick distances, which they hardly ever are."""
    if is_async_device(rows[0][0].device):
        spreads = [Spread.of(x, y, fast=True) for x, y in rows]
        if not bool(torch.stack([spread.needs_recheck for spread in spreads if spread.needs_recheck is not None]).any()):
            return spreads
    return [Spread.of(x, y) for x, y in rows]


def _pulled(spread: Spread, slope: Tensor) -> Tensor:
    return spread.gradients(slope.to(spread.distances.dtype))[0]


def _scaled(values: Tensor, unit: float) -> Tensor:
    return values if unit == 1 else values / unit


def _checked(gradients: Sequence[Tensor], features: Sequence[ScaledFeatures]) -> list[Tensor]:
    """In the features' dtype.

    Raises:
        ValueError: gradients that are too large for it, as those at very small features are.
    """
    found = [gradient.to(each.values.dtype) for gradient, each in zip(gradients, features)]
    for gradient, each in zip(found, features):
        # A thousandth of what the dtype holds leaves room for sums over positions.
        if each.largest < 2.0**-100 and not largest_of(gradient) < torch.finfo(gradient.dtype).max / 1000:
            raise ValueError(
                f"The features are so small, {each.largest:.1e} at most, that {gradient.dtype} cannot hold gradients at them. "
                "Explain the models in float64, model.double(), or at a layer with larger activations."
            )
    return found


def _check_widths(side: ReferenceFeatures, features: Tensor) -> None:
    if features.shape[1] != side.points.shape[1]:
        raise ValueError(
            f"The inputs have {features.shape[1]} features, those of the reference population {side.points.shape[1]}: with "
            "a feature_transform that keeps positions, such as flatten, both need the same size."
        )


def _whose(teacher: Optional[ScaledFeatures]) -> str:
    return "labels" if teacher is None else "Teacher"
