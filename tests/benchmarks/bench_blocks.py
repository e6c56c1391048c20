"""Populations whose distance matrices are not to be held: time over the bare products, and peaks of memory.

Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_blocks.py [--repeats 3] [--large]``; ``--large``
also runs 100,000 inputs, which takes minutes.
"""

import argparse

import torch
from peaks import peak_and_words, peak_over_inputs
from ratios import at_most, ratio, seconds
from torch import Tensor

from captum_kd.distance import distance_correlation, semipartial_distance_correlation

BEFORE = """
import torch
from captum_kd.distance import distance_correlation, semipartial_distance_correlation
small = torch.randn(600, 8)
distance_correlation(small, small, block_size=256)
distance_correlation(small, small)
"""


def features(n: int, d: int, count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(n, d, generator=draw) for _ in range(count)]


def bare_products(*sets: Tensor, block: int = 512) -> None:
    """The products of all rows with all rows, block by block, and nothing else."""
    for each in sets:
        for rows in each.split(block):
            for columns in each.split(block):
                rows @ columns.T


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="times that each is timed; default: %(default)s")
    parser.add_argument("--large", action="store_true", help="run 100,000 inputs instead of extrapolating their time")
    arguments = parser.parse_args()
    n, d = 16_000, 256
    x, y, z = features(n, d, 3)
    value = ratio(lambda: distance_correlation(x, y), lambda: bare_products(x, y), arguments.repeats)
    print(at_most(f"ours / bare blocked products, n={n}, d={d}, float32", value, 4), flush=True)
    value = ratio(lambda: semipartial_distance_correlation(x, y, z), lambda: bare_products(x, y, z), arguments.repeats)
    print(at_most(f"partial / bare blocked products, n={n}, d={d}, float32", value, 4), flush=True)
    for name, call in (
        ("", "distance_correlation(x, y)"),
        ("partial, ", "semipartial_distance_correlation(x, y, z)"),
        ("with gradients, ", "distance_correlation(x.requires_grad_(), y.requires_grad_()).backward()"),
    ):
        peak = peak_over_inputs(f"x, y, z = torch.randn(3, {n}, {d})", call, before=BEFORE)
        print(at_most(f"peak over the inputs in MiB, {name}n={n}, d={d}, float32", peak, 1200), flush=True)
    few = seconds(lambda: distance_correlation(x[:8000], y[:8000], block_size=512))
    many = seconds(lambda: distance_correlation(x, y, block_size=512))
    print(f"seconds at n=8,000 and 16,000: {few:.1f}, {many:.1f}; twice the inputs cost {many / few:.2f} times as much")
    print(f"by the square of the inputs, n=100,000 takes {many * (100_000 / n) ** 2:.0f} s of this machine's time", flush=True)
    if arguments.large:
        large(100_000, d)


def large(n: int, d: int) -> None:
    """One run in a process of its own, which says its time too."""
    call = (
        "busy = time.process_time(); distance_correlation(x, y); "
        "print(f'{time.process_time() - busy:.0f}', file=sys.stderr)"
    )
    peak, said = peak_and_words(f"import sys, time; x, y = torch.randn(2, {n}, {d})", call, before=BEFORE)
    matrix = 4 * n * n / 2**20
    print(at_most(f"peak over the inputs in MiB, n={n}, d={d}, where one matrix has {matrix:.0f}", peak, 1200))
    print(f"which took {said.strip()} s of this machine's time")


if __name__ == "__main__":
    main()
