"""What the numbers' types change: float32 follows float64, half types and integers are computed in wider ones."""

import pytest
import torch
from samples import DTYPES, F64, FEATURES, clusters, each, partial, randn, score, triple
from torch import Tensor

from captum_kd.distance import distance_correlation, semipartial_distance_correlation
from captum_kd.distance.centering import geometry
from captum_kd.distance.pairwise import RowDistances

SINGLE = {
    "far from the origin": each(lambda f: f + 1e4, *triple(40, 8)),
    "one far column": each(lambda f: torch.cat([f, torch.full((40, 1), 1e6)], 1), *triple(40, 8)),
    "near-duplicates": each(lambda f: torch.cat([f[:20], f[:20] + 1e-5 * randn(20, 8, seed=9)]), *triple(40, 8)),
    "near-duplicates far from the origin": each(
        lambda f: 1e3 + torch.cat([f[:20], f[:20] + 1e-3 * randn(20, 8, seed=9)]), *triple(40, 8)
    ),
    "tight clusters": [clusters(40, 8, width, seed) for seed, width in ((0, 1e-2), (2, 1e-3), (4, 1e-1))],
    "very wide": triple(16, 20_000),
    "very wide, far from the origin": each(lambda f: f + 1e3, *triple(16, 20_000)),
    "heavy tails": each(lambda f: torch.tan(1.5 * torch.tanh(f)), *triple(40, 8)),
    **{kind: FEATURES[kind] for kind in ("random", "duplicated", "one-dimensional", "badly scaled columns", "sparse")},
}


@pytest.mark.parametrize("kind", SINGLE)
def test_float32_follows_float64(kind):
    single = each(lambda f: f.float(), *SINGLE[kind])
    double = each(lambda f: f.double(), *single)
    assert distance_correlation(*single[:2]).dtype == torch.float32
    for estimator in ("unbiased", "biased"):
        expected = score(*double[:2], estimator=estimator)
        assert score(*single[:2], estimator=estimator) == pytest.approx(expected, abs=1e-5)
    for side in ("x", "both"):
        expected = partial(*double, remove_from=side)
        assert partial(*single, remove_from=side) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    x, y, z = each(lambda f: f.to(dtype), *triple(30, 5))
    found = distance_correlation(x, y)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(score(x.double(), y.double()), abs=1e-6)
    assert partial(x, y, z) == pytest.approx(partial(x.double(), y.double(), z.double()), abs=1e-6)


def test_half_types_that_overflow_when_squared():
    x, y, _ = each(lambda f: (1e4 * f).half(), *triple(30, 5))
    assert score(x, y) == pytest.approx(score(x.double(), y.double()), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_integers_are_exact(dtype):
    x, y, _ = triple(30, 5)
    x = (x > 0) if dtype == torch.bool else (10 * x).abs().to(dtype)
    assert score(x, y) == pytest.approx(score(x.double(), y), abs=1e-14)


def test_large_integers_keep_all_digits():
    """Seconds since 1970 differ in digits that float32 does not have."""
    seconds = 1_700_000_000 + torch.arange(20) ** 2
    y = randn(20, 3, dtype=torch.float32)
    assert score(seconds, y) == pytest.approx(score(torch.arange(20) ** 2, y), abs=1e-12)


def test_one_side_in_float64_is_enough():
    x, y, _ = triple(30, 5)
    found = distance_correlation(x.float(), y)
    assert found.dtype == F64
    assert float(found) == pytest.approx(score(x.float().double(), y), abs=1e-14)


@pytest.mark.parametrize("n", [30, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_have_the_type_of_the_features(dtype, n):
    """However many inputs there are, in blocks or not; geometries are float64 where inputs are not too many."""
    three = each(lambda f: f.to(dtype), *triple(n, 5))
    for block_size in (None, 7):
        assert distance_correlation(*three[:2], block_size=block_size).dtype == dtype
        assert semipartial_distance_correlation(*three, block_size=block_size).dtype == dtype
    for estimator in ("unbiased", "biased"):
        found = geometry(three[0], estimator)
        assert (found.matrix.dtype, found.raw_norm.dtype) == (torch.float64, torch.float64)


def test_a_size_that_is_known_is_not_looked_for_again():
    x, y, _ = triple(30, 5)
    found, expected = geometry(x, largest=2.0**60), geometry(x)
    torch.testing.assert_close(found.matrix, expected.matrix / 2**60, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.raw_norm, expected.raw_norm / 2**60, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["random", "half of them the same"])
@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_users_default_device_and_dtype_change_neither_scores_nor_gradients(dtype, block_size, kind):
    """What is made on the way is made where the features are."""

    def found() -> tuple[Tensor, ...]:
        own, *others = each(lambda f: f.detach().to(dtype), *FEATURES[kind])
        own.requires_grad_()
        value = semipartial_distance_correlation(own, *others, block_size=block_size)
        value = value + distance_correlation(own, others[0], block_size=block_size)
        return value.detach(), torch.autograd.grad(value, own)[0]

    expected, before = found(), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            results = found()
            spread = RowDistances.of(torch.eye(5, dtype=dtype, device="cpu"))
    finally:
        torch.set_default_dtype(before)
    for result, known in zip(results, expected):
        assert result.dtype == dtype and torch.equal(result, known)
    assert {each.device.type for each in (spread.xs, spread.distances, spread.close)} == {"cpu"}
