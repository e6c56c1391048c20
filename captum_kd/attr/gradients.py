"""Gradients of UniCAM's objectives with respect to the features.

Features are (N, d) tensors of one dtype on one device, one for each model. Each direction of removal has an explained
model, and its result is the gradient at that model's features.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.feature_path import Baseline, FeatureGradients, FeaturePath, Integral, Surroundings, integrate
from captum_kd.attr.layer_reference import AddedRows, LayerReference, ReferenceFeatures, added_rows
from captum_kd.attr.objective import (
    Direction,
    PopulationGram,
    population_objectives,
    reference_objectives,
    row_weight,
    warn_of_losses,
)
from captum_kd.distance.centering import CENTERINGS, Geometry, noise_level, raw_scale, u_centered
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


class Target(NamedTuple):
    """What the remainder of the explained features is correlated with; without either, nothing.

    Attributes:
        teacher (ScaledFeatures, optional): (N, e) of the Teacher, whose representation replaces the labels' geometry.
        labels (Geometry or AddedRows, optional): the labels' geometry in batch mode; their rows (N, 1, m) in reference mode.
            On any device.
    """

    teacher: Optional[ScaledFeatures] = None
    labels: Union[None, Geometry, AddedRows] = None

    @property
    def whose(self) -> str:
        return "labels" if self.teacher is None else "Teacher"


def population_gradients(
    features: Sequence[ScaledFeatures],
    directions: Sequence[Direction],
    target: Target,
    integral: Optional[Integral] = None,
) -> list[FeatureGradients]:
    """Gradients in batch mode, where the inputs are the population; on a path, the others are each input's population.

    Args:
        features (sequence of ScaledFeatures): (N, d) of the models.
        directions (sequence of tuple): indices of the explained and of the removed models.
        target (Target): of the objective.
        integral (Integral, optional): asks for mean gradients.

    Returns:
        list of FeatureGradients: one for each direction, in the features' dtype.

    Raises:
        ValueError: features that are so small that their dtype cannot hold the gradients.
    """
    sets = [*features] if target.teacher is None else [*features, target.teacher]
    first = features[0].values
    units = [power_of_two(each.largest) for each in sets]
    of_rows = _row_distances([(rows_to_center(each.values, unit), None) for each, unit in zip(sets, units)])
    distances = torch.stack([each.distances.to(widest(first.device)) for each in of_rows])
    rounding = torch.stack([_scaled(each.rounding, unit) for each, unit in zip(sets, units)])
    raw_norms = raw_scale(torch.linalg.vector_norm(distances, dim=(1, 2)), rounding.to(distances), len(first), first.dtype)
    geometries = u_centered(distances)
    if isinstance(target.labels, Geometry):
        geometries = torch.cat([geometries, target.labels.matrix.to(geometries)[None]])
        raw_norms = torch.cat([raw_norms, target.labels.raw_norm.to(raw_norms)[None]])
    noise = (noise_level(first.dtype) * raw_norms).square()
    place = len(features) if len(geometries) > len(features) else None
    if integral is None:
        found = population_objectives(geometries, noise, directions, place, first.dtype == geometries.dtype)
        warn_of_losses(found, target.whose)
        gradients = [FeatureGradients(_at_features(of_rows[x], slope)) for (x, _), slope in zip(directions, found.slopes)]
    else:
        gradients = _leave_one_out(features, units, directions, target, integral, distances, geometries, noise, place)
    if place is not None:  # the objective without a target is proportional to the features; a correlation is not
        gradients = [
            each._replace(gradients=_scaled(each.gradients, units[x])) for each, (x, _) in zip(gradients, directions)
        ]
    return _in_range(gradients, [features[x] for x, _ in directions])


def reference_gradients(
    layer: LayerReference,
    models: Sequence[int],
    features: Sequence[ScaledFeatures],
    explained: Sequence[int],
    target: Target,
    integral: Optional[Integral] = None,
) -> list[FeatureGradients]:
    """Gradients in reference mode, where every input is added to the population on its own.

    Args:
        layer (LayerReference): the population, on any device.
        models (sequence of int): the models' places in the population; the Student's is 0.
        features (sequence of ScaledFeatures): (N, d) of these models.
        explained (sequence of int): places in the population of the models that are explained, each with its direction.
        target, integral: as in :func:`population_gradients`.

    Returns:
        list of FeatureGradients: as in :func:`population_gradients`, one for each explained model.

    Raises:
        ValueError: as in :func:`population_gradients`; features of another width than the population's.
    """
    first = features[0].values
    layer = layer.to(first.device)
    sides = [*(layer.features[model] for model in models), *([] if target.teacher is None else [_teacher_of(layer)])]
    sets = [*features, *([] if target.teacher is None else [target.teacher])]
    for side, each in zip(sides, sets):
        _check_widths(side, each.values)
    units = [power_of_two(max(side.largest, each.largest)) for side, each in zip(sides, sets)]
    points = [_scaled(side.points.to(first.dtype), unit) for side, unit in zip(sides, units)]
    of_rows = _row_distances([(_scaled(each.values, unit), y) for each, y, unit in zip(sets, points, units)])
    wide = widest(first.device)
    distances = torch.stack([_scaled(each.distances.to(wide), 1 / unit) for each, unit in zip(of_rows, units)])
    added = added_rows(sides, distances)
    if isinstance(target.labels, AddedRows):
        added = AddedRows(*(torch.cat([own, other.to(own)], 1) for own, other in zip(added, target.labels)))
    # Labels are exact, but after removal they have the rounding of the removed features.
    share = noise_level(first.dtype) ** 2
    geometries = [*models, *([len(layer.features)] if added.rows.shape[1] > len(models) else [])]
    places = [models.index(model) for model in explained]
    if integral is None:
        found = reference_objectives(layer.gram.part(explained, geometries), added.rows, share * added.raw_squares)
        warn_of_losses(found, target.whose)
        gradients = [FeatureGradients(_at_features(of_rows[place], slope)) for place, slope in zip(places, found.slopes)]
    else:
        gradients = []
        for place, model, baseline in zip(places, explained, integral.baselines):
            side, unit = sides[place], units[place]
            around = Surroundings(points[place], side.shift.expand(len(first), -1), side.raw_square.expand(len(first), 1))
            path = FeaturePath.of(_scaled(features[place].values, unit), _scaled_baseline(baseline, unit), around)
            population = layer.gram.part([model], geometries)
            population = population._replace(gram=population.gram.expand(len(first), -1, -1, -1))
            mean, of_path = integrate(path, integral.steps, population, added, place, share, unit)
            warn_of_losses(of_path, target.whose)
            gradients.append(mean)
    return _in_range(gradients, [features[place] for place in places])


def _leave_one_out(
    features: Sequence[ScaledFeatures],
    units: Sequence[float],
    directions: Sequence[Direction],
    target: Target,
    integral: Integral,
    distances: Tensor,
    geometries: Tensor,
    noise: Tensor,
    place: Optional[int],
) -> list[FeatureGradients]:
    """Mean gradients in batch mode: every input is added to the population of all others.

    Sums over the others are those over all inputs minus the input's own part, so that no loop over the inputs is needed.

    Args:
        distances (Tensor): (k, N, N) of the models and the Teacher, divided by ``units``.
        geometries (Tensor): (k, N, N) centered distances, with the labels' if there are any.
        noise (Tensor): (k,) squared norms that are rounding.
        place (int, optional): index of the target.
    """
    n, share = distances.shape[1], noise_level(features[0].values.dtype) ** 2
    m = n - 1
    places = torch.arange(m, device=distances.device)
    others = places + (places >= torch.arange(n, device=distances.device)[:, None])  # (N, m)
    kept = [each.gather(1, others) for each in geometries]
    rows = torch.stack([each - each.mean(1, keepdim=True) for each in kept], 1)
    rows = rows / row_weight(m)
    raw_squares = (noise / share).expand(n, -1)
    whole = PopulationGram.of(geometries, noise, directions, place)
    sides = (whole.basis.flatten(0, 1) @ rows).reshape(n, *whole.gram.shape[:2], m)
    gram = whole._replace(gram=torch.sub(whole.gram, sides @ sides.mT, alpha=2 * row_weight(m)))
    gradients = []
    for number, ((x, _), baseline) in enumerate(zip(directions, integral.baselines)):
        of_rows = distances[x].sum(1, keepdim=True)
        without = of_rows.T - distances[x]  # sums of the rows over the others
        shift = CENTERINGS["unbiased"].shift(without.gather(1, others), of_rows.sum() - 2 * of_rows, m)
        raw = raw_squares[:, x, None] - 2 * distances[x].square().sum(1, keepdim=True)
        unit = units[x]
        around = Surroundings(_scaled(features[x].values, unit), shift, raw.clamp(min=0), others)
        path = FeaturePath.of(_scaled(features[x].values, unit), _scaled_baseline(baseline, unit), around)
        used = range(len(geometries))
        mean, found = integrate(
            path, integral.steps, gram.part([number], used), AddedRows(rows, raw_squares), x, share, 1.0
        )
        warn_of_losses(found, target.whose)
        assert mean.baselines is not None
        # Without a target the objective is proportional to the features.
        gains = mean.gains if mean.gains is None or place is not None else mean.gains * unit
        gradients.append(mean._replace(baselines=mean.baselines * unit, gains=gains))
    return gradients


def _scaled_baseline(baseline: Baseline, unit: float) -> Baseline:
    return _scaled(baseline, unit) if isinstance(baseline, Tensor) else baseline


def _teacher_of(layer: LayerReference) -> ReferenceFeatures:
    assert layer.teacher is not None
    return layer.teacher


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


def _in_range(gradients: Sequence[FeatureGradients], features: Sequence[ScaledFeatures]) -> list[FeatureGradients]:
    """Gradients in the features' dtype; a ValueError if they are too large for it, as they are at very small features."""
    found = []
    for integrated, each in zip(gradients, features):
        gradient = integrated.gradients.to(each.values.dtype)
        # The factor of 1000 leaves room for sums over positions.
        if each.largest < 2.0**-100 and not largest_of(gradient) < torch.finfo(gradient.dtype).max / 1000:
            raise ValueError(
                f"The features are so small, {each.largest:.1e} at most, that {gradient.dtype} cannot hold gradients at them. "
                "Explain the models in float64, model.double(), or choose a layer with larger activations."
            )
        found.append(integrated._replace(gradients=gradient))
    return found


def _check_widths(side: ReferenceFeatures, features: Tensor) -> None:
    if features.shape[1] != side.points.shape[1]:
        raise ValueError(
            f"The inputs have {features.shape[1]} features, and the reference population has {side.points.shape[1]}. With "
            "a feature_transform that keeps positions, such as flatten, inputs and population must have the same size."
        )
