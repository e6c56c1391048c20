"""Values of the objectives: those of the definition, written out over the population with the one input added to it."""

from typing import Optional

import pytest
import torch
from torch import Tensor

from captum_kd.attr.objective import population_objective, reference_objective
from captum_kd.attr.reference import LayerReference, added_features
from captum_kd.distance import Geometry, center, correlation, geometry, remove
from captum_kd.labels import label_geometry

M, N, CLASSES = 11, 3, 3
F64 = torch.float64
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
        *references, LABELS if target == "labels" else None, None, teacher[0] if target == "teacher" else None
    )
    rows = [added_features(side, x) for side, x in zip(layer.features, inputs)]
    aim = None
    if target == "labels":
        aim = layer.added_labels(MORE_LABELS, None, direction)
    elif target == "teacher":
        assert layer.teacher is not None
        aim = added_features(layer.teacher, teacher[1])
    return reference_objective(layer.pairings[direction], rows[direction], rows[1 - direction], aim)


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


@pytest.mark.parametrize("target", ["labels", "none"])
def test_of_a_batch_that_is_its_own_population(target):
    own, other = geometry(REFERENCES[0]), geometry(REFERENCES[1])
    aim: Optional[Geometry] = label_geometry(LABELS, None, F64) if target == "labels" else None
    rest = remove(geometry_of(REFERENCES[0]), geometry_of(REFERENCES[1]))
    expected = rest.matrix.amax(1).sum() if aim is None else correlation(rest, aim)
    torch.testing.assert_close(population_objective(own, other, aim), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", ["labels", "none"])
def test_of_a_batch_of_which_nothing_is_left(target):
    x = REFERENCES[0].clone().requires_grad_()
    aim = label_geometry(LABELS, None, F64) if target == "labels" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left for the batch"):
        value = population_objective(geometry(x), geometry(2 * REFERENCES[0]), aim)
    value.backward()
    assert float(value.detach()) == 0 and x.grad is not None and x.grad.count_nonzero() == 0


@pytest.mark.parametrize("whose", ["labels", "Teacher"])
def test_of_a_batch_whose_target_is_the_removed_geometry(whose):
    x = REFERENCES[0].clone().requires_grad_()
    with pytest.warns(UserWarning, match=f"Nothing of the geometry of the {whose} is left for the batch"):
        value = population_objective(geometry(x), geometry(REFERENCES[1]), geometry(3 * REFERENCES[1]), whose)
    value.backward()
    assert float(value.detach()) == 0 and x.grad is not None and x.grad.count_nonzero() == 0


def test_the_other_model_and_the_target_get_no_gradient():
    own, other = (x.clone().requires_grad_() for x in REFERENCES)
    population_objective(geometry(own), geometry(other), geometry(TEACHER)).backward()
    assert own.grad is not None and own.grad.count_nonzero() > 0 and other.grad is None
