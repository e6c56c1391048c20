"""Classical scaling and alignment against scikit-learn, numpy and scipy."""

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from captum_kd.metrics._multidimensional_scaling import aligned, classical_scaling


def squares(x):
    return squareform(pdist(x, "sqeuclidean"))


def sample(n=40, d=7, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(3, 0.5, d)


def test_axes_are_the_principal_components():
    x = sample()
    points, share = classical_scaling(squares(x))
    pca = PCA(2).fit(x)
    expected = pca.transform(x)
    signs = np.sign((points * expected).sum(0))
    np.testing.assert_allclose(points, expected * signs, atol=1e-9)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-12)


def test_the_share_is_that_of_the_doubly_centered_matrix_and_of_the_squared_distances():
    given = squares(sample(d=4))
    n = len(given)
    center = np.eye(n) - 1 / n
    values = np.linalg.eigvalsh(-center @ given @ center / 2)
    points, share = classical_scaling(given)
    assert share == pytest.approx(values[-2:].sum() / values.sum(), abs=1e-12)
    assert squares(points).sum() / given.sum() == pytest.approx(share, abs=1e-12)


def test_two_dimensions_are_shown_completely():
    points, share = classical_scaling(squares(sample(d=2)))
    assert share == pytest.approx(1.0)
    np.testing.assert_allclose(squares(points), squares(sample(d=2)), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points(n):
    points, share = classical_scaling(squares(sample(n)))
    assert points.shape == (n, 2) and share == (None if n == 1 else pytest.approx(1.0))
    np.testing.assert_allclose(squares(points), squares(sample(n)), atol=1e-9)


def test_equal_points_have_no_share():
    points, share = classical_scaling(np.zeros((5, 5)))
    assert share is None and not points.any()


def test_distances_that_are_not_euclidean_have_a_share_of_at_most_1():
    given = 1 - np.eye(3)
    given[0, 1] = given[1, 0] = 25.0
    assert classical_scaling(given)[1] == 1.0


@pytest.mark.parametrize("reflected", [False, True])
def test_rotations_and_reflections_are_undone(reflected):
    x = classical_scaling(squares(sample()))[0]
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]]) @ np.diag([1, -1 if reflected else 1])
    np.testing.assert_allclose(aligned(x @ turn, x), x, atol=1e-12)


def test_alignment_is_scipys_but_keeps_the_scale():
    x, y = (classical_scaling(squares(sample(seed=seed)))[0] for seed in (1, 2))
    found = aligned(y, x)
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(y))
    _, theirs, _ = procrustes(x, y)
    np.testing.assert_allclose(found / np.linalg.norm(found), theirs / np.linalg.norm(theirs), atol=1e-12)


def test_alignment_by_some_of_the_points():
    x = classical_scaling(squares(sample()))[0]
    turned = x[5:] @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(aligned(turned, x, (list(range(35)), list(range(5, 40)))), x[5:], atol=1e-12)
    np.testing.assert_allclose(aligned(turned, x, ([], [])), turned)
