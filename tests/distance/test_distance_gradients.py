"""Gradients of scores and distances are right, finite and of first order."""

import pytest
import torch
from reference.geometries import inner_product, remove
from samples import DTYPES, FEATURES, each, leaf, randn, triple
from torch.autograd import gradcheck

from captum_kd.distance import (
    distance_correlation,
    euclidean_distances,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.distance.centering import center, geometry, u_shift
from captum_kd.distance.pairwise import unchecked_distances

FUNCTIONS = {
    "unbiased": distance_correlation,
    "biased": lambda x, y: distance_correlation(x, y, estimator="biased"),
    "partial, from x": lambda x, y: semipartial_distance_correlation(x, y, randn(7, 3, seed=5)),
    "partial, from both": lambda x, y: partial_distance_correlation(x, y, randn(7, 3, seed=5), remove_from="both"),
    "partial, removed": lambda x, y: semipartial_distance_correlation(randn(7, 3, seed=5), x, y),
    "distances": lambda x, y: (euclidean_distances(x), euclidean_distances(y)),
    "cross distances": unchecked_distances,
    "geometry": lambda x, y: (geometry(x).matrix, geometry(y, "biased").matrix),
    "center": lambda x, y: (center(euclidean_distances(x)).matrix, u_shift(euclidean_distances(y))),
    "remove": lambda x, y: remove(geometry(x), geometry(y)).matrix,
    "inner product": lambda x, y: inner_product(geometry(x), geometry(y)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name):
    x, y, _ = triple(7, 3)
    assert gradcheck(FUNCTIONS[name], (leaf(x), leaf(y)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_close_pairs(name):
    """Clusters so tight that their pairs are subtracted one by one."""
    x, y, _ = triple(7, 3)
    x[3:], y[5:] = x[0] + 1e-3 * x[3:], y[1] + 1e-3 * y[5:]
    y[2:4] = x[1] + 1e-3 * y[2:4]
    assert gradcheck(FUNCTIONS[name], (leaf(x), leaf(y)), eps=1e-8, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_at_coincident_points(name):
    """A central difference of |x - y| at x = y is the subgradient 0 that the functions take."""
    x, y, _ = triple(7, 3)
    x[2:4], y[4:6] = x[1], x[0]
    y[0] = x[0]
    assert gradcheck(FUNCTIONS[name], (leaf(x), leaf(y)), eps=1e-8, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in FEATURES if kind != "very wide"])
def test_gradients_are_finite_in_float32(kind):
    x, y, z = each(lambda f: leaf(f.float()), *FEATURES[kind])
    (distance_correlation(x, y) + partial_distance_correlation(x, y, z, remove_from="both")).backward()
    for features in (x, y, z):
        assert features.grad.isfinite().all() and features.grad.count_nonzero() > 0


@pytest.mark.parametrize("kind", ["random", "duplicated", "far from the origin", "tight clusters", "very wide"])
def test_float32_gradients_follow_float64(kind):
    singles = each(lambda f: f.float(), *FEATURES[kind])
    single, double = ([leaf(f.to(dtype)) for f in singles] for dtype in DTYPES)
    found, expected = (torch.autograd.grad(semipartial_distance_correlation(*three), three)[0] for three in (single, double))
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_coincident_points_pull_nowhere():
    x = leaf(torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]]))
    euclidean_distances(x)[0, 1].backward()
    assert x.grad.tolist() == [[0, 0], [0, 0], [0, 0]]
    x, y = leaf(torch.ones(2, 2)), leaf(torch.ones(3, 2))
    unchecked_distances(x, y).sum().backward()
    assert x.grad.count_nonzero() == 0 and y.grad.count_nonzero() == 0


def test_second_derivatives_are_refused():
    x, y, _ = triple(6, 2)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(distance_correlation(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_autocast_does_not_reach_the_distances():
    x, y, z = each(lambda f: f.float(), *triple(50, 200))
    expected = torch.autograd.grad(semipartial_distance_correlation(x.requires_grad_(), y, z), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(semipartial_distance_correlation(x, y, z), x)
    torch.testing.assert_close(found, expected)
