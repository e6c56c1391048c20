"""The way for devices that work behind the host, taken on the CPU: the same values, and no question while blocks pass by."""

from typing import Optional

import pytest
import torch
from counted_questions import asked
from torch import Tensor

from captum_kd.distance import distance_correlation, semipartial_distance_correlation
from captum_kd.distance.block_sums import LocalTiles, PairSums, block_side, population_sums
from captum_kd.distance.labels import LabelDistances
from captum_kd.distance.pairwise import (
    block_distances,
    euclidean_distances,
    has_float64,
    is_async_device,
    fast_distances,
    unchecked_distances,
)
from captum_kd.distance.precision import widest
from captum_kd.distance.sources import FeatureDistances, MatrixDistances, TensorFeatures
from captum_kd.metrics.inference import label_permutation_p_value

MODULES = ("distance.pairwise", "distance.sources", "distance.block_sums")
N = 600


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(f"captum_kd.{module}.is_async_device", lambda device: True)


def features(n: int = N, d: int = 7, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def apart(n: int = N, d: int = 600, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """So many features that no two inputs are close."""
    return features(n, d, seed, dtype)


def sources(*sets: Tensor) -> list[FeatureDistances]:
    return [FeatureDistances(TensorFeatures(each)) for each in sets]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_distances_of_inputs_that_are_apart_are_the_careful_ones(symmetric, parts):
    x, y = apart(40), apart(30, seed=1)
    y = x if symmetric else y

    def chunks():
        return zip(x.chunk(parts, 1), y.chunk(parts, 1))

    found, needs_recheck = fast_distances(chunks, symmetric=symmetric, single=parts == 1)
    expected, close = block_distances(chunks, symmetric=symmetric, single=parts == 1)
    assert not needs_recheck and close.shape[1] == 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0])
def test_a_pair_that_is_close_raises_a_doubt(symmetric, distance):
    x = apart(40)
    y = x.clone() if symmetric else apart(30, seed=1)
    y[7] = x[3] + distance / 600**0.5
    x = y if symmetric else x
    found, needs_recheck = fast_distances(lambda: [(x, y)], symmetric=symmetric, single=True)
    assert needs_recheck
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("copies", [0, 5])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_those_of_the_cpu(queued, monkeypatch, by_row, copies, dtype):
    x, y = apart(dtype=dtype), apart(seed=1, dtype=dtype)
    x[:copies] = x[copies : 2 * copies]
    held = sources(x, y)
    found = population_sums(held, by_row=by_row, block_size=128)
    monkeypatch.undo()
    expected = population_sums(sources(x, y), by_row=by_row, block_size=128)
    torch.testing.assert_close(found.gram(), expected.gram(), rtol=1e-7 if dtype == torch.float64 else 1e-5, atol=0)
    # One pass settles it for all that follow.
    assert [each.all_far for each in held] == [copies == 0] * 2


