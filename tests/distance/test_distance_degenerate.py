"""Features without a geometry, or of which nothing is left, score 0 with a warning."""

import warnings

import pytest
import torch
from samples import DTYPES, F64, FEATURES, each, leaf, partial, randn, rotation, score, triple
from torch import Tensor

from captum_kd.distance import distance_correlation, partial_distance_correlation, semipartial_distance_correlation


NOTHING_LEFT = "no geometry"

CONSTANT = {
    "zero": lambda n, d: torch.zeros(n, d, dtype=F64),
    "constant": lambda n, d: randn(1, d).expand(n, d) * 1e3 + 0.1,
}


def assert_nothing(function, *features: Tensor) -> None:
    """0, with a warning, and with a gradient of 0."""
    leaves = [leaf(f) for f in features]
    with pytest.warns(UserWarning, match=NOTHING_LEFT):
        found = function(*leaves)
    assert float(found.detach()) == 0
    found.backward()
    for features in leaves:
        assert features.grad is None or features.grad.count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CONSTANT)
def test_constant_features_score_zero(kind, dtype):
    x, y, z = each(lambda f: f.to(dtype), CONSTANT[kind](30, 5), *triple(30, 5)[:2])
    assert_nothing(distance_correlation, x, y)
    assert_nothing(lambda x, y: distance_correlation(y, x, estimator="biased"), x, y)
    assert_nothing(semipartial_distance_correlation, x, y, z)
    assert_nothing(lambda x, y, z: semipartial_distance_correlation(y, x, z), x, y, z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_removing_constant_features_removes_nothing(dtype):
    x, y, _ = each(lambda f: f.to(dtype), *triple(30, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert partial(x, y, torch.ones_like(x)) == score(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["x", "both"])
@pytest.mark.parametrize("kind", ["random", "duplicated", "tight clusters", "one-dimensional", "half of them the same"])
def test_nothing_is_left_of_a_rotated_scaled_copy(kind, side, dtype):
    x, y, _ = FEATURES[kind]
    copy = (1e-3 * x @ rotation(x.shape[1])).to(dtype)
    assert_nothing(
        lambda x, y, z: partial_distance_correlation(x, y, z, remove_from=side), x.to(dtype), y.to(dtype), copy
    )


@pytest.mark.parametrize("separation", [1, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_left_of_a_rotated_copy_of_two_clusters(dtype, separation):
    """The further apart they are, the fewer digits a matrix product leaves to the distances within."""
    x, y, _ = triple(40, 16)
    x[:20, 0] += separation
    assert_nothing(semipartial_distance_correlation, x.to(dtype), y.to(dtype), (x @ rotation(16)).to(dtype))


@pytest.mark.parametrize("dtype, d", [(torch.float32, 50_000), (F64, 20_000)])
def test_nothing_is_left_of_a_wide_copy(dtype, d):
    x, y, _ = each(lambda f: f.to(dtype), *triple(20, d))
    assert_nothing(semipartial_distance_correlation, x, y, 3 * x.flip(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equidistant_features_score_zero(dtype):
    """All distances equal, and one input against the rest: U-centering leaves nothing of either."""
    y = randn(30, 5, dtype=dtype)
    assert_nothing(distance_correlation, torch.eye(30, dtype=dtype), y)
    assert_nothing(distance_correlation, torch.eye(30, dtype=dtype)[0], y)


def test_small_structure_is_no_noise():
    """What is left is scored down to a share of the squared norm of 1e-10, not taken for rounding."""
    x, y, z = triple(30, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(partial(x + 1e-4 * z, y, x)) > 1e-3


def test_features_without_geometry_are_warned_of_at_the_call():
    with pytest.warns(UserWarning, match=NOTHING_LEFT) as caught:
        distance_correlation(torch.ones(5, 2), randn(5, 2, dtype=torch.float32))
    assert caught[0].filename == __file__
