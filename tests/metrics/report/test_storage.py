"""Reports whose features or distances do not fit: the same scores, and no file that stays."""

import mmap
import os
import pathlib
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from population import batches, compare, data, related
from torch import Tensor

from captum_kd.metrics import feature_similarity_score, relevance_score
from captum_kd.metrics.report import storage
from captum_kd.metrics.report.memory import MemoryLimit
from captum_kd.metrics.report.projection import RandomProjection, relative_error
from captum_kd.metrics.report.storage import FeatureStore

CPU = torch.device("cpu")
FOLDER = pathlib.Path("/proc/self/fd")
# Bytes: enough for the distances of two models' 33 inputs at conv2 (36 and 40 where batches of 4 and 8 are counted), not
# for their features too.
LIMIT, LIMIT_OF_FOURS, LIMIT_OF_EIGHTS = 300_000, 330_000, 375_000


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def report(**settings):
    students = {"a": related(1), "b": related(2)}
    everything = {"teacher": related(5), "confidence": 0.9, "n_permutations": 50, "progression": True}
    return compare(students, {"c": related(3), "d": related(4)}, ["conv1", "conv2"], batches(8), **everything, **settings)


@pytest.fixture(scope="module")
def plain():
    return report()


def assert_same(found, expected, tolerance: float = 1e-7) -> None:
    """Features in float32 of two runs of a network may differ in the last digit, which removal magnifies."""
    assert len(found.rows) == len(expected.rows)
    for one, other in zip(found.rows, expected.rows):
        assert_same_record(one, other, tolerance)
    for one, other in zip(_tests(found), _tests(expected)):
        assert_same_record(one, other, tolerance)
    assert len(_tests(found)) == len(_tests(expected))


def assert_same_record(one, other, tolerance: float) -> None:
    for key, value in one.items():
        if isinstance(value, float):
            assert value == pytest.approx(other[key], abs=tolerance), (one, other)
        else:
            assert value == other[key], (one, other)


def _tests(report) -> list:
    control = report.to_dict()["seed_control"]
    return [] if control is None else control["tests"]


@pytest.mark.parametrize("block_size", [5, 16, 1000])
def test_blocks_give_the_report_of_whole_matrices(plain, block_size):
    """Intervals, permutations, progression and seed control with them."""
    found = report(block_size=block_size)
    assert_same(found, plain)
    assert found.to_dict()["settings"]["features"]["block_size"] == block_size
    assert plain.to_dict()["settings"]["features"] == {
        "in_file": False,
        "half_precision": False,
        "random_projection": None,
        "distances_standard_error": None,
        "block_size": None,
    }


def test_biased_scores_too(plain):
    assert_same(report(block_size=7, estimator="biased"), report(estimator="biased"))


def test_features_above_the_limit_wait_in_a_file(temporary):
    found = compare(related(1), related(2), "conv2", batches(8), memory_limit=LIMIT_OF_EIGHTS)
    assert found.to_dict()["settings"]["features"]["in_file"]
    assert_same(found, compare(related(1), related(2), "conv2", batches(8)))
    assert os.listdir(temporary) == []


def open_files() -> int:
    return len(os.listdir(FOLDER)) if FOLDER.exists() else 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_file_stays_when_something_breaks(temporary, error):
    def breaks(values: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 9:
            raise error("stop")
        return values.flatten(1)

    calls: list[int] = []
    before = open_files()
    with pytest.raises(error):
        compare(related(1), related(2), "conv2", batches(4), memory_limit=LIMIT_OF_FOURS, feature_transform=breaks)
    assert os.listdir(temporary) == []
    assert len(calls) == 9 and open_files() == before


def test_half_precision_and_projection_come_near(plain):
    found = report(half_precision=True)
    assert_near(found, plain, 0.01)
    found = report(random_projection=150)
    assert_near(found, plain, 0.35)
    features = found.to_dict()["settings"]["features"]
    assert features["distances_standard_error"] == pytest.approx((0.5 / 150) ** 0.5)


def assert_near(found, expected, tolerance: float) -> None:
    wrong = [abs(one["value"] - other["value"]) for one, other in zip(found.rows, expected.rows)]
    assert 0 < max(wrong) < tolerance


def test_a_disk_that_is_too_small_is_said_before_it_is_full(monkeypatch):
    from captum_kd.metrics.report import memory

    usage = memory.shutil.disk_usage("/")
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ValueError, match="TMPDIR.*half_precision=True.*random_projection"):
        compare(related(1), related(2), "conv2", [data()], memory_limit=LIMIT)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"block_size": 0}, "block_size"),
        ({"half_precision": "yes"}, "half_precision must be True or False"),
        ({"random_projection": 0}, "random_projection must be a positive integer"),
        ({"block_size": 8, "population": "batch"}, 'belong to population="all"'),
        ({"random_projection": 8, "population": "batch"}, 'belong to population="all"'),
    ],
)
def test_choices_that_cannot_be(wrong, words):
    with pytest.raises((TypeError, ValueError), match=words):
        compare(related(1), related(2), "conv1", [data()], **wrong)


def test_placement():
    """Features first leave memory where distances fit, distances are given up where they do not."""
    mib = 2**20

    def place(limit, n, width, **settings):
        return MemoryLimit(limit, [], 2, **settings).place(2 * 4 * n * width, width, n)

    assert place(None, 1000, 10)[:2] == (False, True)
    assert place(None, 5000, 10)[:2] == (False, False)
    assert place(None, 1000, 10, block_size=100) == (False, False, 100)
    assert place(1000 * mib, 1000, 800_000)[:2] == (True, True)
    assert place(200 * mib, 4000, 100)[:2] == (False, False)
    assert place(400 * mib, 4000, 100_000)[:2] == (True, False)
    with pytest.raises(ValueError, match="smaller block_size"):
        place(mib, 4000, 100_000)


