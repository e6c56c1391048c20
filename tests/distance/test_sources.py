"""Distances that are asked for a block at a time are those of all features at once."""

import pytest
import torch
from reference.geometries import correlation, remove
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.distance.blockwise import block_correlation, source_correlation
from captum_kd.distance.centering import center, geometry, noise_level
from captum_kd.distance.sources import FeatureDistances, MatrixDistances, TensorFeatures

FLOATS = [torch.float32, torch.float64]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(source: FeatureDistances) -> Tensor:
    return source.block(slice(0, source.n), slice(0, source.n))


# ---------------------------------------------------------------------------- a matrix that is held


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_matrix_is_its_own_source(dtype):
    matrix = euclidean_distances(random(9, 4, dtype=dtype))
    source = MatrixDistances(matrix)
    assert (source.n, source.device, source.noise) == (9, matrix.device, noise_level(dtype))
    assert torch.equal(source.block(slice(2, 5), slice(4, 9)), matrix[2:5, 4:9])
    shift, exact = source.shift()
    assert exact is True and shift.dtype == torch.float64
    centered = matrix.double() - shift[:, None] - shift
    torch.testing.assert_close(centered.fill_diagonal_(0), center(matrix.double()).matrix)


def test_the_noise_of_a_matrix_may_be_that_of_narrower_features():
    assert MatrixDistances(torch.zeros(4, 4), noise=0.0).noise == 0.0


# ---------------------------------------------------------------------------- features in a tensor


def test_features_in_a_tensor():
    values = random(6, 5, dtype=torch.float32)
    features = TensorFeatures(values)
    assert (features.shape, features.dtype, features.device) == ((6, 5), torch.float32, values.device)
    assert torch.equal(features.read(slice(1, 4), slice(2, 5)), values[1:4, 2:5])
    torch.testing.assert_close(features.middle(), values.mean(0))
    assert features.largest() == float(values.abs().max())


# ---------------------------------------------------------------------------- features that are looked at again


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kept", [True, False], ids=["shifted features kept", "read again"])
@pytest.mark.parametrize("width", [3, 17])
def test_blocks_are_those_of_all_distances(width, kept, dtype, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 4)  # float32 stays float32
    monkeypatch.setattr("captum_kd.distance.sources._READ_COLUMNS", 5)
    if not kept:
        monkeypatch.setattr("captum_kd.distance.sources._KEPT_NUMBERS", 0)
    x = random(80, width, dtype=dtype) + 100
    source = FeatureDistances(TensorFeatures(x))
    expected = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for rows, columns in [(slice(0, 80), slice(0, 80)), (slice(0, 30), slice(30, 80)), (slice(70, 80), slice(0, 7))]:
        found = source.block(rows, columns)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected[rows, columns], **tolerance)
    assert whole(source).diagonal().count_nonzero() == 0
    assert torch.equal(source.matrix().matrix, whole(source)) and source.matrix().noise == source.noise


