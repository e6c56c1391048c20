"""Gradients at the features: those of the definition by autograd, of any type and size, alone or in both directions."""

from typing import Optional

import pytest
import torch
from feature_gradients import added_gradients, batch_gradients
from reference.geometries import correlation, remove
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.gradients import ScaledFeatures
from captum_kd.attr.layer_reference import AddedRows, LayerReference
from captum_kd.distance.centering import Geometry, center
from captum_kd.distance.labels import label_geometry

N, M = 12, 9
F64 = torch.float64
SIZES = pytest.mark.parametrize("size", [2.0**-40, 1.0, 2.0**40])
TARGETS = pytest.mark.parametrize("target", ["labels", "Teacher", "none"])


def random(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, dtype=F64, generator=torch.Generator().manual_seed(seed))


def measured(*sets: Tensor) -> tuple[ScaledFeatures, ...]:
    return tuple(ScaledFeatures(each, largest_of(each)) for each in sets)


def geometry_of(x: Tensor) -> Geometry:
    differences = x[:, None] - x
    squares = differences.square().sum(2)
    return center(torch.where(squares > 0, squares.where(squares > 0, torch.ones(())).sqrt(), 0.0))


def rest_of(own: Tensor, other: Tensor) -> Geometry:
    return remove(geometry_of(own), geometry_of(other))


def of_batch(own: Tensor, other: Tensor, aim: Optional[Geometry]) -> Tensor:
    own = own.double().requires_grad_()
    rest = rest_of(own, other.double())
    value = rest.matrix.amax(1).sum() if aim is None else correlation(rest, aim)
    return torch.autograd.grad(value, own)[0]


def aims(target: str, labels: Tensor, teacher: Tensor) -> Optional[Geometry]:
    if target == "none":
        return None
    return label_geometry(labels, None, F64) if target == "labels" else geometry_of(teacher)


@SIZES
@TARGETS
@pytest.mark.parametrize("both", [False, True])
def test_of_a_batch(target, both, size):
    own, other, teacher = random(N, 4, 1), random(N, 5, 2), random(N, 3, 3)
    labels = torch.arange(N) % 3
    aim = aims(target, labels, teacher)
    found = batch_gradients(
        measured(size * own, other / size),
        measured(size * teacher)[0] if target == "Teacher" else None,
        label_geometry(labels, None, F64) if target == "labels" else None,
        both,
    )
    # A correlation does not grow with the features; the objective without a target does, and its gradient stays.
    growth = 1.0 if target == "none" else size
    expected = [of_batch(own, other, aim) / growth, of_batch(other, own, aim) * growth][: 1 + both]
    assert len(found) == len(expected)
    for gradient, known in zip(found, expected):
        torch.testing.assert_close(gradient, known, rtol=1e-9, atol=1e-12 * float(known.abs().max()))


@SIZES
@TARGETS
@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("both", [False, True])
def test_of_inputs_added_to_a_population(target, both, direction, size):
    """Each of them in front of the references on its own, and differentiated by itself."""
    references = random(M, 4, 1), random(M, 5, 2)
    inputs = random(3, 4, 3), random(3, 5, 4)
    teachers = random(M, 2, 5), random(3, 2, 6)
    known_labels, labels = torch.arange(M) % 3, torch.arange(3)
    layer = LayerReference.of(
        (size * references[0], references[1] / size),
        known_labels if target == "labels" else None,
        None,
        size * teachers[0] if target == "Teacher" else None,
    )
    sets = measured(size * inputs[0], inputs[1] / size)
    rows = layer.added_labels(labels, None) if target == "labels" else None
    teacher = measured(size * teachers[1])[0] if target == "Teacher" else None
    pair = (sets[direction], sets[1 - direction])
    found = added_gradients(layer, direction, pair, teacher, rows, both)
    assert len(found) == 1 + both
    for gradient, model in zip(found, (direction, 1 - direction)):
        expected = torch.zeros_like(inputs[model])
        for place in range(3):
            own, other = (
                torch.cat([inputs[each][place : place + 1], references[each]]) for each in (model, 1 - model)
            )
            own.requires_grad_()
            aim = aims(
                target,
                torch.cat([labels[place : place + 1], known_labels]),
                torch.cat([teachers[1][place : place + 1], teachers[0]]),
            )
            rest = rest_of(own, other)
            value = rest.matrix[0].amax() if aim is None else correlation(rest, aim)
            (slope,) = torch.autograd.grad(value, own)
            expected[place] = slope[0]
        expected *= 1.0 if target == "none" else (1 / size, size)[model]
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize(("n", "digits"), [(64, 1e-6), (65, 1e-3)])
def test_of_few_inputs_in_float32_have_all_digits_of_float32(n, digits, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 64)
    own, other = random(n, 40, 1).float() + 30, random(n, 50, 2).float()
    labels = label_geometry(torch.arange(n) % 3, None, F64)
    found = batch_gradients(measured(own, other), None, labels, True)
    for gradient, expected in zip(found, (of_batch(own, other, labels), of_batch(other, own, labels))):
        assert gradient.dtype == torch.float32
        error = (gradient.double() - expected).norm() / expected.norm()
        assert float(error) < digits


