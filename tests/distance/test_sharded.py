"""Sums over ranks equal those of one process."""

from __future__ import annotations

from typing import Any, Sequence

import pytest
import torch
from torch import Tensor
from workers import Workers, of

from captum_kd._distributed import ProcessGroup, as_process_group
from captum_kd.distance import sharded
from captum_kd.distance.block_sums import LocalTiles, PairSums, population_sums
from captum_kd.distance.sharded import Shards, ShardedDistances, ShardedFeatures, RingTiles
from captum_kd.distance.sources import FeatureDistances, TensorFeatures
from captum_kd.metrics.inference import label_permutation_p_value

SIZES: list[tuple[int, ...]] = [(23, 23), (40, 7), (0, 46), (46, 0), (15, 16, 16), (30, 1, 16), (0, 45, 2)]


def features(n: int, count: int = 3, dtype: torch.dtype = torch.float32, d: int = 5) -> list[Tensor]:
    draw = torch.Generator().manual_seed(n)
    common = torch.randn(n, 3, generator=draw)
    return [
        torch.cat([common, torch.randn(n, d + each, generator=draw)], 1).to(dtype) * 3**each for each in range(count)
    ]


def sharded_sources(group: Any, sizes: Sequence[int], whole: Sequence[Tensor]) -> Any:
    ranks = as_process_group(group)
    shards = Shards(sizes, ranks.rank)
    own = [TensorFeatures(each[shards.own]) for each in whole]
    tiles = RingTiles(shards, ranks, sum(each.shape[1] for each in own))
    return tiles, [ShardedDistances(ShardedFeatures(each, shards, ranks)) for each in own]


