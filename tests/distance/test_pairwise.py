"""The parts that distances are made of: sizes, single pairs, blocks of rows."""

import math

import pytest
import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.distance import euclidean_distances, pairwise
from captum_kd.distance.pairwise import (
    RowDistances,
    unchecked_distances,
    block_distances,
    distances_to_center,
    power_of_two,
    fast_distances,
)
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


SHARES = {torch.float32: 1e-2, torch.float64: 1e-3}


def pairs_at(share: float, size: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two sets of ten rows, of which the first ones of each have a squared distance of this share of the sum of their
    squared norms, the other's being the longer one. All others are shorter, and no two of them that close."""
    longer = (1 + math.sqrt(2 * share - share**2)) / (1 - share)  # (t - 1)^2 = share (1 + t^2)
    x, y = torch.zeros(2, 10, 12, dtype=torch.float64)
    x[:, 1], y[:, 2] = torch.linspace(-0.8, 0.85, 10), torch.linspace(-0.7, 0.75, 10)
    x[0], y[0] = torch.eye(1, 12)[0], longer * torch.eye(1, 12)[0]
    return (size * x).to(dtype), (size * y).to(dtype)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("share", "is_close"), [(0.96, True), (1.04, False)])
@pytest.mark.parametrize("parts", [1, 3], ids=["one chunk of columns", "three"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_subtracted_up_to_a_share_of_their_squared_norms(dtype, parts, share, is_close, size):
    """Whoever of the two sets has the longer rows, within one set and between blocks of rows."""
    x, y = pairs_at(share * SHARES[dtype], size, dtype)
    far = torch.cat([torch.zeros(130, 3), 2 * size * random(130, 9)], 1).to(dtype)
    for left, right, places in [
        (x, y, {(0, 0)}),
        (y, x, {(0, 0)}),
        (torch.cat([x, y]), None, {(0, 10), (10, 0)}),
        (torch.cat([x, far, y]), None, {(0, 140), (140, 0)}),
    ]:
        others = left if right is None else right
        chunks = list(zip(left.chunk(parts, 1), others.chunk(parts, 1)))
        found, close = block_distances(lambda: iter(chunks), symmetric=right is None, single=parts == 1)
        met = set(map(tuple, close.T.tolist()))
        assert (places <= met) == is_close
        expected = by_subtraction(left.double(), others.double())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=0)
        _, needs_recheck = fast_distances(lambda: iter(chunks), symmetric=right is None, single=parts == 1)
        assert bool(needs_recheck) or not is_close


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_quick_distances_of_any_size(size, symmetric):
    x = size * random(9, 40)
    y = x if symmetric else size * random(7, 40, seed=1)
    found, needs_recheck = fast_distances(lambda: [(x, y)], symmetric=symmetric, single=True)
    assert needs_recheck.dtype == torch.bool and needs_recheck.shape == () and not needs_recheck
    torch.testing.assert_close(found, by_subtraction(x, y), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n", "width"), [(64, 3), (64, 70), (65, 3), (65, 70)])
def test_few_inputs_are_centered_in_float64(n, width, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 64)
    assert distances_to_center(random(n, width)).dtype == torch.float64
    x = random(n, width).float()
    found = distances_to_center(x)
    assert found.dtype == (torch.float64 if n == 64 else torch.float32)
    digits = 1e-12 if n == 64 else 1e-4
    torch.testing.assert_close(found.double(), by_subtraction(x.double(), x.double()), rtol=digits, atol=0)


@pytest.mark.parametrize("size", [2.0**-40, 1.0, 2.0**40])
def test_what_is_centered_is_in_units_of_a_power_of_two(size):
    x = random(9, 3).clamp(-1.9, 1.9)
    x[0, 0] = 1.9
    expected = by_subtraction(x, x)
    torch.testing.assert_close(distances_to_center(size * x), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(distances_to_center(size * x, 1.9 * size), expected, rtol=1e-12, atol=0)
    # The largest value is believed, not looked for again.
    torch.testing.assert_close(distances_to_center(x, 2.0**50), expected / 2**50, rtol=1e-12, atol=0)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_distances_have_the_type_of_the_rows_however_they_were_computed(needs_gradient):
    """Tight clusters of float32 are compared in float64."""
    x = (random(2, 6)[torch.arange(40) % 2] + 1e-4 * random(40, 6, seed=1)).float()
    direct = by_subtraction(x.double(), x.double())
    x.requires_grad_(needs_gradient)
    for found in (euclidean_distances(x), unchecked_distances(x, x[:7])):
        assert found.dtype == torch.float32 and found.requires_grad == needs_gradient
        torch.testing.assert_close(found.detach().double(), direct[:, : found.shape[1]], rtol=1e-3, atol=0)


@pytest.mark.parametrize("extra", [False, True])
def test_more_than_a_sixteenth_of_all_pairs_are_compared_in_float64(extra):
    """Sixteen inputs that are eight and their twins: 16 of 256 pairs, or 22 where three are one."""
    x = random(8, 6)[torch.arange(16) // 2]
    x[1::2] += 1e-4
    if extra:
        x[2:4] = x[:2] - 1e-4
    x = (x - x.mean(0)).float()
    found, close = block_distances(lambda: [(x, x)], symmetric=True, single=True)
    assert found.dtype == (torch.float64 if extra else torch.float32)
    assert extra or close.shape == (2, 16)


@pytest.mark.parametrize("two_sets", [False, True])
def test_features_far_from_the_origin_are_no_closer_to_each_other(two_sets):
    """Every column in its own place: no pair has to be subtracted by itself."""
    x = random(20, 50)
    places = 1e6 * random(1, 50, seed=1)
    spread = RowDistances.of(x + places, x[:7] + places if two_sets else None)
    near = RowDistances.of(x, x[:7] if two_sets else None)
    assert torch.equal(spread.close, near.close) and spread.close.shape[1] == (7 if two_sets else 0)
    torch.testing.assert_close(spread.distances, near.distances, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(spread.ys.mean(0), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-8)
