"""Two processes against one, on the same population: wall time, bytes sent against the formula, peaks of memory.

Features of two models stand for the networks'. Each process has one thread; one and two of them run in
turn. Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_distributed.py [repeats]``.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from peaks import high_mark, start
from ratios import at_most, seconds

from captum_kd._distributed import as_process_group
from captum_kd.distance.block_sums import LocalTiles, TileIterator, population_sums
from captum_kd.distance.sharded import Shards, ShardedDistances, ShardedFeatures, RingTiles
from captum_kd.distance.sources import DistanceSource, FeatureDistances, TensorFeatures

N, D = 16_000, 256


class ScaledFeatures(NamedTuple):
    seconds: float
    work: float
    peak: float
    sent: int
    gram: list[list[float]]


def run(rank: int, size: int, folder: str, n: int, by_row: bool, pipe: Any) -> None:
    torch.set_num_threads(1)
    group = as_process_group(None)
    if size > 1:
        store = dist.FileStore(f"{folder}/store", size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        group = as_process_group(dist.group.WORLD)
    found: list[ScaledFeatures] = []
    for count in (600, n):  # the first one pays for first calls
        shards = Shards([count // size] * size, rank)
        held, sent = start(), group.bytes_sent
        own = [_features(count, shards.own, seed) for seed in (0, 1)]
        sums: list[Any] = []

        def measured() -> None:
            sources: list[DistanceSource] = []
            tile_iterator: TileIterator = LocalTiles()
            if size > 1:
                tile_iterator = RingTiles(shards, group, 2 * D)
                sources += [ShardedDistances(ShardedFeatures(TensorFeatures(x), shards, group)) for x in own]
            else:
                sources += [FeatureDistances(TensorFeatures(x)) for x in own]
            sums.append(population_sums(sources, by_row=by_row, tile_iterator=tile_iterator))

        group.gather(None)
        before = time.process_time()
        took = seconds(measured)
        busy = time.process_time() - before
        found.append(ScaledFeatures(took, busy, high_mark() - held, group.bytes_sent - sent, sums[0].gram().tolist()))
    pipe.send(found[-1])
    if size > 1:
        dist.destroy_process_group()


def _features(n: int, part: slice, seed: int) -> torch.Tensor:
    """A range of the population that is either half or all of it; no process makes what it does not have."""
    found = torch.empty(part.stop - part.start, D)
    for first, half in zip(range(part.start, part.stop, n // 2), found.split(n // 2)):
        half.normal_(generator=torch.Generator().manual_seed(10 * first + seed))
    return found


def raise_together(size: int, n: int, by_row: bool) -> list[ScaledFeatures]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(size)]
        jobs = [
            context.Process(target=run, args=(rank, size, folder, n, by_row, pipe[1])) for rank, pipe in enumerate(pipes)
        ]
        for job in jobs:
            job.start()
        found: list[ScaledFeatures] = [pipe[0].recv() for pipe in pipes]
        for job in jobs:
            job.join()
    return found


def main(repeats: int = 3) -> None:
    for name, by_row, passes in (("scores", False, 1), ("scores and intervals", True, 2)):
        runs = [(raise_together(1, N, by_row)[0], raise_together(2, N, by_row)) for _ in range(repeats)]
        wall = median(max(each.seconds for each in two) for _, two in runs) / median(one.seconds for one, _ in runs)
        print(at_most(f"two processes / one, wall time, {name}, n={N}, d={D}", wall, 0.65), flush=True)
        # On a busy machine processor time says more: what the busier of two processes has to do, waiting left out.
        work = median(max(each.work for each in two) for _, two in runs) / median(one.work for one, _ in runs)
        print(at_most(f"the busier of two processes / one, processor time, {name}", work, 0.65), flush=True)
        one, two = runs[0]
        for rank, each in enumerate(two):
            formula = passes * (N // 2 if rank == 0 else N // 4) * 2 * D * 4
            print(at_most(f"  bytes sent by process {rank} / formula ({formula / 2**20:.1f} MiB)", each.sent / formula, 1))
            print(f"  peak in MiB, its features included: process {rank} {each.peak:.0f}, one process {one.peak:.0f}")
            apart = max(abs(a - b) / abs(b) for x, y in zip(each.gram, one.gram) for a, b in zip(x, y))
            print(f"  inner products differ by at most {apart:.1e} of themselves", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
