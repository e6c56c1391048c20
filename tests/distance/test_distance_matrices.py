"""Euclidean distances are those of single subtractions, of near-duplicates and at any size."""

import pytest
import torch
from samples import DTYPES, F64, FEATURES, direct, randn
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.distance.pairwise import unchecked_distances


def rounding(x: Tensor) -> float:
    """A sum of d squares loses a few digits, the oracle's plain one too."""
    return max(16.0, x.shape[1] ** 0.5) * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", FEATURES)
def test_distances_are_those_of_single_subtractions(kind, dtype):
    x = FEATURES[kind][0].reshape(len(FEATURES[kind][0]), -1).to(dtype)
    expected = direct(x, x)
    error = (euclidean_distances(x).double() - expected).abs().max() / expected.max()
    assert float(error) < rounding(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [kind for kind in FEATURES if kind != "huge"])
def test_unchecked_distances_are_those_of_single_subtractions(kind, dtype):
    features = FEATURES[kind][0].reshape(len(FEATURES[kind][0]), -1).to(dtype)
    x, y = features[: len(features) * 2 // 3], features[len(features) // 2 :]
    expected = direct(x, y)
    error = (unchecked_distances(x, y).double() - expected).abs().max() / expected.max()
    assert float(error) < rounding(x)


@pytest.mark.parametrize("dtype, gap", [(torch.float32, 1e-3), (F64, 1e-9)])
def test_near_duplicates_have_the_distance_that_their_values_have(dtype, gap):
    """Relative to the distance itself, not to the features' size."""
    x = randn(40, 6, dtype=dtype)
    few = torch.cat([x, x[:2] + gap])
    expected = direct(few, few)[[0, 1], [40, 41]]
    assert 0 < float(expected.max()) < 10 * gap
    torch.testing.assert_close(euclidean_distances(few)[[0, 1], [40, 41]].double(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(unchecked_distances(x, few[40:])[[0, 1], [0, 1]].double(), expected, rtol=1e-3, atol=0)


def test_distances_whose_squares_vanish():
    x = torch.tensor([[1.0], [-1.0], [0.0], [1e-30]])
    torch.testing.assert_close(euclidean_distances(x)[2, 3], torch.tensor(1e-30), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_coincident_rows_are_at_distance_zero(dtype):
    x = randn(20, 300, dtype=dtype) + 1e3
    d = euclidean_distances(torch.cat([x, x]))
    assert d.diagonal().count_nonzero() == 0 and d[:20, 20:].diagonal().count_nonzero() == 0
    assert unchecked_distances(x, x).diagonal().count_nonzero() == 0
    assert (d > 0).sum() == 40 * 38


@pytest.mark.parametrize(
    "dtype, size", [(torch.float32, 1e-38), (torch.float32, 1e37), (F64, 1e-300), (F64, 1e300), (F64, 1e60)]
)
def test_distances_neither_overflow_nor_vanish(dtype, size):
    x = randn(9, 4, dtype=dtype)
    small = x * size
    torch.testing.assert_close(euclidean_distances(small) / size, euclidean_distances(x), rtol=1e-4, atol=1e-6)