def test_of_a_population_that_has_no_geometry_of_the_other_model():
    """Inputs that are all equally far apart, up to rounding: nothing is taken away, and no rounding is magnified."""
    turned = torch.linalg.qr(random(M, M, 7))[0]
    assert 0 < float(geometry_of(turned).matrix.norm()) < 1e-14 * M
    layer = LayerReference.of((random(M, 4, 1), turned), torch.arange(M) % 3, None)
    (whole, other, _), (less, _, _) = layer.gram.basis[:, 0]
    assert whole == 1 and other == 0 and less != 0


def test_labels_may_be_elsewhere_in_another_type():
    own, other = random(N, 4, 1), random(N, 5, 2)
    labels = label_geometry(torch.arange(N) % 3, None, F64)
    rounded = Geometry(labels.matrix.float(), labels.raw_norm.float())
    expected = batch_gradients(measured(own, other), None, labels, True)
    for found, known in zip(batch_gradients(measured(own, other), None, rounded, True), expected):
        assert found.dtype == F64
        torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-7)
    layer = LayerReference.of((random(M, 4, 1), random(M, 5, 2)), torch.arange(M) % 3, None)
    rows = layer.added_labels(torch.arange(3), None)
    few = measured(random(3, 4, 3), random(3, 5, 4))
    precise = added_gradients(layer, 0, few, None, rows, False)[0]
    found = added_gradients(layer, 0, few, None, AddedRows(*(each.float() for each in rows)), False)[0]
    assert found.dtype == F64
    torch.testing.assert_close(found, precise, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["labels", "Teacher"])
def test_a_population_of_float32_is_measured_in_float64(target):
    references, teacher = (random(M, 4, 1).float(), random(M, 5, 2).float()), random(M, 2, 5).float()
    labels = torch.arange(M) % 3
    layer = LayerReference.of(
        references, labels if target == "labels" else None, None, teacher if target == "Teacher" else None
    )
    aim = layer.labels if target == "labels" else layer.teacher
    assert aim is not None
    for side in (*layer.features, aim):
        assert {each.dtype for each in (side.shift, side.raw_square)} == {F64}
    assert {layer.gram.basis.dtype, layer.gram.gram.dtype} == {F64}
    p, t = geometry_of(references[0].double()), aims(target, labels, teacher.double())
    assert t is not None
    torch.testing.assert_close(layer.gram.gram[1, 1, 1], p.matrix.square().sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.gram.gram[0, 2, 2], t.matrix.square().sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(aim.raw_square, t.raw_norm.square(), rtol=1e-5, atol=0)


@TARGETS
@pytest.mark.parametrize("copies", [0, 2])
@pytest.mark.parametrize("referenced", [False, True])
def test_devices_that_work_behind_the_host_give_the_same(monkeypatch, referenced, copies, target):
    """Of so wide features that no pair is close, or some are copies: then every pair is looked at after all."""
    width, labels = 500, torch.arange(N) % 3
    own, other, teacher = (random(N, width + seed, seed) for seed in range(3))
    known = [random(M, width + seed, seed + 5) for seed in range(3)]
    for each, there in zip((own, other, teacher), known):
        each[:copies] = there[:copies] if referenced else each[copies : 2 * copies]
    aim = label_geometry(labels, None, F64) if target == "labels" else None
    layer = LayerReference.of(
        known[:2], torch.arange(M) % 3 if target == "labels" else None, None, known[2] if target == "Teacher" else None
    )
    rows = layer.added_labels(labels, None) if target == "labels" else None

    def found() -> list[Tensor]:
        last = measured(teacher)[0] if target == "Teacher" else None
        pair = measured(own, other)
        if referenced:
            return added_gradients(layer, 0, (pair[0], pair[1]), last, rows, True)
        return batch_gradients((pair[0], pair[1]), last, aim, True)

    expected = found()
    for module in ("attr.gradients", "distance.pairwise"):
        monkeypatch.setattr(f"captum_kd.{module}.is_async_device", lambda device: True)
    for gradient, known_one in zip(found(), expected):
        torch.testing.assert_close(gradient, known_one, rtol=1e-8, atol=1e-11)


def test_a_population_of_labels_that_are_nearly_all_alike_gets_its_geometry_from_the_input():
    """All distinct and nearly as far from each other: what the added one brings counts, not what it takes."""
    embeddings = torch.eye(5, dtype=F64) + 1e-2 * random(5, 5, 1)
    layer = LayerReference.of((random(5, 4, 1), random(5, 3, 2)), torch.arange(5), embeddings)
    assert layer.labels is not None
    rows = layer.added_labels(torch.tensor([0, 3]), embeddings)
    assert bool((rows.rows.square().sum(2) > 10 * layer.gram.gram[0, 2, 2]).all())
