"""Values of the objectives: those of the definition, written out over the population with the one input added to it."""

import warnings
from typing import Optional, Sequence

import pytest
import torch
from reference.geometries import correlation, remove
from torch import Tensor

from captum_kd.attr.objective import (
    Direction,
    Objectives,
    PopulationGram,
    directions_of,
    population_objectives,
    reference_objectives,
    warn_of_losses,
)
from captum_kd.attr.layer_reference import AddedRows, LayerReference, ReferenceFeatures, added_rows
from captum_kd.distance.centering import Geometry, center, noise_level
from captum_kd.distance.labels import label_geometry

M, N, CLASSES = 11, 3, 3
F64 = torch.float64
PAIR = directions_of(2)
DIRECTIONS = pytest.mark.parametrize("direction", [0, 1], ids=["distilled", "residual"])


def features(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, dtype=F64, generator=torch.Generator().manual_seed(seed))


REFERENCES = (features(M, 4, 1), features(M, 5, 2))
INPUTS = (features(N, 4, 3), features(N, 5, 4))
LABELS, MORE_LABELS = torch.arange(M) % CLASSES, torch.arange(N) % CLASSES
TEACHER, TEACHERS_INPUTS = features(M, 2, 5), features(N, 2, 6)


def geometry_of(x: Tensor) -> Geometry:
    return center(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"))


def values(
    direction: int,
    target: str,
    references: tuple[Tensor, Tensor] = REFERENCES,
    inputs: tuple[Tensor, Tensor] = INPUTS,
    teacher: tuple[Tensor, Tensor] = (TEACHER, TEACHERS_INPUTS),
) -> Tensor:
    layer = LayerReference.of(
        references, LABELS if target == "labels" else None, None, teacher[0] if target == "teacher" else None
    )
    sides, sets = [*layer.features], [*inputs]
    if layer.teacher is not None:
        sides, sets = [*sides, layer.teacher], [*sets, teacher[1]]
    added = added_rows(sides, torch.stack([torch.cdist(x, side.points) for x, side in zip(sets, sides)]))
    alone = objectives(layer, added, target, [direction]).values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warnings of one direction come again with both
        torch.testing.assert_close(objectives(layer, added, target).values[direction], alone[0])
    return alone[0]


def objectives(layer: LayerReference, added: AddedRows, target: str, directions: Sequence[int] = (0, 1)) -> Objectives:
    if target == "labels":
        of_labels = layer.added_labels(MORE_LABELS, None)
        added = AddedRows(*(torch.cat(each, 1) for each in zip(added, of_labels)))
    noise = noise_level(F64) ** 2 * added.raw_squares
    population = layer.gram.part(directions, range(2 if target == "none" else 3))
    found = reference_objectives(population, added.rows, noise)
    warn_of_losses(found, "labels")
    return found


def literal(direction: int, target: str, place: int) -> Tensor:
    """The input in front of the references, and everything computed anew."""
    both = [torch.cat([x[place : place + 1], known]) for x, known in zip(INPUTS, REFERENCES)]
    rest = remove(geometry_of(both[direction]), geometry_of(both[1 - direction]))
    if target == "none":
        return rest.matrix[0].amax()
    if target == "labels":
        return correlation(rest, label_geometry(torch.cat([MORE_LABELS[place : place + 1], LABELS]), None, F64))
    return correlation(rest, geometry_of(torch.cat([TEACHERS_INPUTS[place : place + 1], TEACHER])))


@DIRECTIONS
@pytest.mark.parametrize("target", ["labels", "teacher", "none"])
def test_of_an_input_added_to_a_population(target, direction):
    expected = torch.stack([literal(direction, target, place) for place in range(N)])
    torch.testing.assert_close(values(direction, target), expected, rtol=1e-10, atol=1e-12)


@DIRECTIONS
@pytest.mark.parametrize("target", ["labels", "none"])
def test_constant_features_of_the_other_model_take_nothing_away(target, direction):
    constant = (torch.ones(M, 2, dtype=F64), torch.ones(N, 2, dtype=F64))
    references, inputs = ((REFERENCES[0], constant[0]), (INPUTS[0], constant[1]))
    if direction:
        references, inputs = references[::-1], inputs[::-1]
    found = values(direction, target, references, inputs)
    for place in range(N):
        alone = geometry_of(torch.cat([INPUTS[0][place : place + 1], REFERENCES[0]]))
        labels = label_geometry(torch.cat([MORE_LABELS[place : place + 1], LABELS]), None, F64)
        expected = alone.matrix[0].amax() if target == "none" else correlation(alone, labels)
        assert float(found[place]) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("target", ["labels", "none"])
def test_inputs_of_which_nothing_is_left_are_counted(target):
    """The Base is the Student twice as large, but for the last input."""
    references = (REFERENCES[0], 2 * REFERENCES[0])
    inputs = (INPUTS[0], 2 * INPUTS[0] + torch.tensor([[0.0], [0.0], [1.0]], dtype=F64) * INPUTS[1][:, :4])
    with pytest.warns(UserWarning, match="Nothing of the features is left for 2 of 3 inputs"):
        found = values(0, target, references, inputs)
    assert found[:2].tolist() == [0, 0] and abs(float(found[2])) > 1e-3


def test_inputs_of_which_the_target_is_the_removed_geometry_are_counted():
    """The Teacher is the Base three times as large, but for the first input."""
    moved = torch.tensor([[1.0], [0.0], [0.0]], dtype=F64)
    teacher = (3 * REFERENCES[1], 3 * INPUTS[1] + moved)
    with pytest.warns(UserWarning, match="Nothing of the geometry of the labels is left for 2 of 3 inputs"):
        found = values(0, "teacher", teacher=teacher)
    assert found[1:].tolist() == [0, 0] and abs(float(found[0])) > 1e-6


def batch(
    own: Tensor, other: Tensor, aim: Optional[Geometry], directions: Sequence[Direction] = PAIR, whose: str = "labels"
) -> Objectives:
    sides = [geometry_of(own), geometry_of(other)]
    matrices, norms = zip(*(sides if aim is None else [*sides, aim]))
    noise = (noise_level(F64) * torch.stack(norms)).square()
    found = population_objectives(torch.stack(matrices), noise, directions, None if aim is None else 2)
    warn_of_losses(found, whose)
    return found


def batch_literal(own: Tensor, other: Tensor, aim: Optional[Geometry]) -> Tensor:
    rest = remove(geometry_of(own), geometry_of(other).detach())
    return rest.matrix.amax(1).sum() if aim is None else correlation(rest, aim)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("target", ["labels", "none"])
def test_of_a_batch_that_is_its_own_population(target, both):
    aim: Optional[Geometry] = label_geometry(LABELS, None, F64) if target == "labels" else None
    expected = [batch_literal(*REFERENCES, aim), batch_literal(*REFERENCES[::-1], aim)][: 1 + both]
    found = batch(*REFERENCES, aim, directions=PAIR[: 1 + both])
    torch.testing.assert_close(found.values, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", ["labels", "none"])
def test_slopes_of_a_batch_are_those_of_the_definition(target):
    """The definition, differentiated by autograd at symmetric changes of the distances."""
    aim: Optional[Geometry] = label_geometry(LABELS, None, F64) if target == "labels" else None
    found = batch(*REFERENCES, aim).slopes
    for place, (own, other) in enumerate((REFERENCES, REFERENCES[::-1])):
        distances = torch.cdist(own, own, compute_mode="donot_use_mm_for_euclid_dist").requires_grad_()
        rest = remove(center((distances + distances.T) / 2), geometry_of(other))
        value = rest.matrix.amax(1).sum() if aim is None else correlation(rest, aim)
        (slope,) = torch.autograd.grad(value, distances)
        torch.testing.assert_close(found[place], slope.fill_diagonal_(0), rtol=1e-9, atol=1e-13)


def test_a_row_with_several_strongest_entries_shares_its_slope_among_them():
    """As amax does: copies of an input are as far from all others."""
    x = torch.cat([REFERENCES[0][:6], REFERENCES[0][:5]])
    found = batch(x, REFERENCES[1], None).slopes[0]
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").requires_grad_()
    value = remove(center((distances + distances.T) / 2), geometry_of(REFERENCES[1])).matrix.amax(1).sum()
    (slope,) = torch.autograd.grad(value, distances)
    torch.testing.assert_close(found, slope.fill_diagonal_(0), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("target", ["labels", "none"])
def test_of_a_batch_of_which_nothing_is_left(target):
    aim = label_geometry(LABELS, None, F64) if target == "labels" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left for the batch"):
        found = batch(REFERENCES[0], 2 * REFERENCES[0], aim)
    assert found.values.tolist() == [0, 0] and found.slopes.count_nonzero() == 0


@pytest.mark.parametrize("whose", ["labels", "Teacher"])
def test_of_a_batch_whose_target_is_the_removed_geometry(whose):
    with pytest.warns(UserWarning, match=f"Nothing of the geometry of the {whose} is left for the batch"):
        found = batch(*REFERENCES, geometry_of(3 * REFERENCES[1]), whose=whose)
    assert float(found.values[0]) == 0 and found.slopes[0].count_nonzero() == 0
    # The removed geometry follows itself as closely as it can: its slope would be rounding.
    assert float(found.values[1]) > 0.1 and found.slopes[1].count_nonzero() == 0


@pytest.mark.parametrize("target", ["labels", "none"])
def test_constant_features_of_the_other_model_take_nothing_from_a_batch(target):
    aim = label_geometry(LABELS, None, F64) if target == "labels" else None
    found = batch(REFERENCES[0], torch.ones(M, 2, dtype=F64), aim, directions=PAIR[:1]).values
    alone = geometry_of(REFERENCES[0])
    expected = alone.matrix.amax(1).sum() if aim is None else correlation(alone, aim)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", ["labels", "teacher", "none"])
def test_slopes_of_added_inputs_are_those_of_their_values(target):
    """Finite differences: of an added row's distances, one after the other."""
    layer = LayerReference.of(
        REFERENCES, LABELS if target == "labels" else None, None, TEACHER if target == "teacher" else None
    )
    distances = torch.stack([torch.cdist(x, y) for x, y in zip(INPUTS, REFERENCES)])
    sides = [*layer.features]
    if layer.teacher is not None:
        sides, distances = [*sides, layer.teacher], torch.cat([distances, torch.cdist(TEACHERS_INPUTS, TEACHER)[None]])

    def found(place: int, step: float) -> Objectives:
        moved = distances.clone()
        moved[0, :, place] += step
        return objectives(layer, added_rows(sides, moved), target, [0])

    slopes = found(0, 0.0).slopes[0]
    for place in range(M):
        rise = (found(place, 1e-6).values - found(place, -1e-6).values)[0] / 2e-6
        torch.testing.assert_close(slopes[:, place], rise, rtol=1e-6, atol=1e-9)


def several(target: str) -> tuple[list[Tensor], list[Tensor], Optional[int]]:
    """Features of a Student, two Bases and, if there is one, the target."""
    references, inputs = [*REFERENCES, features(M, 6, 7)], [*INPUTS, features(N, 6, 8)]
    if target == "none":
        return references, inputs, None
    return [*references, TEACHER], [*inputs, TEACHERS_INPUTS], 3


@pytest.mark.parametrize("target", ["teacher", "none"])
def test_two_models_removed_from_a_batch(target):
    """Values and slopes are those of the definition, with one model removed after the other was removed from both."""
    references, _, place = several(target)
    geometries = torch.stack([geometry_of(each).matrix for each in references])
    noise = torch.zeros(len(references), dtype=F64)
    found = population_objectives(geometries, noise, [(0, (1, 2)), (2, (0,))], place)
    distances = torch.cdist(references[0], references[0], compute_mode="donot_use_mm_for_euclid_dist").requires_grad_()
    first, second = geometry_of(references[1]), geometry_of(references[2])
    rest = remove(remove(center((distances + distances.T) / 2), first), remove(second, first))
    value = rest.matrix.amax(1).sum() if place is None else correlation(rest, geometry_of(TEACHER))
    (slope,) = torch.autograd.grad(value, distances)
    torch.testing.assert_close(found.values[0], value.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.slopes[0], slope.fill_diagonal_(0), rtol=1e-9, atol=1e-13)
    pair = [2, 0, 3][: 2 + (place is not None)]
    alone = population_objectives(geometries[pair], noise[pair], PAIR[:1], place and 2)
    torch.testing.assert_close(found.slopes[1], alone.slopes[0])


@pytest.mark.parametrize("target", ["teacher", "none"])
def test_two_models_removed_from_added_inputs(target):
    """Each added input in front of the references, and everything computed anew."""
    references, inputs, place = several(target)
    geometries = torch.stack([geometry_of(each).matrix for each in references])
    sides = [ReferenceFeatures.of(x, torch.cdist(x, x)) for x in references]
    added = added_rows(sides, torch.stack([torch.cdist(x, y) for x, y in zip(inputs, references)]))
    noise = torch.zeros(added.raw_squares.shape, dtype=F64)
    population = PopulationGram.of(geometries, noise[0], [(0, (1, 2))], place)
    found = reference_objectives(population, added.rows, noise)
    for i in range(N):
        whole = [torch.cat([x[i : i + 1], known]) for x, known in zip(inputs, references)]
        distances = torch.cdist(whole[0], whole[0], compute_mode="donot_use_mm_for_euclid_dist").requires_grad_()
        first, second = geometry_of(whole[1]), geometry_of(whole[2])
        rest = remove(remove(center((distances + distances.T) / 2), first), remove(second, first))
        value = rest.matrix[0].amax() if place is None else correlation(rest, geometry_of(whole[3]))
        (slope,) = torch.autograd.grad(value, distances)
        torch.testing.assert_close(found.values[0, i], value.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.slopes[0, i], slope[0, 1:] + slope[1:, 0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", ["batch", "reference"])
@pytest.mark.parametrize("target", ["labels", "none"])
def test_models_that_hardly_differ_keep_their_digits(target, mode):
    """What is left points the same way however small the difference is; correlations and their slopes follow the direction."""

    def found(difference: float) -> Objectives:
        references = (REFERENCES[0], REFERENCES[0] + difference * features(M, 4, 9))
        inputs = (INPUTS[0], INPUTS[0] + difference * features(N, 4, 10))
        if mode == "batch":
            return batch(*references, label_geometry(LABELS, None, F64) if target == "labels" else None)
        layer = LayerReference.of(references, LABELS if target == "labels" else None, None)
        added = added_rows(layer.features, torch.stack([torch.cdist(x, side.points) for x, side in zip(inputs, layer.features)]))
        return objectives(layer, added, target)

    larger, smaller = found(1e-5), found(1e-7)
    if target == "labels":
        torch.testing.assert_close(smaller.values, larger.values, rtol=0, atol=1e-3)
        scale = larger.slopes.abs().max()
        torch.testing.assert_close(smaller.slopes / scale / 100, larger.slopes / scale, rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(smaller.values * 1e7, larger.values * 1e5, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(smaller.slopes, larger.slopes, rtol=0, atol=1e-3)
