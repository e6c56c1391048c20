"""Maps on devices that work behind the host, with the way taken there on the CPU: the same maps, models told apart as well."""

from typing import Any, Callable

import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._utils import checksums
from captum_kd._utils.checksums import checksum

MODULES = ("distance.pairwise", "attr.gradients")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        for module in MODULES:
            monkeypatch.setattr(f"captum_kd.{module}.is_async_device", lambda device: True)
        monkeypatch.setattr(checksums, "_counts_writes", lambda device: True)

    return switch


@pytest.fixture
def unicam() -> UniCAM:
    return UniCAM(ConvNet(width=4, seed=1).eval(), "conv2", ConvNet(width=4, seed=2).eval())


@pytest.mark.parametrize("copies", [0, 3])
@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("target", [True, False])
def test_maps_are_those_of_the_cpu(queue, unicam, referenced, target, copies):
    x, y = images(20, seed=4), labels(20) if target else None
    x[:copies] = x[copies : 2 * copies]
    population = unicam.reference(images(40, seed=5), labels(40)) if referenced else None
    if copies and referenced:
        population = unicam.reference(torch.cat([x[:3], images(37, seed=5)]), labels(40))
    expected = unicam.attribute_transfer(x, y, reference=population)
    queue()
    for found, known in zip(unicam.attribute_transfer(x, y, reference=population), expected):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5 * float(known.abs().max()))


def test_a_population_is_refused_when_weights_have_changed(queue, unicam):
    queue()
    population = unicam.reference(images(40, seed=5), labels(40))
    unicam.attribute(images(3), 0, reference=population)
    with torch.no_grad():
        unicam.base_func.conv1.weight[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="weights"):
        unicam.attribute(images(3), 0, reference=population)


def swapped(model: nn.Module) -> None:
    model.weight = nn.Parameter(model.weight.detach().clone()[[1, 0]])


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda model: model.weight.detach().neg_(),
    "one entry": lambda model: model.weight.detach()[0, 0].add_(1e-6),
    "another tensor of the same norm": swapped,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_have_another_checksum(queue, change):
    queue()
    model = nn.Linear(3, 2)
    before = checksum(list(model.parameters()))
    assert checksum(list(model.parameters())) == before
    CHANGES[change](model)
    assert checksum(list(model.parameters())) != before


def test_weights_that_are_as_they_were_are_not_read_again(queue, monkeypatch):
    tensors = [torch.randn(3, 4), torch.arange(5), torch.randn(2)]
    expected = checksum(tensors)
    queue()
    read: list[object] = []
    as_bits = checksums._as_bits
    monkeypatch.setattr(checksums, "_as_bits", lambda each: read.append(each) or as_bits(each))
    assert [checksum(tensors) for _ in range(3)] == [expected] * 3
    assert len(read) == 3
    other: list[Tensor] = [each.clone() for each in tensors]
    assert checksum(other) == expected and len(read) == 6


def test_nothing_is_kept_of_models_that_are_gone(queue):
    queue()
    before = len(checksums._SEEN)
    tensors = [torch.randn(3)]
    checksum(tensors)
    assert len(checksums._SEEN) == before + 1
    tensors.clear()
    assert len(checksums._SEEN) == before
