"""The geometry against dcor, against 60-digit arithmetic, against closed forms, and against its own theorems."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import exact
from torch import Tensor
from torch.autograd import gradcheck

from captum_kd.distance import (
    center,
    correlation,
    cross_distances,
    distance_correlation,
    euclidean_distances,
    geometry,
    inner_product,
    is_finite,
    partial_distance_correlation,
    remove,
    u_shift,
)

F64 = torch.float64
DTYPES = [torch.float32, F64]
NOTHING_LEFT = "no geometry"


@pytest.fixture(scope="module")
def dcor():
    return pytest.importorskip("dcor")  # imported late: it compiles for seconds


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def rotation(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(randn(d, d, seed=seed))[0]


def triple(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three sets of features that have something to do with one another."""
    x = randn(n, d, seed=seed)
    y = 0.6 * x + randn(n, d, seed=seed + 1)
    return x, y, 0.5 * (x + y) + randn(n, d, seed=seed + 2)


def clusters(n: int, d: int, width: float, seed: int = 0) -> Tensor:
    return randn(4, d, seed=seed)[torch.arange(n) % 4] + width * randn(n, d, seed=seed + 1)


def direct(x: Tensor, y: Tensor) -> Tensor:
    """Distances without a matrix product."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def score(x: Tensor, y: Tensor, **kwargs) -> float:
    return float(distance_correlation(x, y, **kwargs))


def partial(x: Tensor, y: Tensor, removed: Tensor, **kwargs) -> float:
    return float(partial_distance_correlation(x, y, removed, **kwargs))


def each(change, *features: Tensor) -> list[Tensor]:
    return [change(f) for f in features]


def badly_scaled(f: Tensor) -> Tensor:
    return f * 10 ** torch.linspace(-6, 6, f.shape[1], dtype=f.dtype)


FEATURES = {
    "random": triple(60, 8),
    "fewest inputs": triple(5, 3),
    "duplicated": each(lambda f: f[torch.arange(60) // 3], *triple(60, 8)),
    "half of them the same": each(lambda f: torch.cat([f[:1].expand(30, -1), f[30:]]), *triple(60, 8)),
    "one-dimensional": triple(60, 1),
    "vectors (n,)": each(lambda f: f[:, 0], *triple(60, 1)),
    "images": each(lambda f: f.reshape(60, 3, 2, 2), *triple(60, 12)),
    "of different widths": (triple(60, 8)[0], triple(60, 8)[1][:, :1], triple(60, 8)[2][:, :3]),
    "very wide": triple(16, 20_000),
    "badly scaled columns": each(badly_scaled, *triple(60, 8)),
    "badly scaled rows": each(lambda f: f * 10 ** torch.linspace(-3, 3, 60, dtype=F64)[:, None], *triple(60, 8)),
    "far from the origin": each(lambda f: f + 1e4, *triple(60, 8)),
    "tiny": each(lambda f: f * 1e-30, *triple(60, 8)),
    "huge": each(lambda f: f * 1e30, *triple(60, 8)),
    "tight clusters": [clusters(60, 8, width, seed) for seed, width in ((0, 1e-3), (2, 1e-2), (4, 1e-1))],
    "near-duplicates": each(
        lambda f: torch.cat([f[:30], f[:30] + 1e-7 * randn(30, f.shape[1], seed=9)]), *triple(60, 8)
    ),
    "sparse": each(lambda f: torch.relu(f - 1), *triple(60, 8)),
}


# ------------------------------------------------------------------------ against dcor


@pytest.mark.parametrize("kind", FEATURES)
def test_scores_are_those_of_dcor(dcor, kind):
    x, y, z = FEATURES[kind]
    a, b, c = (f.flatten(1).numpy() if f.dim() > 1 else f.numpy() for f in (x, y, z))
    assert score(x, y) == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-9)
    assert score(x, y, estimator="biased") == pytest.approx(dcor.distance_correlation_sqr(a, b), abs=1e-9)
    expected = dcor.partial_distance_correlation(a, b, c)
    assert partial(x, y, z, remove_from="both") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", FEATURES)
def test_removal_from_one_side_is_that_of_dcor(dcor, kind):
    p, q, g = (dcor.u_centered(direct(f, f).numpy()) for f in each(lambda f: f.reshape(len(f), -1), *FEATURES[kind]))
    rest = dcor.u_complementary_projection(g)(p)
    expected = dcor.u_product(rest, q) / math.sqrt(dcor.u_product(rest, rest) * dcor.u_product(q, q))
    assert partial(*FEATURES[kind]) == pytest.approx(expected, abs=1e-9)


def test_centred_and_reduced_matrices_are_those_of_dcor(dcor):
    x, y, _ = triple(12, 5)
    d, e = euclidean_distances(x), euclidean_distances(y)
    for estimator, centred in (("unbiased", dcor.u_centered), ("biased", dcor.double_centered)):
        torch.testing.assert_close(center(d, estimator).matrix, torch.as_tensor(centred(d.numpy())))
    p, q = center(d), center(e)
    expected = dcor.u_complementary_projection(q.matrix.numpy())(p.matrix.numpy())
    torch.testing.assert_close(remove(p, q).matrix, torch.as_tensor(expected))
    product = dcor.u_product(p.matrix.numpy(), q.matrix.numpy())
    assert float(inner_product(p, q)) / (12 * 9) == pytest.approx(product, rel=1e-12)


# ----------------------------------------------------- against 60-digit arithmetic


@pytest.mark.parametrize("size, tolerance", [(1e3, 1e-12), (1e5, 1e-11), (1e7, 1e-9)])
def test_one_far_outlier_costs_no_digits(size, tolerance):
    """U-centring takes the outlier out again; dcor is 1e-3 off at an outlier of 1e7."""
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


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
def test_small_remainders_keep_their_digits(share):
    """Nearly the same features, and the same clusters: next to nothing is left."""
    x, y, z = triple(14, 3)
    tolerance = 1e-15 / share + 1e-12
    close = x + share * z
    assert partial(close, y, x) == pytest.approx(exact.semipartial(close, y, x), abs=10 * tolerance)
    tight, centres = clusters(14, 3, share), clusters(14, 3, 0)
    assert partial(tight, y, centres) == pytest.approx(exact.semipartial(tight, y, centres), abs=10 * tolerance)


@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_offset_features_are_exact_as_given(offset):
    x, y, _ = each(lambda f: f + offset, *triple(14, 3))
    assert score(x, y) == pytest.approx(exact.unbiased(x, y), abs=1e-13)


# ------------------------------------------------------------------------ closed forms


def test_distances_of_a_right_triangle():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    assert euclidean_distances(x).tolist() == [[0, 5, 3], [5, 0, 4], [3, 4, 0]]
    assert cross_distances(x[:2], x[1:]).tolist() == [[5, 3], [0, 4]]


def test_four_inputs_by_hand():
    """Pairings 12|34, 13|24, 14|23 have the sums (2, 4, 4) and (2, 0, 2): P ~ (-2, 1, 1) and (1, -2, 1)."""
    x, y = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    expected = torch.tensor([[0.0, -2, 1, 1], [-2, 0, 1, 1], [1, 1, 0, -2], [1, 1, -2, 0]]) / 3
    torch.testing.assert_close(geometry(x[:, None]).matrix, expected)
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
    """Whatever the features: the entries of a U-centred matrix add up to zero. The biased score stays positive."""
    x, y, _ = triple(5, 50)
    orders = [list(order) for order in itertools.permutations(range(5))]
    assert sum(score(x, y[order]) for order in orders) / len(orders) == pytest.approx(0, abs=1e-13)
    assert min(score(x, y[order], estimator="biased") for order in orders) > 0.9


# ---------------------------------------------------------------------------- distances


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
@pytest.mark.parametrize("kind", FEATURES)
def test_cross_distances_are_those_of_single_subtractions(kind, dtype):
    features = FEATURES[kind][0].reshape(len(FEATURES[kind][0]), -1).to(dtype)
    x, y = features[: len(features) * 2 // 3], features[len(features) // 2 :]
    expected = direct(x, y)
    error = (cross_distances(x, y).double() - expected).abs().max() / expected.max()
    assert float(error) < rounding(x)


@pytest.mark.parametrize("dtype, gap", [(torch.float32, 1e-3), (F64, 1e-9)])
def test_near_duplicates_have_the_distance_that_their_values_have(dtype, gap):
    """Relative to the distance itself, not to the features' size."""
    x = randn(40, 6, dtype=dtype)
    few = torch.cat([x, x[:2] + gap])
    expected = direct(few, few)[[0, 1], [40, 41]]
    assert 0 < float(expected.max()) < 10 * gap
    torch.testing.assert_close(euclidean_distances(few)[[0, 1], [40, 41]].double(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(cross_distances(x, few[40:])[[0, 1], [0, 1]].double(), expected, rtol=1e-3, atol=0)


def test_distances_whose_squares_vanish():
    x = torch.tensor([[1.0], [-1.0], [0.0], [1e-30]])
    torch.testing.assert_close(euclidean_distances(x)[2, 3], torch.tensor(1e-30), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_coincident_rows_are_at_distance_zero(dtype):
    x = randn(20, 300, dtype=dtype) + 1e3
    d = euclidean_distances(torch.cat([x, x]))
    assert d.diagonal().count_nonzero() == 0 and d[:20, 20:].diagonal().count_nonzero() == 0
    assert cross_distances(x, x).diagonal().count_nonzero() == 0
    assert (d > 0).sum() == 40 * 38


@pytest.mark.parametrize(
    "dtype, size", [(torch.float32, 1e-38), (torch.float32, 1e37), (F64, 1e-300), (F64, 1e300), (F64, 1e60)]
)
def test_distances_neither_overflow_nor_vanish(dtype, size):
    x = randn(9, 4, dtype=dtype)
    small = x * size
    torch.testing.assert_close(euclidean_distances(small) / size, euclidean_distances(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(cross_distances(small, small[:3]) / size, cross_distances(x, x[:3]), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------- gradients


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


FUNCTIONS = {
    "unbiased": distance_correlation,
    "biased": lambda x, y: distance_correlation(x, y, estimator="biased"),
    "partial, from x": lambda x, y: partial_distance_correlation(x, y, randn(7, 3, seed=5)),
    "partial, from both": lambda x, y: partial_distance_correlation(x, y, randn(7, 3, seed=5), remove_from="both"),
    "partial, removed": lambda x, y: partial_distance_correlation(randn(7, 3, seed=5), x, y),
    "distances": lambda x, y: (euclidean_distances(x), euclidean_distances(y)),
    "cross distances": cross_distances,
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
    found, expected = (torch.autograd.grad(partial_distance_correlation(*three), three)[0] for three in (single, double))
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_coincident_points_pull_nowhere():
    x = leaf(torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]]))
    euclidean_distances(x)[0, 1].backward()
    assert x.grad.tolist() == [[0, 0], [0, 0], [0, 0]]
    x, y = leaf(torch.ones(2, 2)), leaf(torch.ones(3, 2))
    cross_distances(x, y).sum().backward()
    assert x.grad.count_nonzero() == 0 and y.grad.count_nonzero() == 0


def test_second_derivatives_are_refused():
    x, y, _ = triple(6, 2)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(distance_correlation(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_autocast_does_not_reach_the_distances():
    x, y, z = each(lambda f: f.float(), *triple(50, 200))
    expected = torch.autograd.grad(partial_distance_correlation(x.requires_grad_(), y, z), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(partial_distance_correlation(x, y, z), x)
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------ float32, others

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


def test_geometries_of_different_types_meet_in_the_first():
    """Also where the second one's size is beyond float32."""
    x, y, _ = triple(30, 5)
    own = geometry(x.float())
    for size in (1, 1e60, 1e-60):
        other = geometry(y * size).to_like(own)
        assert other.matrix.dtype == torch.float32
        assert float(correlation(own, other)) == pytest.approx(score(x, y), abs=1e-6)


# ---------------------------------------------------------------------------- degenerate

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
    assert_nothing(partial_distance_correlation, x, y, z)
    assert_nothing(lambda x, y, z: partial_distance_correlation(y, x, z), x, y, z)


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
    assert_nothing(partial_distance_correlation, x.to(dtype), y.to(dtype), (x @ rotation(16)).to(dtype))


@pytest.mark.parametrize("dtype, d", [(torch.float32, 50_000), (F64, 20_000)])
def test_nothing_is_left_of_a_wide_copy(dtype, d):
    x, y, _ = each(lambda f: f.to(dtype), *triple(20, d))
    assert_nothing(partial_distance_correlation, x, y, 3 * x.flip(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equidistant_features_score_zero(dtype):
    """All distances equal, and one input against the rest: U-centring leaves nothing of either."""
    y = randn(30, 5, dtype=dtype)
    assert_nothing(distance_correlation, torch.eye(30, dtype=dtype), y)
    assert_nothing(distance_correlation, torch.eye(30, dtype=dtype)[0], y)


def test_small_structure_is_no_noise():
    """What is left is scored down to a share of 1e-9, not taken for rounding."""
    x, y, z = triple(30, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(partial(x + 1e-9 * z, y, x)) > 1e-3


def test_correlation_can_be_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(correlation(geometry(torch.ones(5, 2)), geometry(randn(5, 2)), warn=False)) == 0


def test_features_without_geometry_are_warned_of_at_the_call():
    with pytest.warns(UserWarning, match=NOTHING_LEFT) as caught:
        distance_correlation(torch.ones(5, 2), randn(5, 2, dtype=torch.float32))
    assert caught[0].filename == __file__


# -------------------------------------------------------------------------------- errors

X = torch.randn(6, 3)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (([[1.0]], X), TypeError, "x must be a tensor of shape .* got list"),
        ((X, X.numpy()), TypeError, "y must be a tensor .* got ndarray"),
        ((X, X.to(torch.complex64)), TypeError, "y must be real, got dtype torch.complex64"),
        ((X[:3], X[:3]), ValueError, r"x has shape \(3, 3\); .* at least 4"),
        ((X, torch.tensor(1.0)), ValueError, r"y has shape \(\)"),
        ((X, X[:5]), ValueError, "x has 6 inputs but y has 5"),
        ((X, X[:, :0]), ValueError, "y has shape .* no features"),
        ((X, X.to("meta")), TypeError, "y must be an ordinary dense tensor.* 'meta'"),
        ((X, X.where(X != X[4, 1], torch.nan)), ValueError, "y has non-finite"),
        ((X.where(X != X[4, 1], -torch.inf), X), ValueError, "x has non-finite"),
    ],
)
def test_unfit_features_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        distance_correlation(*arguments)
    with pytest.raises(error, match=words):
        partial_distance_correlation(*arguments, X)


def test_unfit_features_to_remove_are_refused_by_name():
    with pytest.raises(ValueError, match="given has 5"):
        partial_distance_correlation(X, X, X[:5])


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="estimator must be 'unbiased' or 'biased', got 'u'"):
        distance_correlation(X, X, estimator="u")
    with pytest.raises(ValueError, match="remove_from must be 'x' or 'both', got 'y'"):
        partial_distance_correlation(X, X, X, remove_from="y")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_distances_of_non_finite_features_are_refused(bad):
    x = X.clone()
    x[2, 1] = bad
    assert is_finite(X) and not is_finite(x)
    for function in (euclidean_distances, geometry, lambda x: cross_distances(x, X), lambda x: cross_distances(X, x)):
        with pytest.raises(ValueError, match="non-finite"):
            function(x)


# ------------------------------------------------------------------------------ theorems

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
            partial_distance_correlation(x, y, z),
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
def test_rows_of_centred_matrices_add_up_to_zero(population):
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