@pytest.mark.parametrize("numbers", [1, 40, 400])
def test_columns_are_read_in_parts_that_memory_holds(numbers, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.sources._READ_NUMBERS", numbers)
    monkeypatch.setattr("captum_kd.distance.sources._KEPT_NUMBERS", 0)
    x, reads = random(10, 7), []

    class Watched(TensorFeatures):
        def read(self, rows: slice, columns: slice) -> Tensor:
            reads.append(super().read(rows, columns))
            return reads[-1]

    source = FeatureDistances(Watched(x))
    torch.testing.assert_close(source.block(slice(0, 4), slice(4, 10)), torch.cdist(x[:4], x[4:]))
    assert max(read.numel() for read in reads) <= max(numbers, 6)  # at least one column of the longer side
    assert all(read.shape[1] == min(7, max(1, numbers // 6)) for read in reads[:2])


@pytest.mark.parametrize(
    ("n", "dtype", "expected"),
    [(64, torch.float32, torch.float64), (65, torch.float32, torch.float32), (65, torch.float64, torch.float64)],
)
def test_distances_of_few_features_are_float64(n, dtype, expected, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 64)
    source = FeatureDistances(TensorFeatures(random(n, 3, dtype=dtype)))
    assert source.dtype == expected and whole(source).dtype == expected
    assert source.noise == noise_level(dtype)  # of the features, however they are computed


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_distances_are_in_units_of_a_power_of_two(size):
    x = random(8, 4, dtype=torch.float32)
    source = FeatureDistances(TensorFeatures((x.double() * size).float()))
    assert (source.unit == 1) == (size == 1)
    torch.testing.assert_close(whole(source) * (source.unit / size), torch.cdist(x.double(), x.double()), rtol=1e-5, atol=1e-6)


def test_features_have_to_be_finite():
    with pytest.raises(ValueError, match="non-finite"):
        FeatureDistances(TensorFeatures(torch.tensor([[1.0], [float("nan")], [2.0], [3.0]])))


@pytest.mark.parametrize("n", [20, 511, 512, 1100])
def test_a_guess_of_what_centering_takes(n):
    """Exact where all distances can be looked at; elsewhere what is left is small beside the distances."""
    x = random(n, 3)
    shift, exact = FeatureDistances(TensorFeatures(x)).shift()
    assert exact == (n < 512) and shift.shape == (n,) and shift.dtype == torch.float64
    distances = euclidean_distances(x)
    left = (distances - shift[:, None] - shift).fill_diagonal_(0)
    best = center(distances).matrix
    if exact:
        torch.testing.assert_close(left, best)
    else:
        assert best.norm() <= left.norm() < 1.2 * best.norm()
        assert (left - best).abs().amax() < 0.2 * distances.mean()


@pytest.mark.parametrize("n", [10, 37, 64, 67])
def test_the_guess_is_the_mean_distance_to_anchors_less_half_of_theirs(n, monkeypatch):
    """Every so many inputs are the anchors; the others are read eight times as many at a time."""
    monkeypatch.setattr("captum_kd.distance.sources._ANCHORS", 4)
    x = random(n, 3)
    far = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")[:, :: n // 4]
    shift, exact = FeatureDistances(TensorFeatures(x)).shift()
    assert exact is False and shift.dtype == torch.float64
    torch.testing.assert_close(shift, far.mean(1) - far[:: n // 4].mean() / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("anchors", [4, 256])
def test_what_is_taken_from_float32_is_summed_in_float64(anchors, monkeypatch):
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 4)  # float32 stays float32
    monkeypatch.setattr("captum_kd.distance.sources._ANCHORS", anchors)
    source = FeatureDistances(TensorFeatures(random(70, 3, dtype=torch.float32)))
    assert source.block(slice(0, 70), slice(0, 70)).dtype == torch.float32
    found, exact = source.shift()
    assert found.dtype == torch.float64 and exact == (anchors == 256)


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_distances_at_once_keep_the_features_noise(dtype):
    source = FeatureDistances(TensorFeatures(random(9, 3, dtype=dtype)))
    held = source.matrix()
    assert held.noise == noise_level(dtype) and held.matrix.dtype == torch.float64
    found, exact = source.shift()
    expected, same = held.shift()
    assert exact is same is True and torch.equal(found, expected)


def test_shifted_features_are_kept_up_to_a_number(monkeypatch):
    reads = []

    class Watched(TensorFeatures):
        def read(self, rows: slice, columns: slice) -> Tensor:
            reads.append((rows, columns))
            return super().read(rows, columns)

    for numbers, keep, times in [(27, True, 1), (26, True, 3), (27, False, 3)]:
        monkeypatch.setattr("captum_kd.distance.sources._KEPT_NUMBERS", numbers)
        reads.clear()
        source = FeatureDistances(Watched(random(9, 3)), keep=keep)
        for _ in range(3):
            source.block(slice(0, 9), slice(0, 9))
        assert len(reads) == times


# ---------------------------------------------------------------------------- scores


@pytest.mark.parametrize("block_size", [7, 100])
@pytest.mark.parametrize("held", [True, False], ids=["matrices", "features"])
def test_scores_of_sources_are_those_of_geometries(held, block_size):
    three = [random(30, width, seed=width) for width in (2, 3, 4)]
    sources = [MatrixDistances(euclidean_distances(x)) if held else FeatureDistances(TensorFeatures(x)) for x in three]
    p, q, g = (geometry(x) for x in three)
    biased = correlation(*(geometry(x, "biased") for x in three[:2]))
    for found, expected in [
        (source_correlation(sources, "unbiased", block_size), correlation(p, q)),
        (source_correlation(sources, "biased", block_size), biased),
        (source_correlation(sources, "unbiased", block_size, [2]), correlation(remove(p, g), q)),
        (source_correlation(sources, "unbiased", block_size, [2], [2]), correlation(remove(p, g), remove(q, g))),
    ]:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_of_scores_that_are_defined():
    x, y = (random(12, width, seed=width) for width in (3, 4))
    assert -1 < float(source_correlation([FeatureDistances(TensorFeatures(each)) for each in (x, y)], "unbiased", 5)) < 1
    assert -1 < float(block_correlation([x, y], "unbiased", 5)) < 1


def test_sources_without_geometry_score_zero_with_a_warning():
    sources = [FeatureDistances(TensorFeatures(x)) for x in (torch.ones(9, 2, dtype=torch.float64), random(9, 2))]
    with pytest.warns(UserWarning, match="no geometry"):
        assert float(source_correlation(sources, "unbiased", 4)) == 0