def sums_of(group: Any, sizes: Sequence[int], by_row: bool, block: int, held: bool) -> Any:
    tiles, sources = sharded_sources(group, sizes, features(sum(sizes)))
    if held:
        for source in sources:
            source.hold(tiles, block)
    sums = population_sums(sources, by_row=by_row, block_size=block, tile_iterator=tiles)
    return sums.gram(), sums.gram("biased"), sums.raw_squares(), sums.without_each() if by_row else None


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("by_row", "block", "held"), [(False, 512, False), (True, 4, False), (True, 16, True)])
def test_sums_equal_those_of_one_process(
    workers: Workers, sizes: tuple[int, ...], by_row: bool, block: int, held: bool
) -> None:
    whole = population_sums([FeatureDistances(TensorFeatures(each)) for each in features(sum(sizes))], by_row=by_row)
    expected = whole.gram(), whole.gram("biased"), whole.raw_squares(), whole.without_each() if by_row else None
    for found in of(workers.run(len(sizes), sums_of, sizes, by_row, block, held)):
        for ours, theirs in zip(found, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", range(1, 8))
def test_every_pair_belongs_to_one_tile_and_work_is_even(size: int) -> None:
    counts = [6 + 2 * rank for rank in range(size)]
    seen = torch.zeros(sum(counts), sum(counts), dtype=torch.long)
    for rank in range(size):
        shards = Shards(counts, rank)
        pairs = counts[rank] ** 2 / 2
        for step in shards.ring_steps():
            seen[step.own_rows, step.remote_rows] += 1
            seen[step.remote_rows, step.own_rows] += 1
            pairs += len(range(*step.own_rows.indices(shards.n))) * len(range(*step.remote_rows.indices(shards.n)))
        seen[shards.own, shards.own] += 1
        assert pairs == pytest.approx(counts[rank] * shards.n / 2, rel=0.3)
    assert bool((seen == 1).all())


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_each_rank_sends_what_the_other_expects(size: int) -> None:
    counts = [5, 0, 4, 9, 3][:size]
    steps = [list(Shards(counts, rank).ring_steps()) for rank in range(size)]
    for rank, own in enumerate(steps):
        for number, step in enumerate(own):
            theirs = steps[step.to][number]
            assert theirs.source == rank and theirs.remote_rows == step.sent_rows


def received(group: Any, n: int, d: int, block: int) -> tuple[int, int, int]:
    """Bytes sent, and the most rows of others that were here at once."""
    tiles, sources = sharded_sources(group, [n // size_of(group)] * size_of(group), features(n, 1, d=d))
    most = 0
    set_remote_rows = ShardedFeatures.set_remote_rows

    def watch(self: ShardedFeatures, rows: slice, buffer: Any) -> None:
        nonlocal most
        most = max(most, rows.stop - rows.start)
        set_remote_rows(self, rows, buffer)

    ShardedFeatures.set_remote_rows = watch  # type: ignore[method-assign]
    try:
        population_sums(sources, block_size=block, tile_iterator=tiles)
    finally:
        ShardedFeatures.set_remote_rows = set_remote_rows  # type: ignore[method-assign]
    return tiles.group.bytes_sent, most, sources[0].features.shape[1]


def size_of(group: Any) -> int:
    return as_process_group(group).size


@pytest.mark.parametrize(("n", "size", "block"), [(60, 2, 7), (60, 3, 7), (60, 2, 512), (4, 2, 512)])
def test_features_are_sent_in_blocks_and_at_most_half_of_them(workers: Workers, n: int, size: int, block: int) -> None:
    share = n // size
    for rank, (sent, most, width) in enumerate(of(workers.run(size, received, n, 5, block))):
        rows = {2: [share, share // 2], 3: [share] * 3}[size][rank]
        assert sent == rows * width * 4 and sent <= n * width * 4 / 2
        assert most <= min(block, share // 2)


def small_messages(group: Any, sizes: Sequence[int]) -> Tensor:
    before = sharded._MESSAGE_NUMBERS, sharded._REMOTE_NUMBERS
    sharded._MESSAGE_NUMBERS, sharded._REMOTE_NUMBERS = 20, 90
    try:
        tiles, sources = sharded_sources(group, sizes, features(sum(sizes)))
        return population_sums(sources, block_size=5, tile_iterator=tiles).gram()
    finally:
        sharded._MESSAGE_NUMBERS, sharded._REMOTE_NUMBERS = before


def test_blocks_are_received_in_messages_of_a_few_rows(workers: Workers) -> None:
    whole = population_sums([FeatureDistances(TensorFeatures(each)) for each in features(30)])
    for found in of(workers.run(3, small_messages, (11, 12, 7))):
        torch.testing.assert_close(found, whole.gram(), rtol=1e-9, atol=1e-12)


def p_value(group: Any, sizes: Sequence[int], classes: int) -> float:
    tiles, (source,) = sharded_sources(group, sizes, features(sum(sizes), 1))
    return label_permutation_p_value(source, *labeled(sum(sizes), classes), permutations=200, seed=3, tile_iterator=tiles)


def labeled(n: int, classes: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(classes)
    y = torch.randint(classes, (n,), generator=draw)
    points = torch.randn(classes, 3, generator=draw)
    return y, torch.cdist(points, points)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("sizes", [(31, 30), (0, 20, 41)], ids=str)
def test_p_values_equal_those_of_one_process(workers: Workers, sizes: tuple[int, ...], classes: int) -> None:
    source = FeatureDistances(TensorFeatures(features(sum(sizes), 1)[0]))
    expected = label_permutation_p_value(source, *labeled(sum(sizes), classes), permutations=200, seed=3)
    assert 0.01 < expected < 0.99
    assert of(workers.run(len(sizes), p_value, sizes, classes)) == [expected] * len(sizes)


def failing_block(group: Any) -> None:
    tiles, sources = sharded_sources(group, (9, 9, 9), features(27))

    def fail(rows: slice, columns: slice) -> None:
        if tiles.group.rank == 1:
            raise OSError("the disk is full")

    tiles.each(sources, 4, fail)


def test_an_error_in_the_middle_of_an_exchange_raises_in_every_rank(workers: Workers) -> None:
    found = workers.run(3, failing_block)
    assert isinstance(found[1], OSError) and "disk is full" in str(found[1])
    for rank in (0, 2):
        assert isinstance(found[rank], RuntimeError)
        assert "Rank 1 failed while comparing inputs" in str(found[rank]) and "the disk is full" in str(found[rank])


def not_finite(group: Any) -> None:
    rank = as_process_group(group).rank
    values = torch.full((4, 3), torch.nan if rank == 1 else 1.0)
    shards = Shards((4, 4), rank)
    ShardedDistances(ShardedFeatures(TensorFeatures(values), shards, as_process_group(group)))


def test_features_that_are_not_finite_raise_in_every_rank(workers: Workers) -> None:
    for error in workers.run(2, not_finite):
        assert isinstance(error, ValueError) and "non-finite" in str(error)


def test_local_tiles_are_all_tiles() -> None:
    seen: list[tuple[int, int]] = []
    source = FeatureDistances(TensorFeatures(features(10, 1)[0]))
    LocalTiles().each([source], 4, lambda rows, columns: seen.append((rows.start, columns.start)))
    assert seen == [(0, 0), (0, 4), (0, 8), (4, 4), (4, 8), (8, 8)]
    assert isinstance(population_sums([source]), PairSums)


def alone(values: Tensor) -> ShardedDistances:
    """One rank with a whole population."""
    return ShardedDistances(ShardedFeatures(TensorFeatures(values), Shards([len(values)], 0), ProcessGroup()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", [1, 50, 1 << 24])
def test_the_shift_takes_all_inputs_to_be_orthogonal(monkeypatch: Any, numbers: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr("captum_kd.distance.precision.MOST_DENSE", 4)  # float32 stays float32
    monkeypatch.setattr(sharded, "_MESSAGE_NUMBERS", numbers)
    (values,) = features(70, 1, dtype)
    source = alone(values)
    assert source.dtype == dtype
    found, exact = source.shift()
    expected = (values.double() - values.double().mean(0)).square().sum(1).sqrt() / 2**0.5
    assert exact is False and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


def test_distances_have_the_type_asked_for() -> None:
    (values,) = features(70, 1)
    own = ShardedFeatures(TensorFeatures(values), Shards([70], 0), ProcessGroup())
    for dtype in (torch.float32, torch.float64):
        source = ShardedDistances(own, dtype)
        assert source.block(slice(0, 9), slice(0, 9)).dtype == source.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharded_features_read_like_those_of_one_tensor(dtype: torch.dtype) -> None:
    (values,) = features(70, 1, dtype)
    whole = TensorFeatures(-values)
    split = ShardedFeatures(whole, Shards([70], 0), ProcessGroup())
    assert (split.shape, split.dtype, split.device) == (whole.shape, dtype, values.device)
    assert split.largest() == whole.largest() and split.middle().dtype == dtype
    torch.testing.assert_close(split.middle(), whole.middle())
    assert torch.equal(split.read(slice(3, 9), slice(1, 4)), -values[3:9, 1:4])


def test_inputs_of_another_rank_cannot_be_read_unless_they_were_received() -> None:
    own, remote = features(4, 1)[0], features(6, 1)[0]
    held = ShardedFeatures(TensorFeatures(own), Shards([4, 6], 0), ProcessGroup())
    for _ in range(2):
        for rows in (slice(4, 6), slice(3, 5), slice(9, 10)):
            with pytest.raises(IndexError, match=f"does not hold the features of the inputs {rows.start} to {rows.stop - 1}"):
                held.read(rows, slice(0, 8))
        buffer = sharded._MemoryBuffer(own.device)
        buffer.append(remote[1:3])
        buffer.append(remote[3:5])
        held.set_remote_rows(slice(5, 9), buffer)
        assert torch.equal(held.read(slice(6, 9), slice(2, 8)), remote[2:5, 2:8])
        assert torch.equal(held.read(slice(0, 4), slice(0, 8)), own)
        held.set_remote_rows(slice(5, 9), None)


def under_another_default(group: Any, sizes: Sequence[int], held: bool) -> Any:
    whole = features(sum(sizes))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            tiles, sources = sharded_sources(group, sizes, whole)
            for source in sources if held else ():
                source.hold(tiles, 8)
            return population_sums(sources, block_size=8, tile_iterator=tiles).gram()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("held", [False, True])
def test_the_users_default_device_and_dtype_change_nothing_in_any_rank(workers: Workers, held: bool) -> None:
    sources = [FeatureDistances(TensorFeatures(each)) for each in features(20)]
    expected = population_sums(sources).gram()
    for found in of(workers.run(2, under_another_default, (11, 9), held)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Unreadable(TensorFeatures):
    def middle(self) -> Tensor:
        raise OSError("the disk is gone")


def unreadable_in_rank_1(group: Any) -> None:
    ranks = as_process_group(group)
    kind = Unreadable if ranks.rank == 1 else TensorFeatures
    ShardedFeatures(kind(torch.ones(4, 3)), Shards((4, 4), ranks.rank), ranks)


def test_features_that_one_rank_cannot_read_raise_in_every_rank(workers: Workers) -> None:
    found = workers.run(2, unreadable_in_rank_1)
    assert isinstance(found[1], OSError) and isinstance(found[0], RuntimeError)
    assert "Rank 1 failed while reading its features" in str(found[0])


def without_buffers_in_rank_1(group: Any) -> None:
    _, sources = sharded_sources(group, (5, 5, 5), features(15))
    ranks = as_process_group(group)

    def make(device: torch.device) -> Any:
        if ranks.rank == 1:
            raise OSError("no space left")
        return sharded._MemoryBuffer(device)

    population_sums(sources, tile_iterator=RingTiles(sources[0].features.shards, ranks, 30, make))


def test_a_buffer_that_one_rank_cannot_make_raises_in_every_rank(workers: Workers) -> None:
    found = workers.run(3, without_buffers_in_rank_1)
    assert isinstance(found[1], OSError)
    assert all("Rank 1 failed while comparing inputs" in str(found[rank]) for rank in (0, 2))
