"""Where only rounding is left to follow, gradients are 0 and no noise is shown as a map."""

import warnings
from typing import Optional

import pytest
import torch
from feature_gradients import added_gradients, batch_gradients
from reference import literal
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.feature_path import Integral, Steps
from captum_kd.attr.gradients import ScaledFeatures, Target, reference_gradients
from captum_kd.attr.layer_reference import LayerReference
from captum_kd.distance.labels import label_geometry

N, ADDED = 40, 8
CLASSES = torch.arange(N) % 3


def gaussian(seed: int) -> Tensor:
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(seed))


def of_classes() -> Tensor:
    """Features whose geometry is that of one-hot labels, but for the rounding of float32."""
    return torch.nn.functional.one_hot(CLASSES, 6).float() * 0.3 + 0.1


def gradients(own: Tensor, other: Tensor, teacher: Optional[Tensor], referenced: bool) -> Tensor:
    sets = [own, other, *([] if teacher is None else [teacher])]
    if not referenced:
        student, base, *third = (ScaledFeatures(each, largest_of(each)) for each in sets)
        labels = None if teacher is not None else label_geometry(CLASSES, None, torch.float64)
        return batch_gradients((student, base), third[0] if third else None, labels, both=False)[0]
    known = [each[ADDED:] for each in sets]
    student, base, *third = (ScaledFeatures(each[:ADDED], largest_of(each[:ADDED])) for each in sets)
    layer = LayerReference.of(known[:2], None if third else CLASSES[ADDED:], None, *known[2:])
    rows = None if third else layer.added_labels(CLASSES[:ADDED], None)
    return added_gradients(layer, 0, (student, base), third[0] if third else None, rows, both=False)[0]


@pytest.mark.parametrize("referenced", [False, True])
def test_an_objective_at_its_end_has_no_slope(referenced):
    """Beside a Base without geometry, features that are the Teacher's up to scale correlate at 1."""
    own = gaussian(1)
    constant = torch.ones_like(own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gradients(own, constant, 4 * own, referenced)
        elsewhere = gradients(own, constant, own + gaussian(2) / 1000, referenced)
    assert found.abs().max() == 0
    assert elsewhere.abs().amax(1).min() > 0


@pytest.mark.parametrize("referenced", [False, True])
def test_labels_that_are_the_removed_geometry_but_for_float32(referenced):
    with pytest.warns(UserWarning, match="Nothing of the geometry of the labels is left"):
        found = gradients(gaussian(1), of_classes(), None, referenced)
    assert found.abs().max() == 0


@pytest.mark.parametrize("referenced", [False, True])
def test_labels_that_are_nearly_the_removed_geometry_are_followed(referenced):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gradients(gaussian(1), of_classes() + gaussian(2) / 1000, None, referenced)
    assert found.abs().amax(1).min() > 0


def test_a_path_that_begins_far_away_with_rounding_alone_gains_the_whole_objective():
    """Far from the population, distances have the rounding of their own size, not of the population's."""
    base = gaussian(1).double()
    far = torch.full((1, 6), 2000.0, dtype=torch.float64)
    base[:1] = far / 2 + 1e-9 * gaussian(2)[:1]  # in the Base the input is where it begins in the Student, up to rounding
    student = 2 * base
    student[:1] = gaussian(3)[:1]
    layer = LayerReference.of([student[1:], base[1:]], CLASSES[1:], None)
    rows = layer.added_labels(CLASSES[:1], None)
    sets = [ScaledFeatures(each[:1], largest_of(each[:1])) for each in (student, base)]
    integral = Integral(Steps.gauss_legendre(8, has_start=True), [far[0]])
    found = reference_gradients(layer, [0, 1], sets, [0], Target(labels=rows), integral)[0]
    objective = literal.several_bases_objective(student, [base], torch.eye(3, dtype=torch.float64)[CLASSES])
    torch.testing.assert_close(found.gains, objective[None], rtol=1e-9, atol=0)
