"""Inputs that were given more than once are counted, number by number, whatever their type and on any number of threads."""

import pytest
import torch

from captum_kd.metrics.report.duplicates import DuplicateCounter

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def counted(*batches: tuple[torch.Tensor, ...]) -> int:
    duplicates = DuplicateCounter()
    for batch in batches:
        duplicates.add(batch)
    assert duplicates.seen == sum(len(batch[0]) for batch in batches)
    return duplicates.count


def distinct(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of the binary digits of their numbers."""
    return (torch.arange(n)[:, None] >> torch.arange(8) & 1).to(dtype).view(n, 2, 4)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_copies_are_counted_within_batches_and_across(monkeypatch, threads, dtype):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x = distinct(9, dtype)
    assert counted((x,)) == 0
    assert counted((x[:5],), (x[5:],)) == 0
    assert counted((x,), (x[:2],)) == 4
    assert counted((torch.cat([x, x[3:4], x[3:4]]),)) == 3


def test_an_input_is_a_copy_where_all_its_tensors_are():
    x, y = distinct(6), distinct(6).flip(0).int()
    assert counted((x[[0, 0, 1]], y[[0, 1, 1]])) == 0
    assert counted((x[[0, 0, 1]], y[[0, 0, 1]])) == 2


def test_the_last_bit_counts():
    x = torch.rand(4, 50)
    other = x.clone()
    other[:, -1] = torch.nextafter(other[:, -1], torch.ones(()))
    assert counted((x,), (other,)) == 0
    assert counted((x,), (x.t().contiguous().t(),)) == 8  # whatever the order in memory
