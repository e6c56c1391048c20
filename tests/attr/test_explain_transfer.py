"""Maps of all pairs: each equals what UniCAM and Grad-CAM give on their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam

from captum_kd import UniCAM
from captum_kd.attr import explain_transfer
from models import ConvNet

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(6, 3, 12, 12, generator=GENERATOR), torch.arange(6) % 3
KNOWN, KNOWN_LABELS = torch.rand(30, 3, 12, 12, generator=GENERATOR), torch.arange(30) % 3
REFERENCE = {"reference_inputs": KNOWN, "reference_labels": KNOWN_LABELS}
MODELS = [ConvNet(seed=i).eval() for i in range(4)]
STUDENT, BASE, BASE_2, TEACHER = MODELS


def explained(**changes: Any) -> Any:
    given = {"student": {"kd": STUDENT}, "base": {"b 1": BASE, "b 2": BASE_2}, "layers": ["conv2", "conv3"], "inputs": IMAGES}
    return explain_transfer(**{**given, "labels": LABELS, "images": IMAGES, "teacher": TEACHER, **REFERENCE, **changes})


def by_hand(student: Any, base: Any, layer: str, images: Any = IMAGES, **teacher: Any) -> Any:
    unicam = UniCAM(student, layer, base, **teacher)
    population = unicam.reference(KNOWN, KNOWN_LABELS)
    return unicam.attribute_transfer(images, student(images).argmax(1), reference=population, n_steps=16)


def test_each_map_is_that_of_the_single_call() -> None:
    found = explained()
    classes = STUDENT(IMAGES).argmax(1)
    for layer in ("conv2", "conv3"):
        for name, base, other in (("b 1", BASE, BASE_2), ("b 2", BASE_2, BASE)):
            maps, pair = found.maps[layer]["kd", name], by_hand(STUDENT, base, layer)
            expected = {
                "net": pair.net, "distilled": pair.distilled, "residual": pair.residual,
                "net of two Bases": by_hand(other, base, layer).net,
                "net by the Teacher": by_hand(STUDENT, base, layer, teacher_func=TEACHER, teacher_layer=layer).net,
                "Grad-CAM Student": LayerGradCam(STUDENT, STUDENT.get_submodule(layer)).attribute(IMAGES, classes),
                "Grad-CAM Base": LayerGradCam(base, base.get_submodule(layer)).attribute(IMAGES, base(IMAGES).argmax(1)),
            }  # fmt: skip
            assert set(maps) == set(expected)
            for title, values in expected.items():
                torch.testing.assert_close(maps[title], values.detach(), rtol=1e-4, atol=1e-7)
    assert set(found.predictions) == {"kd", "b 1", "b 2", "teacher"}
    assert torch.equal(found.predictions["kd"], STUDENT(IMAGES).argmax(1))
    assert torch.equal(found.labels, LABELS) and len(found) == 6


def test_batches_change_nothing_and_models_stay_as_they_were() -> None:
    before = copy.deepcopy(STUDENT.state_dict())
    whole, parts = explained(internal_batch_size=None), explained(internal_batch_size=2)
    for layer, pairs in whole.maps.items():
        for pair, maps in pairs.items():
            for title, values in maps.items():
                torch.testing.assert_close(parts.maps[layer][pair][title], values, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in STUDENT.state_dict().items())
    assert all(parameter.grad is None for model in MODELS for parameter in model.parameters())
    assert not any(module._forward_hooks for model in MODELS for module in model.modules())


def test_without_a_second_base_there_is_no_null_and_without_a_teacher_no_share() -> None:
    found = explained(base=BASE, teacher=None, layers="conv3")
    assert set(found.maps["conv3"]["kd", "base"]) == {"net", "distilled", "residual", "Grad-CAM Student", "Grad-CAM Base"}


def test_models_may_have_layers_and_inputs_of_their_own() -> None:
    bright = IMAGES * 2
    found = explained(
        base=BASE, teacher=None, layers={"last": {"kd": "conv3", "base": "conv2"}},
        inputs={"student": IMAGES, "base": bright}, reference_inputs={"student": KNOWN, "base": KNOWN * 2},
    )  # fmt: skip
    unicam = UniCAM(STUDENT, "conv3", BASE, "conv2")
    known, shown = {"student": KNOWN, "base": KNOWN * 2}, {"student": IMAGES, "base": bright}
    population = unicam.reference(known, KNOWN_LABELS)
    pair = unicam.attribute_transfer(shown, STUDENT(IMAGES).argmax(1), reference=population, n_steps=16)
    maps = found.maps["last"]["kd", "base"]
    torch.testing.assert_close(maps["net"], pair.net.detach())
    torch.testing.assert_close(
        maps["Grad-CAM Base"], LayerGradCam(BASE, BASE.conv2).attribute(bright, BASE(bright).argmax(1)).detach()
    )


def test_maps_may_explain_given_classes() -> None:
    found = explained(base=BASE, teacher=None, layers="conv3", target=LABELS)
    unicam = UniCAM(STUDENT, "conv3", BASE)
    pair = unicam.attribute_transfer(IMAGES, LABELS, reference=unicam.reference(KNOWN, KNOWN_LABELS), n_steps=16)
    maps = found.maps["conv3"]["kd", "base"]
    torch.testing.assert_close(maps["net"], pair.net.detach(), rtol=1e-4, atol=1e-7)
    expected = LayerGradCam(STUDENT, STUDENT.conv3).attribute(IMAGES, STUDENT(IMAGES).argmax(1))
    torch.testing.assert_close(maps["Grad-CAM Student"], expected.detach())
    assert found.predictions is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": {"kd": BASE}}, ValueError, "same names"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": 3}, TypeError, "layers must be"),
        ({"layers": "conv9"}, ValueError, "conv9"),
        ({"layers": {"last": {"kd": "conv3"}}}, ValueError, "no layer of base 'b 1'"),
        ({"student": "kd.pt"}, TypeError, "student must be callable"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"reference_inputs": KNOWN[:2], "reference_labels": KNOWN_LABELS[:2]}, ValueError, "population|reference"),
        ({"images": None}, ValueError, "images or tokens"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explained(**changes)
