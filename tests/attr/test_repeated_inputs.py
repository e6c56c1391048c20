"""Which batches are taken for copies of a few inputs."""

import math

import pytest
import torch
from torch import Tensor

from captum_kd.attr.checked_call import _are_repeated


def apart(n: int = 8) -> Tensor:
    """Inputs all at a distance of the square root of 2 from each other."""
    return torch.eye(n)


def with_companions(copied: int, gap: float, n: int = 8) -> Tensor:
    """Of n inputs as many pairs as given, whose members are a share of the usual distance apart."""
    x = torch.cat([apart(n), torch.zeros(n, 1)], 1)
    for pair in range(copied):
        x[2 * pair + 1] = x[2 * pair]
        x[2 * pair + 1, -1] = gap * math.sqrt(2)
    return x


@pytest.mark.parametrize(
    ("copied", "gap", "repeated"),
    [
        (0, 0.0, False),
        (2, 0.0, False),  # half of the inputs
        (3, 0.0, True),
        (4, 0.0, True),
        (4, 0.24, True),
        (4, 0.27, False),
    ],
)
def test_most_inputs_have_a_companion_within_a_quarter_of_the_usual_distance(copied, gap, repeated):
    assert _are_repeated((with_companions(copied, gap),)) is repeated


def test_the_usual_distance_is_the_median():
    """Two tight clusters: half of the distances are short, and nothing is a copy of anything."""
    draw = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    far = draw.clone()
    far[:4] += 1000
    assert not _are_repeated((draw,))
    assert _are_repeated((far,))  # short beside more than half of them
    lonely = draw.clone()
    lonely[0] += 1000
    assert not _are_repeated((lonely,))


def test_all_inputs_of_a_model_count():
    copies, others = with_companions(4, 0.0), apart()
    assert _are_repeated((copies, copies))
    assert not _are_repeated((copies, others)) and not _are_repeated((others, copies))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.uint8])
def test_inputs_of_any_type(dtype):
    assert _are_repeated(((with_companions(4, 0.0) * 10).to(dtype),))
    assert not _are_repeated(((apart() * 10).to(dtype),))


def test_types_may_differ_between_inputs():
    assert _are_repeated((with_companions(4, 0.0).half(), (with_companions(4, 0.0) * 9).long()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_is_said_of_non_finite_inputs(value):
    copies = with_companions(4, 0.0)
    copies[0, 0] = value
    assert not _are_repeated((copies,))


def test_nothing_is_said_of_empty_inputs():
    assert not _are_repeated((torch.zeros(6, 0),))


def test_wide_inputs_are_sampled_over_their_whole_width():
    wide = torch.zeros(8, 5000)
    wide[:, ::4] = torch.randn(8, 1250, generator=torch.Generator().manual_seed(0))
    assert not _are_repeated((wide,))
    assert _are_repeated((wide[[0, 0, 1, 1, 2, 2, 3, 3]],))
