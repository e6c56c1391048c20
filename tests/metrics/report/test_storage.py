"""Reports whose features or distances do not fit: the same scores, and no file that stays."""

import errno
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
from captum_kd.metrics import Compute
from captum_kd.metrics.report.storage import FeatureStore, place_distances

CPU = torch.device("cpu")
FOLDER = pathlib.Path("/proc/self/fd")
# Bytes: enough for the distances of two models' 33 inputs, and for some of the 57,024 bytes of their features at conv2.
LIMIT = 40_000


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
        "block_size": None,
    }


def test_biased_scores_too(plain):
    assert_same(report(block_size=7, estimator="biased"), report(estimator="biased"))


def test_features_above_the_limit_wait_in_a_file(temporary):
    found = compare(related(1), related(2), "conv2", batches(8), memory_limit=LIMIT)
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
        compare(related(1), related(2), "conv2", batches(4), memory_limit=LIMIT, feature_transform=breaks)
    assert os.listdir(temporary) == []
    assert len(calls) == 9 and open_files() == before


def test_a_full_disk_names_the_ways_out(monkeypatch):
    class Full:
        def write(self, values: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **settings: Full())
    with pytest.raises(OSError, match="No space left on device: .*TMPDIR.*fewer layers") as caught:
        compare(related(1), related(2), "conv2", batches(8), memory_limit=LIMIT)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"block_size": 0}, "block_size"), ({"block_size": 8, "population": "batch"}, 'belongs to population="all"')],
)
def test_choices_that_cannot_be(wrong, words):
    with pytest.raises(ValueError, match=words):
        compare(related(1), related(2), "conv1", [data()], **wrong)


def test_distances_are_held_where_they_are_few_and_keep_to_the_limit():
    mib = 2**20

    def held(limit, n, ranks=1, **settings):
        placed = place_distances(Compute(memory_limit=limit, **settings), CPU, n, matrices=2, ranks=ranks, in_file=True)
        assert placed.in_file and placed.block_size == settings.get("block_size", 512)
        return placed.held

    assert held(None, 1000) and not held(None, 5000) and not held(None, 1000, block_size=100)
    assert held(500 * mib, 4000) and not held(400 * mib, 4000) and held(400 * mib, 4000, ranks=2)


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