# -------------------------------------------------------------------------------- stores


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    width=st.integers(1, 9),
    bounds=st.tuples(*[st.integers(0, 40)] * 4),
    step=st.integers(1, 4),
    moved_after=st.integers(0, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_stores_give_back_what_they_were_given(sizes, width, bounds, step, moved_after, dtype):
    draw = torch.Generator().manual_seed(sum(sizes))
    store, whole = FeatureStore(CPU), []
    for place, size in enumerate(sizes):
        if place == moved_after:
            store.move_to_file()
        whole.append(torch.randn(size, width, generator=draw, dtype=dtype))
        store.append(whole[-1])
    joined = torch.cat(whole)
    n = len(joined)
    first, stop = sorted(min(each, n) for each in bounds[:2])
    rows = slice(min(first, n - 1), max(stop, min(first, n - 1) + 1), step)
    columns = slice(min(bounds[2], width - 1), width)
    assert torch.equal(store.read(rows, columns), joined[rows, columns])
    assert store.shape == tuple(joined.shape) and store.dtype == dtype
    assert store.largest() == float(joined.abs().max())
    torch.testing.assert_close(store.middle(), joined.mean(0))
    assert store.in_file == (moved_after < len(sizes))
    store.close()


def store_in_file(n: int, width: int, half: bool = False, dtype: torch.dtype = torch.float32) -> tuple[FeatureStore, Tensor]:
    """Integers, which half types keep too."""
    values = torch.randint(-999, 1000, (n, width), generator=torch.Generator().manual_seed(n)).to(dtype)
    store = FeatureStore(CPU, half)
    store.move_to_file()
    store.append(values)
    return store, values


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [1, 100, 3000, 20_000, 2**20], ids=lambda size: f"windows of {size} bytes")
def test_reads_go_through_the_file_in_windows(window, dtype, half, monkeypatch):
    """Windows smaller than a row, smaller than the rows wanted and larger than all; few begin where a page does."""
    monkeypatch.setattr(storage, "_WINDOW", window)
    store, values = store_in_file(23, 701, half, dtype)
    for rows in (slice(0, 23), slice(5, 6), slice(1, 22, 3), slice(7, 23, 16)):
        for columns in (slice(0, 701), slice(13, 14), slice(699, 701), slice(100, 600, 7)):
            assert torch.equal(store.read(rows, columns), values[rows, columns])
    assert store.read(slice(4, 4), slice(0, 701)).shape == (0, 701)
    store.close()


@pytest.mark.parametrize("step", [1, 3])
def test_no_more_of_the_file_is_mapped_than_a_window(step, monkeypatch):
    """But for what lies between a window's first number and the page before it."""
    mapped: list[int] = []

    class Watched(mmap.mmap):
        def __new__(cls, fileno, length, **settings):
            mapped.append(length)
            assert settings["offset"] % mmap.ALLOCATIONGRANULARITY == 0
            return super().__new__(cls, fileno, length, **settings)

    monkeypatch.setattr(storage, "_WINDOW", 30_000)
    store, values = store_in_file(40, 5000)
    monkeypatch.setattr(storage.mmap, "mmap", Watched)
    rows = slice(3, 40, step)
    assert torch.equal(store.read(rows, slice(17, 5000)), values[rows, 17:])
    assert len(mapped) > 10 and max(mapped) <= 30_000 + mmap.ALLOCATIONGRANULARITY
    store.close()


@pytest.mark.parametrize("in_file", [False, True])
def test_half_precision_keeps_eleven_bits_of_features_of_any_size(in_file):
    store = FeatureStore(CPU, half=True)
    values = torch.randn(6, 50) * 10 ** torch.linspace(-20, 20, 6)[:, None]
    values[3] = 0
    store.append(values)
    if in_file:
        store.move_to_file()
    found = store.read(slice(0, 6), slice(0, 50))
    assert float(((found - values).abs().amax(1) / values.abs().amax(1).clamp(min=1e-30)).max()) <= 2**-11
    assert store.bytes == 2 * values.numel()


def test_projected_distances_have_the_error_that_is_stated():
    x = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = float((x[0] - x[1]).norm())
    found = [RandomProjection(64, seed)(x) for seed in range(300)]
    errors = torch.tensor([float((each[0] - each[1]).norm()) / truth - 1 for each in found])
    assert abs(float(errors.mean())) < 0.02
    assert float(errors.std()) == pytest.approx(relative_error(64), rel=0.15)
    narrow = x[:, :64]
    assert RandomProjection(64, 0)(narrow) is narrow


# -------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("block_size", [4, 33, 100])
def test_scores_of_models_in_blocks(block_size):
    student, base = related(1), related(2)
    x, y = data()
    in_blocks = {"block_size": block_size}
    for estimator in ("unbiased", "biased"):
        expected = feature_similarity_score(student, "conv2", base, "conv2", x, estimator=estimator)
        found = feature_similarity_score(student, "conv2", base, "conv2", x, estimator=estimator, **in_blocks)
        assert float(found) == pytest.approx(float(expected), abs=1e-6) and found.dtype == expected.dtype
        expected = relevance_score(student, "conv2", x, y, estimator=estimator)
        assert float(relevance_score(student, "conv2", x, y, estimator=estimator, **in_blocks)) == pytest.approx(
            float(expected), abs=1e-6
        )
    for side in ("x", "both"):
        expected = relevance_score(student, "conv2", x, y, given=(base, "conv2"), remove_from=side)
        found = relevance_score(student, "conv2", x, y, given=(base, "conv2"), remove_from=side, **in_blocks)
        assert float(found) == pytest.approx(float(expected), abs=1e-6)
