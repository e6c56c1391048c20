"""Layouts are found in the first pass over inputs of a shape, for which all modules get hooks, and used in the next ones."""

from __future__ import annotations

import pickle
from typing import Callable

import pytest
import torch
from models import ConvNet, images, labels

from captum_kd import UniCAM

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:In training mode")


@pytest.fixture
def hooked(monkeypatch) -> Callable[[], int]:
    """Counts how often all modules were given hooks since the last call."""
    calls = []
    register = torch.nn.modules.module.register_module_forward_hook
    monkeypatch.setattr(
        torch.nn.modules.module, "register_module_forward_hook", lambda hook: calls.append(hook) or register(hook)
    )

    def count() -> int:
        found = len(calls)
        calls.clear()
        return found

    return count


def pair(make=ConvNet) -> UniCAM:
    return UniCAM(make(width=4, seed=1).eval(), "conv2", make(width=4, seed=2).eval())


def test_modules_are_hooked_once_for_a_shape(hooked):
    unicam = pair()
    first = unicam.attribute_transfer(images(8), labels(8))
    assert hooked() == 2
    again = unicam.attribute_transfer(images(8), labels(8))
    assert hooked() == 0
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    unicam.attribute_transfer(images(9), labels(9))
    assert hooked() == 2


def test_single_inputs_are_hooked_once_beside_a_population(hooked):
    unicam = pair()
    population = unicam.reference(images(8), labels(8))
    hooked()
    for expected in (2, 0):
        unicam.attribute_transfer(images(1), labels(1), reference=population)
        assert hooked() == expected


def test_further_arguments_may_choose_among_modules(hooked):
    class Chooses(ConvNet):
        def forward(self, x, wide=False):
            return super().forward(x)

    unicam = pair(Chooses)
    for _ in range(2):
        unicam.attribute_transfer(images(8), labels(8), additional_forward_args=(True,))
        assert hooked() == 2


def test_another_mode_may_choose_other_modules(hooked):
    unicam = pair()
    unicam.attribute_transfer(images(8), labels(8))
    unicam.forward_func.train()
    hooked()
    unicam.attribute_transfer(images(8), labels(8))
    assert hooked() == 1


def test_a_bound_method_is_known_by_its_model(hooked):
    student, base = ConvNet(width=4, seed=1).eval(), ConvNet(width=4, seed=2).eval()
    unicam = UniCAM(student.forward, student.conv2, base.forward, base.conv2)
    for expected in (2, 0):
        unicam.attribute_transfer(images(8), labels(8))
        assert hooked() == expected


def test_layouts_of_many_shapes_are_forgotten(monkeypatch):
    monkeypatch.setattr("captum_kd._models.extraction._MOST_SHAPES", 3)
    unicam = pair()
    for n in range(8, 16):
        unicam.attribute_transfer(images(n), labels(n))
        assert all(1 <= len(extractor._found) <= 3 for extractor in unicam._removal.models.values())


def test_layouts_are_copied_along(hooked):
    unicam = pair()
    expected = unicam.attribute(images(8), labels(8))
    again = pickle.loads(pickle.dumps(unicam))
    hooked()
    assert torch.equal(again.attribute(images(8), labels(8)), expected)
    assert hooked() == 0
