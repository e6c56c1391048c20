"""Gradients of UniCAM's objectives with respect to the features.

Features are (N, d) tensors of one dtype on one device: first those of the explained model, then those of the model
whose representation is removed. The result holds the gradient at the first model's features. With ``both`` it also
holds, at the second model's features, the gradient of the objective in which the two models change places.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.layer_reference import AddedRows, LayerReference, ReferenceFeatures, added_rows
from captum_kd.attr.objective import PAIR, population_objectives, reference_objectives
from captum_kd.distance.centering import Geometry, noise_level, raw_scale, u_centered
from captum_kd.distance.pairwise import RowDistances, is_async_device, power_of_two, rows_to_center
from captum_kd.distance.precision import widest


class ScaledFeatures(NamedTuple):
    """Finite features of one model, with the scales that distances between them need.

    Attributes:
        values (Tensor): (N, d), float32 or float64.
        largest (float): largest absolute value.
        rounding (Tensor): scalar, the largest distance by which rounding may have moved an input; 0 if the features are
            not averages.
    """

    values: Tensor
    largest: float
    rounding: Tensor = torch.zeros(())


def population_gradients(
    features: tuple[ScaledFeatures, ScaledFeatures], teacher: Optional[ScaledFeatures], labels: Optional[Geometry], both: bool
) -> list[Tensor]:
    """Gradients in batch mode, where the inputs are the population.

    Args:
        features (tuple of ScaledFeatures): (N, d) of the two models.
        teacher (ScaledFeatures, optional): (N, e) of the Teacher, whose representation replaces the labels' geometry.
        labels (Geometry, optional): the labels' geometry, on any device.
        both (bool): True for both directions of removal.

    Returns:
        list of Tensor: (N, d), one for each direction, in the features' dtype.

    Raises:
        ValueError: features that are so small that their dtype cannot hold the gradients.
    """
    sets = [*features] if teacher is None else [*features, teacher]
    first = features[0].values
    units = [power_of_two(each.largest) for each in sets]
    of_rows = _row_distances([(rows_to_center(each.values, unit), None) for each, unit in zip(sets, units)])
    distances = torch.stack([each.distances.to(widest(first.device)) for each in of_rows])
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
    gradients = [_at_features(*each) for each in zip(of_rows, slopes)]
    if target is not None:  # the objective without a target is proportional to the features; a correlation is not
        gradients = [_scaled(gradient, unit) for gradient, unit in zip(gradients, units)]
    return _in_range(gradients, features)


def reference_gradients(
    layer: LayerReference,
    direction: int,
    features: tuple[ScaledFeatures, ScaledFeatures],
    teacher: Optional[ScaledFeatures],
    labels: Optional[AddedRows],
    both: bool,
) -> list[Tensor]:
    """Gradients in reference mode, where every input is added to the population on its own.

    Args:
        layer (LayerReference): the population, on any device.
        direction (int): 0 if the first features are the Student's, 1 if they are the Base's.
        features, teacher, both: as in :func:`population_gradients`.
        labels (AddedRows, optional): rows (N, 1, m) of the inputs' labels, on any device.

    Returns:
        list of Tensor: as in :func:`population_gradients`.

    Raises:
        ValueError: as in :func:`population_gradients`; features of another width than the population's.
    """
    first = features[0].values
    layer = layer.to(first.device)
    places = [direction, 1 - direction]
    sides = [*layer.features] if layer.teacher is None else [*layer.features, layer.teacher]
    sets = [*(features[place] for place in places), *([] if teacher is None else [teacher])]
    for side, each in zip(sides, sets):
        _check_widths(side, each.values)
    units = [power_of_two(max(side.largest, each.largest)) for side, each in zip(sides, sets)]
    points = [_scaled(side.points.to(first.dtype), unit) for side, unit in zip(sides, units)]
    of_rows = _row_distances([(_scaled(each.values, unit), y) for each, y, unit in zip(sets, points, units)])
    wide = widest(first.device)
    distances = torch.stack([_scaled(each.distances.to(wide), 1 / unit) for each, unit in zip(of_rows, units)])
    added = added_rows(sides, distances)
    if teacher is None and labels is not None:
        added = AddedRows(*(torch.cat([own, other.to(own)], 1) for own, other in zip(added, labels)))
    # Labels are exact, but after removal they have the rounding of the removed features.
    noise = noise_level(first.dtype) ** 2 * added.raw_squares
    places = places if both else places[:1]
    population = layer.gram.part(places, with_target=added.rows.shape[1] == 3)
    slopes = reference_objectives(population, added.rows, noise, _whose(teacher)).slopes
    return _in_range([_at_features(of_rows[place], slope) for place, slope in zip(places, slopes)], features)


def _row_distances(rows: Sequence[tuple[Tensor, Optional[Tensor]]]) -> list[RowDistances]:
    """Distances of each set of rows. On a GPU, one transfer for all sets tells if some rows are too close for the fast way."""
    if is_async_device(rows[0][0].device):
        of_rows = [RowDistances.of(x, y, fast=True) for x, y in rows]
        if not bool(torch.stack([between.needs_recheck for between in of_rows if between.needs_recheck is not None]).any()):
            return of_rows
    return [RowDistances.of(x, y) for x, y in rows]


def _at_features(between: RowDistances, slope: Tensor) -> Tensor:
    return between.gradients(slope.to(between.distances.dtype))[0]


def _scaled(values: Tensor, unit: float) -> Tensor:
    return values if unit == 1 else values / unit


def _in_range(gradients: Sequence[Tensor], features: Sequence[ScaledFeatures]) -> list[Tensor]:
    """Gradients in the features' dtype; a ValueError if they are too large for it, as they are at very small features."""
    found = [gradient.to(each.values.dtype) for gradient, each in zip(gradients, features)]
    for gradient, each in zip(found, features):
        # The factor of 1000 leaves room for sums over positions.
        if each.largest < 2.0**-100 and not largest_of(gradient) < torch.finfo(gradient.dtype).max / 1000:
            raise ValueError(
                f"The features are so small, {each.largest:.1e} at most, that {gradient.dtype} cannot hold gradients at them. "
                "Explain the models in float64, model.double(), or choose a layer with larger activations."
            )
    return found


def _check_widths(side: ReferenceFeatures, features: Tensor) -> None:
    if features.shape[1] != side.points.shape[1]:
        raise ValueError(
            f"The inputs have {features.shape[1]} features, and the reference population has {side.points.shape[1]}. With "
            "a feature_transform that keeps positions, such as flatten, inputs and population must have the same size."
        )


def _whose(teacher: Optional[ScaledFeatures]) -> str:
    return "labels" if teacher is None else "Teacher"
