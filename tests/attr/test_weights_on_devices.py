"""Weights recognized without being read, as on devices that work behind the host: of every type, replaced, spread out."""

from typing import Callable

import pytest
import torch
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.attr.fingerprints import digest_of_tensors


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captum_kd.attr.fingerprints.is_async_device", lambda device: True)


class Windowed(nn.Module):
    """Its only buffer is an index, as in windowed attention."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("index", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, self.index]


def test_models_whose_buffers_are_all_integers():
    unicam = UniCAM(Windowed(1).eval(), "conv", Windowed(2).eval())
    x, y = torch.randn(30, 3, 4, 4), torch.arange(30) % 3
    population = unicam.reference(x, y)
    unicam.attribute(x[:2], y[:2], reference=population)
    unicam.base_func.index.copy_(torch.tensor([1, 0, 2, 3]))
    with pytest.raises(ValueError, match="buffers"):
        unicam.attribute(x[:2], y[:2], reference=population)


def test_a_replaced_tensor_while_the_one_before_lives_on():
    shared, old = torch.randn(3, 3), torch.randn(3)
    before = digest_of_tensors([shared, old])
    assert digest_of_tensors([shared, old.clone()]) == before
    assert digest_of_tensors([shared, torch.randn(3)]) != before
    assert digest_of_tensors([shared, torch.randn(4)]) != before
    assert digest_of_tensors([shared]) != before
    assert digest_of_tensors([shared, old]) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_change_through_data_shows_in_half_types(dtype):
    weights = nn.Parameter(torch.linspace(-1, 1, 1000).to(dtype))
    before = digest_of_tensors([weights])
    weights.data[3] += 0.01
    assert digest_of_tensors([weights]) != before


TENSORS: dict[str, Callable[[], list[Tensor]]] = {
    "integers": lambda: [torch.arange(4)],
    "8-bit floats": lambda: [torch.randn(3), torch.randn(3).to(torch.float8_e4m3fn)],
    "mixed": lambda: [torch.randn(3).double(), torch.randn(3).half(), torch.randn(2), torch.ones(2, dtype=torch.bool)],
    "empty": lambda: [torch.empty(0), torch.randn(2)],
}


@pytest.mark.parametrize("kind", TENSORS)
def test_the_digest_is_the_one_of_tensors_that_are_read(kind, monkeypatch):
    tensors = TENSORS[kind]()
    found = [digest_of_tensors(tensors) for _ in range(2)]
    monkeypatch.setattr("captum_kd.attr.fingerprints.is_async_device", lambda device: False)
    assert found == [digest_of_tensors(tensors)] * 2
