"""Scores from blocks of distances: those of whole matrices and of dcor, whatever the blocks."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import exact
from reference.geometries import correlation
from torch import Tensor
from torch.autograd import gradcheck

from captum_kd.distance import (
    blockwise,
    distance_correlation,
    euclidean_distances,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.distance.block_sums import population_sums, tiles
from captum_kd.distance.centering import CENTERINGS, center
from captum_kd.distance.pairwise import CHUNK
from captum_kd.distance.sources import FeatureDistances, MatrixDistances, TensorFeatures

F64 = torch.float64
fair = settings(deadline=None, max_examples=15)


def triple(n: int, d: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x, e, f = (torch.randn(n, d, generator=draw, dtype=F64) for _ in range(3))
    y = 0.6 * x + e
    return [x, y, 0.5 * (x + y) + f]


def scores(x: Tensor, y: Tensor, z: Tensor, **kwargs: int) -> Tensor:
    """All that the two functions have to say."""
    return torch.stack(
        [
            distance_correlation(x, y, **kwargs),
            distance_correlation(x, y, estimator="biased", **kwargs),
            semipartial_distance_correlation(x, y, z, **kwargs),
            partial_distance_correlation(x, y, z, remove_from="both", **kwargs),
        ]
    ).double()


def duplicated(x: Tensor) -> Tensor:
    return x[torch.arange(len(x)) // 2]


def with_outlier(x: Tensor) -> Tensor:
    return torch.cat([x[:1] + 1e5, x[1:]])


def clustered(x: Tensor) -> Tensor:
    return x[torch.arange(len(x)) % 3] + 1e-2 * x


KINDS = {"plain": lambda x: x, "duplicates": duplicated, "outlier": with_outlier, "clusters": clustered}
populations = st.fixed_dictionaries({"n": st.integers(5, 40), "d": st.integers(1, 12), "seed": st.integers(0, 10**6)})


@fair
@given(populations, st.integers(4, 50), st.sampled_from(sorted(KINDS)))
def test_blocks_of_any_size_give_the_scores_of_whole_matrices(population, block_size, kind):
    three = [KINDS[kind](each) for each in triple(**population)]
    torch.testing.assert_close(scores(*three, block_size=block_size), scores(*three), rtol=0, atol=1e-8)


@fair
@given(populations, st.integers(4, 50), st.sampled_from(["plain", "duplicates"]))
def test_blocks_in_float32_are_right_to_six_digits(population, block_size, kind):
    three = [KINDS[kind](each).float() for each in triple(**population)]
    expected = scores(*(each.double() for each in three))
    torch.testing.assert_close(scores(*three, block_size=block_size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("block_size", [1, 2, 6, 7])
def test_blocks_of_single_inputs(block_size):
    three = triple(7, 3)
    torch.testing.assert_close(scores(*three, block_size=block_size), scores(*three), rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_size", [100, 128, 512])
def test_more_float32_inputs_than_are_computed_in_float64(block_size):
    three = [each.float() for each in triple(300, 40)]
    expected = scores(*(each.double() for each in three))
    torch.testing.assert_close(scores(*three, block_size=block_size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "duplicates", "clusters"])
def test_scores_are_those_of_dcor(kind):
    dcor = pytest.importorskip("dcor")
    x, y, z = (KINDS[kind](each) for each in triple(50, 6))
    a, b, c = x.numpy(), y.numpy(), z.numpy()
    found = scores(x, y, z, block_size=13)
    assert float(found[0]) == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-9)
    assert float(found[1]) == pytest.approx(dcor.distance_correlation_sqr(a, b), abs=1e-9)
    assert float(found[3]) == pytest.approx(dcor.partial_distance_correlation(a, b, c), abs=1e-9)


@pytest.mark.parametrize("size, tolerance", [(1e3, 1e-12), (1e5, 1e-11), (1e7, 1e-9)])
def test_one_far_outlier_costs_no_digits(size, tolerance):
    x, y, z = triple(14, 3)
    x[0, 0] += size
    found = scores(x, y, z, block_size=4)
    assert float(found[0]) == pytest.approx(exact.unbiased(x, y), abs=tolerance)
    assert float(found[1]) == pytest.approx(exact.biased(x, y), abs=1e-12)
    assert float(found[2]) == pytest.approx(exact.semipartial(x, y, z), abs=tolerance)


@pytest.mark.parametrize("place", [0, 1])
def test_outliers_do_not_spoil_the_guess_of_what_centering_takes(place):
    """More inputs than there are anchors; the outlier is one of them or is not."""
    x, y, z = triple(600, 3)
    x[place] += 1e7
    torch.testing.assert_close(scores(x, y, z, block_size=200), scores(x, y, z), rtol=0, atol=1e-9)


@pytest.mark.parametrize("constant", ["x", "y"])
def test_constant_features_score_zero_with_a_warning(constant):
    x, y, _ = triple(20, 3)
    x, y = (torch.ones_like(x), y) if constant == "x" else (x, torch.ones_like(y))
    x.requires_grad_()
    with pytest.warns(UserWarning, match="no geometry"):
        found = distance_correlation(x, y, block_size=6)
    found.backward()
    assert float(found.detach()) == 0 and x.grad is not None and x.grad.count_nonzero() == 0


@pytest.mark.parametrize("requires_grad", [False, True])
def test_constant_features_are_warned_of_at_the_call(requires_grad):
    x = torch.ones(20, 3, requires_grad=requires_grad)
    with pytest.warns(UserWarning, match="no geometry") as caught:
        distance_correlation(x, triple(20, 3)[1].to(x), block_size=6)
    assert caught[0].filename == __file__


def test_nothing_is_left_of_a_copy_and_constant_features_remove_nothing():
    x, y, _ = triple(40, 5)
    with pytest.warns(UserWarning, match="no geometry"):
        assert float(semipartial_distance_correlation(x, y, 3 * x.flip(1), block_size=9)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = semipartial_distance_correlation(x, y, torch.ones_like(x), block_size=9)
    assert float(found) == pytest.approx(float(distance_correlation(x, y)), abs=1e-12)


@pytest.mark.parametrize("block_size", [3, 20])
@pytest.mark.parametrize("changed", ["plain", "duplicates"])
def test_gradients(block_size, changed):
    leaves = [KINDS[changed](each).clone().requires_grad_() for each in triple(8, 3)]
    step = {"eps": 1e-8, "atol": 1e-4} if changed == "duplicates" else {}
    assert gradcheck(lambda x, y, z: scores(x, y, z, block_size=block_size), tuple(leaves), **step)


def test_gradients_are_those_of_whole_matrices():
    grads = []
    for block_size in (None, 70):
        x, y, z = (each.requires_grad_() for each in triple(150, 4))
        semipartial_distance_correlation(x, y, z, block_size=block_size).backward()
        grads.append(torch.cat([x.grad, y.grad, z.grad]))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-12)


def test_features_of_any_size():
    x, y, z = triple(30, 4)
    for size in (1e-150, 1e150):
        torch.testing.assert_close(scores(x * size, y, z / size, block_size=8), scores(x, y, z), rtol=0, atol=1e-9)
    leaf = (1e30 * x).requires_grad_()
    distance_correlation(leaf, y, block_size=8).backward()
    whole = x.clone().requires_grad_()
    distance_correlation(whole, y).backward()
    torch.testing.assert_close(1e30 * leaf.grad, whole.grad, rtol=1e-9, atol=1e-12)


def test_many_inputs_come_in_blocks_by_themselves(monkeypatch):
    asked = []
    whole = blockwise.population_sums
    monkeypatch.setattr(blockwise, "population_sums", lambda *a, **k: asked.append(k["block_size"]) or whole(*a, **k))
    monkeypatch.setattr(blockwise, "MOST_DENSE", 50)
    x, y, _ = triple(50, 2)
    distance_correlation(x, y)
    assert asked == []
    more = torch.cat([x, x[:1] + 1]), torch.cat([y, y[:1]])
    found = distance_correlation(*more)
    assert asked == [blockwise.block_side(torch.device("cpu"))]
    monkeypatch.undo()
    assert float(found) == pytest.approx(float(distance_correlation(*more)), abs=1e-12)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "all"])
def test_block_sizes_that_are_none_are_refused(bad):
    x, y, z = triple(6, 2)
    with pytest.raises(ValueError, match="block_size must be a positive integer"):
        distance_correlation(x, y, block_size=bad)
    with pytest.raises(ValueError, match="block_size must be a positive integer"):
        semipartial_distance_correlation(x, y, z, block_size=bad)


# ------------------------------------------------------------------------- building blocks


def test_tiles_meet_every_pair_once():
    seen = torch.zeros(23, 23)
    for rows, columns in tiles(23, 5):
        seen[rows, columns] += 1
        if rows != columns:
            seen[columns, rows] += 1
    assert bool((seen == 1).all())


@pytest.mark.parametrize("estimator", CENTERINGS)
def test_centering_vectors_and_products_are_those_of_matrices(estimator):
    features = triple(300, 3)
    sums = population_sums([FeatureDistances(TensorFeatures(each)) for each in features], block_size=128)
    for place, each in enumerate(features):
        distances, centered = euclidean_distances(each), center(euclidean_distances(each), estimator).matrix
        shift = sums.u_shifts(estimator)[place]
        off = ~torch.eye(300, dtype=torch.bool)
        torch.testing.assert_close((distances - shift[:, None] - shift)[off], centered[off], rtol=0, atol=1e-10)
        assert float(sums.gram(estimator)[place, place]) == pytest.approx(float((centered**2).sum()), rel=1e-10)


def test_sums_by_row_must_have_been_asked_for():
    with pytest.raises(ValueError, match="by_row"):
        population_sums([MatrixDistances(euclidean_distances(triple(6, 2)[0]))]).without_each()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_wide_features_are_read_in_chunks_of_columns(kind, dtype):
    class Recorded(TensorFeatures):
        def read(self, rows: slice, columns: slice) -> Tensor:
            widths.append(columns.stop - columns.start)
            return super().read(rows, columns)

    widths: list[int] = []
    x = KINDS[kind](triple(70, 2 * CHUNK + 100)[0]).to(dtype)
    source = FeatureDistances(Recorded(x))
    source._kept = None  # as if they were too many to be kept
    widths.clear()
    expected = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    for rows, columns in ((slice(0, 70), slice(0, 70)), (slice(10, 40), slice(40, 70)), (slice(0, 70), slice(0, 70, 9))):
        found = source.block(rows, columns).double()
        # As near as the size of the features' rows lets them be.
        assert float((found - expected[rows, columns]).abs().max()) < 300 * torch.finfo(dtype).eps * expected.max()
    assert max(widths) == 4096 and 100 in widths


def test_correlation_of_matrices_is_that_of_sums():
    x, y, _ = triple(90, 3)
    p, q = (center(euclidean_distances(each)) for each in (x, y))
    assert float(distance_correlation(x, y, block_size=32)) == pytest.approx(float(correlation(p, q)), abs=1e-12)
