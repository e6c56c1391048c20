"""Scores and matrices of the geometry against dcor, against 60-digit arithmetic and against closed forms."""

import itertools
import math
from typing import get_args

import pytest
import torch
from reference import exact
from reference.geometries import inner_product, remove
from samples import F64, FEATURES, clusters, direct, each, partial, randn, score, triple
from torch import Tensor

from captum_kd.distance import distance_correlation, euclidean_distances, partial_distance_correlation
from captum_kd.distance.centering import CENTERINGS, Centering, Estimator, center, geometry
from captum_kd.distance.pairwise import unchecked_distances
from captum_kd.metrics.torchmetrics import RelevanceScore


# ------------------------------------------------------------------------ against dcor


@pytest.mark.parametrize("kind", FEATURES)
def test_scores_are_those_of_dcor(dcor, kind):
    x, y, z = FEATURES[kind]
    a, b, c = (f.flatten(1).numpy() if f.dim() > 1 else f.numpy() for f in (x, y, z))
    assert score(x, y) == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-9)
    assert score(x, y, estimator="biased") == pytest.approx(dcor.distance_correlation_sqr(a, b), abs=1e-9)
    expected = dcor.partial_distance_correlation(a, b, c)
    assert float(partial_distance_correlation(x, y, z)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", FEATURES)
def test_removal_from_one_side_is_that_of_dcor(dcor, kind):
    p, q, g = (dcor.u_centered(direct(f, f).numpy()) for f in each(lambda f: f.reshape(len(f), -1), *FEATURES[kind]))
    rest = dcor.u_complementary_projection(g)(p)
    expected = dcor.u_product(rest, q) / math.sqrt(dcor.u_product(rest, rest) * dcor.u_product(q, q))
    assert partial(*FEATURES[kind]) == pytest.approx(expected, abs=1e-9)


def test_centered_and_reduced_matrices_are_those_of_dcor(dcor):
    x, y, _ = triple(12, 5)
    d, e = euclidean_distances(x), euclidean_distances(y)
    for estimator, centered in (("unbiased", dcor.u_centered), ("biased", dcor.double_centered)):
        torch.testing.assert_close(center(d, estimator).matrix, torch.as_tensor(centered(d.numpy())))
    p, q = center(d), center(e)
    expected = dcor.u_complementary_projection(q.matrix.numpy())(p.matrix.numpy())
    torch.testing.assert_close(remove(p, q).matrix, torch.as_tensor(expected))
    product = dcor.u_product(p.matrix.numpy(), q.matrix.numpy())
    assert float(inner_product(p, q)) / (12 * 9) == pytest.approx(product, rel=1e-12)


# ----------------------------------------------------- against 60-digit arithmetic


@pytest.mark.parametrize("size, tolerance", [(1e3, 1e-12), (1e5, 1e-11), (1e7, 1e-9)])
def test_one_far_outlier_costs_no_digits(size, tolerance):
    """U-centering takes the outlier out again; dcor is 1e-3 off at an outlier of 1e7."""
    x, y, z = triple(14, 3)
    x[0, 0] += size
    assert score(x, y) == pytest.approx(exact.unbiased(x, y), abs=tolerance)
    assert score(x, y, estimator="biased") == pytest.approx(exact.biased(x, y), abs=1e-13)
    assert partial(x, y, z) == pytest.approx(exact.semipartial(x, y, z), abs=tolerance)


def test_dcor_is_no_oracle_for_far_outliers(dcor):
    """Why these cases have an oracle of their own."""
    x, y, _ = triple(14, 3)
    x[0, 0] += 1e7
    assert abs(dcor.u_distance_correlation_sqr(x.numpy(), y.numpy()) - exact.unbiased(x, y)) > 1e-6


@pytest.mark.parametrize("share", [1e-2, 1e-3, 1e-4])
def test_small_remainders_lose_digits_in_proportion(share):
    """Nearly the same features, and the same clusters: next to nothing is left, a share of the squared norm of share^2."""
    x, y, z = triple(14, 3)
    tolerance = 1e-15 / share**2 + 1e-12
    close = x + share * z
    assert partial(close, y, x) == pytest.approx(exact.semipartial(close, y, x), abs=10 * tolerance)
    tight, centers = clusters(14, 3, share), clusters(14, 3, 0)
    assert partial(tight, y, centers) == pytest.approx(exact.semipartial(tight, y, centers), abs=10 * tolerance)


@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_offset_features_are_exact_as_given(offset):
    x, y, _ = each(lambda f: f + offset, *triple(14, 3))
    assert score(x, y) == pytest.approx(exact.unbiased(x, y), abs=1e-13)


# ------------------------------------------------------------------------ closed forms


def test_distances_of_a_right_triangle():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    expected = torch.tensor([[0.0, 5.0, 3.0], [5.0, 0.0, 4.0], [3.0, 4.0, 0.0]])
    # The last digit is the processor's: products are rounded as its instructions do.
    torch.testing.assert_close(euclidean_distances(x), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(unchecked_distances(x[:2], x[1:]), expected[:2, 1:], rtol=1e-6, atol=0)


def test_four_inputs_by_hand():
    """Pairings 12|34, 13|24, 14|23 have the sums (2, 4, 4) and (2, 0, 2): P ~ (-2, 1, 1) and (1, -2, 1)."""
    x, y = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    expected = torch.tensor([[0.0, -2, 1, 1], [-2, 0, 1, 1], [1, 1, 0, -2], [1, 1, -2, 0]]) / 3
    torch.testing.assert_close(geometry(x[:, None]).matrix, expected.double())
    assert score(x, y) == pytest.approx(-0.5, abs=1e-6)


def test_four_inputs_know_three_pairings_only():
    """At n = 4, P_12 = P_34 and so on: half the pairing's sum less a sixth of the total."""
    x, y, _ = triple(4, 3)

    def pairings(f: Tensor) -> Tensor:
        d = direct(f, f)
        sums = torch.stack([d[0, 1] + d[2, 3], d[0, 2] + d[1, 3], d[0, 3] + d[1, 2]])
        return sums / 2 - sums.sum() / 6

    p, q = pairings(x), pairings(y)
    assert score(x, y) == pytest.approx(float(p @ q / (p.norm() * q.norm())), abs=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_after_removal_four_inputs_can_only_agree_or_disagree(seed):
    """Two dimensions less one: the partial correlation is 1 or -1 whatever the features."""
    assert abs(partial(*triple(4, 3, seed), remove_from="both")) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("copies", [1, 2, 10])
def test_crossed_factors(copies):
    """Two balanced independent factors: 0 biased, -1 / (n - 2) unbiased."""
    x = torch.tensor([0.0, 0, 1, 1], dtype=F64).repeat(copies)
    y = torch.tensor([0.0, 1, 0, 1], dtype=F64).repeat(copies)
    assert score(x, y) == pytest.approx(-1 / (4 * copies - 2), abs=1e-14)
    assert score(x, y, estimator="biased") == pytest.approx(0, abs=1e-14)


def test_biased_score_of_two_valued_features_is_phi_squared():
    x, y = (torch.rand(50, generator=torch.Generator().manual_seed(3)) < 0.3).double(), (randn(50) > 0).double()
    y[:15] = x[:15]
    phi = torch.corrcoef(torch.stack([x, y]))[0, 1]
    assert score(x, 7 * y - 2, estimator="biased") == pytest.approx(float(phi**2), abs=1e-14)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_bivariate_normal_limit(estimator, rho):
    """Szekely, Rizzo & Bakirov 2007, theorem 7."""
    x, e = randn(2000, seed=1), randn(2000, seed=2)
    y = rho * x + math.sqrt(1 - rho**2) * e

    def covariance(r: float) -> float:
        return r * math.asin(r) + math.sqrt(1 - r**2) - r * math.asin(r / 2) - math.sqrt(4 - r**2) + 1

    assert score(x, y, estimator=estimator) == pytest.approx(covariance(rho) / covariance(1), abs=0.04)


def test_unbiased_score_averages_to_zero_over_all_permutations():
    """Whatever the features: the entries of a U-centered matrix add up to zero. The biased score stays positive."""
    x, y, _ = triple(5, 50)
    orders = [list(order) for order in itertools.permutations(range(5))]
    assert sum(score(x, y[order]) for order in orders) / len(orders) == pytest.approx(0, abs=1e-13)
    assert min(score(x, y[order], estimator="biased") for order in orders) > 0.9


# ------------------------------------------------------------------------ a new estimator


def test_every_estimator_has_a_centering():
    assert set(CENTERINGS) == set(get_args(Estimator))


@pytest.mark.parametrize("block_size", [None, 7])
def test_a_new_centering_needs_one_entry_in_the_table(monkeypatch, block_size):
    """Mantel's statistic: Pearson's correlation of the distances of all pairs, also tile by tile and of labels."""
    mantel = Centering(lambda rows, total, n: (total / (2 * n * (n - 1))).expand_as(rows), has_zero_diagonal=True)
    monkeypatch.setitem(CENTERINGS, "mantel", mantel)
    x, labels = triple(40, 3)[0], torch.arange(40) % 3
    metric = RelevanceScore(estimator="mantel", block_size=block_size)
    metric.update(x, labels)
    pairs = torch.stack([torch.nn.functional.pdist(each) for each in (x, torch.nn.functional.one_hot(labels).to(F64))])
    assert float(metric.compute()) == pytest.approx(float(torch.corrcoef(pairs)[0, 1]), abs=1e-12)
    y = triple(40, 3)[1].requires_grad_()
    found = distance_correlation(x, y, estimator="mantel", block_size=block_size)
    pairs = torch.stack([torch.nn.functional.pdist(each) for each in (x, y)])
    expected = torch.corrcoef(pairs)[0, 1]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, y)[0] for each in (found, expected)))
