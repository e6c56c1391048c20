"""What no sample may break: theorems of distance correlation, over random populations."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samples import DTYPES, F64, each, partial, rotation, score, triple
from reference.geometries import remove
from torch import Tensor

from captum_kd.distance import (
    distance_correlation,
    euclidean_distances,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.distance.centering import center, geometry, u_shift

populations = st.fixed_dictionaries(
    {"n": st.integers(5, 30), "d": st.integers(1, 12), "seed": st.integers(0, 10**6)}
)
fair = settings(deadline=None, max_examples=25)


def scores(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """All that the two functions on features have to say, in float64."""
    return torch.stack(
        [
            distance_correlation(x, y),
            distance_correlation(x, y, estimator="biased"),
            semipartial_distance_correlation(x, y, z),
            partial_distance_correlation(x, y, z, remove_from="both"),
        ]
    ).double()


@fair
@given(populations)
def test_order_of_the_inputs_does_not_matter(population):
    three = triple(**population)
    order = torch.randperm(population["n"], generator=torch.Generator().manual_seed(population["seed"]))
    torch.testing.assert_close(scores(*(f[order] for f in three)), scores(*three), rtol=0, atol=1e-10)


@fair
@given(populations, st.floats(-1e4, 1e4))
def test_place_does_not_matter(population, offset):
    x, y, z = triple(**population)
    moved = scores(x + offset, y - offset * y[0], z + offset * torch.linspace(0, 1, z.shape[1], dtype=F64))
    torch.testing.assert_close(moved, scores(x, y, z), rtol=0, atol=1e-8)


@fair
@given(populations)
def test_rotation_does_not_matter(population):
    three = triple(**population)
    turned = [f @ rotation(f.shape[1], seed) for seed, f in enumerate(three)]
    torch.testing.assert_close(scores(*turned), scores(*three), rtol=0, atol=1e-10)


@fair
@given(populations, st.sampled_from(DTYPES), st.tuples(*[st.floats(-1, 1)] * 3))
def test_scale_does_not_matter(population, dtype, powers):
    """Sizes from 1e-20 to 1e20 in float32, from 1e-150 to 1e150 in float64."""
    three = each(lambda f: f.to(dtype), *triple(**population))
    widest = 20 if dtype == torch.float32 else 150
    scaled = [f * 10 ** (widest * power) for f, power in zip(three, powers)]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(scores(*scaled), scores(*three), rtol=0, atol=tolerance)


@fair
@given(populations, st.integers(-120, 120))
def test_powers_of_two_leave_every_bit_alone(population, power):
    """Also of near-duplicates, whose digits a division by another number would round away."""
    x, y, _ = each(lambda f: f.float(), *triple(**population))
    near = x + 1e-2 * y
    size = 2.0**power
    assume(all(torch.equal(each * size / size, each) for each in (near, x)))  # tiny numbers lose bits by the product itself
    assert partial(near * size, y, x * size) == partial(near, y, x)


@fair
@given(populations, st.sampled_from(["unbiased", "biased"]))
def test_a_geometry_correlates_with_itself_by_one(population, estimator):
    x = triple(**population)[0]
    assert 1 - 1e-12 < score(x, x, estimator=estimator) <= 1


@fair
@given(populations)
def test_scores_are_symmetric_and_bounded(population):
    x, y, z = triple(**population)
    assert score(x, y) == pytest.approx(score(y, x), abs=1e-12)
    swapped = partial(y, x, z, remove_from="both")
    assert partial(x, y, z, remove_from="both") == pytest.approx(swapped, abs=1e-10)
    assert -1 <= score(x, y) <= 1 and 0 <= score(x, y, estimator="biased") <= 1


@fair
@given(populations)
def test_what_is_removed_is_uncorrelated_after_removal(population):
    x, _, z = triple(**population)
    assert partial(x, z, z) == pytest.approx(0, abs=1e-9)


@fair
@given(populations)
def test_removing_twice_is_removing_once(population):
    x, _, z = triple(**population)
    p, q = geometry(x), geometry(z)
    torch.testing.assert_close(remove(remove(p, q), q).matrix, remove(p, q).matrix, rtol=0, atol=1e-10)


@fair
@given(populations)
def test_rows_of_centered_matrices_add_up_to_zero(population):
    d = euclidean_distances(triple(**population)[0])
    for estimator in ("unbiased", "biased"):
        matrix = center(d, estimator).matrix
        assert float(matrix.sum(1).abs().max()) < 1e-12 * float(d.sum())
    shift = u_shift(d)
    expected = (d - shift[:, None] - shift).fill_diagonal_(0)
    torch.testing.assert_close(center(d).matrix, expected)


@fair
@given(populations)
def test_removal_from_one_side_follows_from_the_three_correlations(population):
    """(r_xy - r_xz r_yz) over sqrt(1 - r_xz^2), and over sqrt(1 - r_yz^2) too when both sides are reduced."""
    x, y, z = triple(**population)
    xy, xz, yz = score(x, y), score(x, z), score(y, z)
    expected = (xy - xz * yz) / math.sqrt(1 - xz**2)
    assert partial(x, y, z) == pytest.approx(expected, abs=1e-9)
    expected /= math.sqrt(1 - yz**2)
    assert partial(x, y, z, remove_from="both") == pytest.approx(expected, abs=1e-9)