@pytest.mark.parametrize("copies", [0, 5])
def test_scores_and_gradients_are_those_of_the_cpu(queued, monkeypatch, copies):
    def run() -> tuple[Tensor, Tensor]:
        x, y, z = (apart(dtype=torch.float64, seed=seed) for seed in range(3))
        x[:copies] = x[copies : 2 * copies]
        x.requires_grad_()
        value = semipartial_distance_correlation(x, y, z, block_size=200) + distance_correlation(x, y, block_size=200)
        value.backward()
        assert x.grad is not None
        return value.detach(), x.grad

    value, grad = run()
    monkeypatch.undo()
    expected, slope = run()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(grad, slope, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("by_row", [False, True])
def test_the_number_of_blocks_adds_no_questions(queued, by_row):
    x, y = apart(), apart(seed=1)
    labels = torch.arange(N) % 5

    def score(block_size: int) -> None:
        geometries = [*sources(x, y), LabelDistances(labels, None, x.device)]
        population_sums(geometries, by_row=by_row, block_size=block_size).gram()

    assert asked(lambda: score(300)) == asked(lambda: score(50)) < 60


def test_gradients_add_no_questions_with_blocks(queued):
    def score(block_size: int) -> None:
        x = apart().requires_grad_()
        distance_correlation(x, apart(seed=1), block_size=block_size).backward()

    assert asked(lambda: score(300)) == asked(lambda: score(50)) < 40


def test_permutations_ask_only_for_their_orders(queued):
    source, points = sources(apart())[0], torch.eye(3)
    labels = torch.arange(N) % 3

    def test(permutations: int) -> Optional[float]:
        return label_permutation_p_value(source, labels, torch.cdist(points, points), permutations=permutations, seed=1)

    population_sums([source])
    assert asked(lambda: test(40)) == asked(lambda: test(60))


@pytest.mark.parametrize("k", range(1, 6))
def test_inner_products_are_sums_over_pairs_of_different_inputs(queued, k):
    """However few geometries there are: of some a GPU is given dots of single pairs."""
    matrices = [euclidean_distances(features(9, 2 + seed, seed, torch.float64)) for seed in range(k)]
    sums = PairSums(torch.zeros(k, 9, dtype=torch.float64))
    for rows, columns in [(slice(0, 5),) * 2, (slice(0, 5), slice(5, 9)), (slice(5, 9),) * 2]:
        sums.add([each[rows, columns] for each in matrices], rows, columns)
    expected = torch.stack([torch.stack([(p * q).sum() for q in matrices]) for p in matrices])
    torch.testing.assert_close(sums.products, expected, rtol=1e-12, atol=0)


def test_distances_that_are_held_leave_no_doubt(queued):
    asked_for = []

    class Watched(MatrixDistances):
        def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
            asked_for.append((rows, columns))
            return super().block(rows, columns, rechecks)

    matrix = euclidean_distances(features(30, dtype=torch.float64))
    found = population_sums([Watched(matrix)], block_size=10)
    assert len(asked_for) == 6
    torch.testing.assert_close(found.raw_squares(), matrix.square().sum()[None])


@pytest.mark.parametrize("doubted", [False, True])
def test_a_doubt_of_one_process_is_everybodys(queued, doubted):
    """Whether a second pass is made must be the same for all, for they meet in it."""
    passes = []

    class Beside(LocalTiles):
        """A process beside another one that found a close pair, or none."""

        def each(self, sources, block_size, see):
            passes.append(block_size)
            super().each(sources, block_size, see)

        def all_reduce_sum(self, *values: Tensor) -> None:
            for value in values:
                assert value.is_floating_point()  # others cannot be added up everywhere
                if value.shape == (1,):
                    value += doubted

    (source,) = sources(apart())
    population_sums([source], block_size=200, tile_iterator=Beside())
    assert passes == [200] * (1 + doubted)
    assert source.all_far is (not doubted)


def test_rows_that_are_known_to_be_apart_are_not_asked_about():
    x, y = apart(40), apart(30, seed=1)
    for needs_gradient in (False, True):
        x.requires_grad_(needs_gradient)
        assert asked(lambda: (unchecked_distances(x, all_far=True), unchecked_distances(x, y, all_far=True))) == 0
        assert asked(lambda: unchecked_distances(x)) > 0
        torch.testing.assert_close(unchecked_distances(x, y, all_far=True), unchecked_distances(x, y))


@pytest.mark.parametrize(
    ("kind", "behind", "wide"), [("cpu", False, True), ("meta", False, True), ("cuda", True, True), ("mps", True, False)]
)
def test_what_is_known_of_devices(kind, behind, wide):
    device = torch.device(kind)
    assert (is_async_device(device), has_float64(device)) == (behind, wide)
    assert widest(device) == (torch.float64 if wide else torch.float32)
    assert (block_side(device) > block_side(torch.device("cpu"))) == behind


def test_the_guess_of_what_centering_takes_asks_nothing(queued):
    source = sources(apart())[0]
    assert asked(source.shift) == 0
    assert source.shift()[1] is False


def test_no_doubt_is_noted_of_inputs_that_are_known_to_be_apart(queued):
    (source,) = sources(apart())
    rows, columns = slice(0, 50), slice(50, 90)
    rechecks: list[Tensor] = []
    first = source.block(rows, columns, rechecks)
    assert len(rechecks) == 1 and not rechecks[0]
    source.all_far = True
    assert asked(lambda: source.block(rows, columns)) == 0
    assert torch.equal(source.block(rows, columns, rechecks), first) and len(rechecks) == 1


@pytest.mark.parametrize(("copies", "passes"), [(0, 2), (5, 3)])
def test_a_pass_is_made_in_hope_only_once(queued, copies, passes):
    """By row there are two passes; where inputs are close the first one is made again, and the second one is careful."""
    x = apart()
    x[:copies] = x[copies : 2 * copies]

    class Counted(FeatureDistances):
        asked = 0

        def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
            type(self).asked += rows.step is None and columns.step is None
            return super().block(rows, columns, rechecks)

    population_sums([Counted(TensorFeatures(x))], by_row=True, block_size=300)
    assert Counted.asked == 3 * passes
