"""The parts that distances are made of: sizes, single pairs, blocks of rows."""

import math

import pytest
import torch
from torch import Tensor

from captum_kd.distance import pairwise
from captum_kd.distance.pairwise import block_distances, largest_of, power_of_two
from captum_kd.distance.precision import full_precision


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_subtraction(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y).square().sum(2).sqrt()


@pytest.mark.parametrize(
    ("largest", "divisor"),
    [
        (0.0, 1.0),
        (1.0, 1.0),
        (0.75 * 2.0**32, 1.0),
        (0.75 * 2.0**-31, 1.0),
        (2.0**32, 2.0**32),
        (2.0**-32, 2.0**-32),
        (1.5 * 2.0**40, 2.0**40),
        (1.5 * 2.0**-40, 2.0**-40),
        (1e300, 2.0**996),
        (1e-300, 2.0**-997),
    ],
)
def test_sizes_whose_squares_are_safe_stay_and_others_are_divided(largest, divisor):
    assert power_of_two(largest) == divisor
    assert largest == 0 or divisor == 1 or 1 <= largest / divisor < 2


@pytest.mark.parametrize("largest", [math.inf, math.nan])
def test_a_size_has_to_be_finite(largest):
    with pytest.raises(ValueError, match="non-finite"):
        power_of_two(largest)


@pytest.mark.parametrize(("values", "largest"), [([-3.0, 2.0], 3.0), ([-2.0, 3.0], 3.0), ([0.0, 0.0], 0.0)])
def test_the_largest_absolute_value(values, largest):
    assert largest_of(torch.tensor(values)) == largest


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_the_largest_absolute_value_tells_of_non_finite_ones(bad):
    assert not math.isfinite(largest_of(torch.tensor([1.0, bad, -2.0])))


@pytest.mark.parametrize(("pairs", "width"), [(0, 3), (1, 1), (1000, 999), (5, 10**6), (401, 1000), (3, 0)])
def test_single_pairs_are_taken_in_parts_that_stay_in_the_cache(pairs, width):
    parts = pairwise._pair_blocks(pairs, width)
    places = torch.arange(pairs)
    assert torch.cat([places[part] for part in parts] or [places]).tolist() == places.tolist()
    for part in parts:
        assert part.stop - part.start == 1 or (part.stop - part.start) * width <= 400_000
    assert len(parts) <= 1 + pairs * max(width, 1) // 400_000 or width > 400_000 / 2


def test_norms_of_rows_whose_squares_vanish():
    rows = torch.tensor([[3e-200, 4e-200], [0.0, 0.0], [-3.0, 4.0], [3e200, -4e200]], dtype=torch.float64)
    expected = torch.tensor([5e-200, 0.0, 5.0, 5e200], dtype=torch.float64)
    torch.testing.assert_close(pairwise._row_norms(rows), expected, rtol=1e-15, atol=0)


def test_products_keep_their_digits_under_autocast():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    with full_precision(x.device):
        assert not torch.is_autocast_enabled("cpu") and (x @ x).dtype == torch.float32


@pytest.mark.parametrize("n", [5, 127, 128, 129, 300])
@pytest.mark.parametrize("parts", [1, 3], ids=["one chunk of columns", "three"])
@pytest.mark.parametrize("kind", ["apart", "close pairs", "clusters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_of_one_set(kind, parts, n, dtype):
    x = random(n, 6)
    if kind == "close pairs":  # across blocks of rows, too
        x[n // 2] = x[0] + 1e-6
        x[n - 1] = x[1] + 1e-6
    elif kind == "clusters":
        x = x[torch.arange(n) % 2] + 1e-4 * x
    x = (x - x.mean(0)).to(dtype)
    chunks = [(part, part) for part in x.split(6 // parts, 1)]
    found, close = block_distances(lambda: iter(chunks), symmetric=True, single=parts == 1)
    expected = by_subtraction(x.double(), x.double())
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
    assert found.diagonal().count_nonzero() == 0
    met = set(map(tuple, close.T.tolist()))
    assert len(met) == close.shape[1] and met == {(j, i) for i, j in met} and all(i != j for i, j in met)
    if kind == "apart":
        assert not met
    else:
        assert {(0, n // 2), (1, n - 1)} <= met or kind == "clusters"
        many = kind == "clusters" or n == 5  # more than a sixteenth of the pairs
        assert found.dtype == (torch.float64 if many else dtype)


@pytest.mark.parametrize("parts", [1, 3], ids=["one chunk of columns", "three"])
@pytest.mark.parametrize("kind", ["apart", "close pairs"])
def test_distances_of_two_sets(kind, parts):
    x, y = random(150, 6), random(140, 6, seed=1)
    if kind == "close pairs":
        y[139] = x[2] - 1e-7
        y[0] = x[149]
    chunks = list(zip(x.split(6 // parts, 1), y.split(6 // parts, 1)))
    found, close = block_distances(lambda: iter(chunks), symmetric=False, single=parts == 1)
    torch.testing.assert_close(found, by_subtraction(x, y), rtol=1e-12, atol=0)
    assert set(map(tuple, close.T.tolist())) == ({(2, 139), (149, 0)} if kind == "close pairs" else set())
