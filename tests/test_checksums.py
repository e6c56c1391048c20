"""Checksums of tensors are those of their bits, on every device and in every memory layout."""

import pytest
import torch
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._utils.checksums import checksum


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones((), dtype=torch.int64),
        torch.ones(5, dtype=torch.bool),
        torch.ones(2, 3, 4, dtype=torch.float16),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3, dtype=torch.complex128),
        torch.ones(2, 3).expand(5, 2, 3),
        torch.full((2, 3), 1 + 1j).conj().imag,
        torch.ones(6, 4)[::2, 1:],
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_tensors_of_any_kind(tensor: Tensor):
    found = checksum([tensor])
    assert found == checksum([tensor.clone()])
    assert found != checksum([tensor * 0])
    assert found != checksum([tensor[None]])


def test_type_and_order_count():
    ones, zeros = torch.ones(3), torch.zeros(3)
    assert checksum([ones, zeros]) != checksum([zeros, ones])
    assert checksum([zeros]) != checksum([zeros.int()])


def test_tensors_without_entries_or_values():
    lazy = nn.LazyLinear(3).weight
    found = [checksum(tensors) for tensors in ([], [torch.empty(0, 3)], [torch.empty(3, 0)], [lazy])]
    assert len(set(found)) == 4


def test_rows_are_summed_exactly_whatever_their_order_in_memory():
    weights = torch.randn(64, 48, 3, 3, generator=torch.Generator().manual_seed(0))
    other = weights.to(memory_format=torch.channels_last)
    assert other.stride() != weights.stride()
    assert checksum([other]) == checksum([weights])


ODD = {
    "meta": lambda shape: torch.empty(shape, device="meta"),
    "quantized": lambda shape: torch.quantize_per_tensor(torch.randn(shape), 0.1, 0, torch.qint8),
    "sparse": lambda shape: torch.ones(shape).to_sparse(),
    "sparse rows": lambda shape: torch.ones(shape).to_sparse_csr(),
}


@pytest.mark.parametrize("kind", ODD)
def test_of_tensors_without_plain_values_the_shape_counts(kind):
    assert checksum([ODD[kind]((4, 2))]) == checksum([ODD[kind]((4, 2))]) != checksum([ODD[kind]((2, 4))])


def test_integers_as_the_only_buffer_of_a_model():
    class Windowed(nn.Module):
        """Its only buffer is an index, as in windowed attention."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 1)
            self.register_buffer("index", torch.arange(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, self.index]

    unicam = UniCAM(Windowed(1).eval(), "conv", Windowed(2).eval())
    x, y = torch.randn(30, 3, 4, 4), torch.arange(30) % 3
    population = unicam.reference(x, y)
    unicam.attribute(x[:2], y[:2], reference=population)
    unicam.base_func.index.copy_(torch.tensor([1, 0, 2, 3]))
    with pytest.raises(ValueError, match="buffers"):
        unicam.attribute(x[:2], y[:2], reference=population)


def test_tensors_whose_writes_are_counted_are_read_again_where_one_was_replaced_or_written_to(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr("captum_kd._utils.checksums._counts_writes", lambda device: True)
    shared, old = torch.randn(3, 3), torch.randn(3)
    before = checksum([shared, old])
    assert checksum([shared, old.clone()]) == before
    assert checksum([shared, torch.randn(3)]) != before
    assert checksum([shared, old]) == before
    old.add_(1)
    assert checksum([shared, old]) != before
