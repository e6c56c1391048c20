"""Small populations: what checking, and careful distances, cost beside the same torch calls inlined.

Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_small.py``.
"""

import time
from typing import Callable

import dcor
import torch
from ratios import at_least, at_most
from torch import Tensor

from captum_kd.distance import distance_correlation


def inlined(x: Tensor, y: Tensor) -> Tensor:
    """The score with nothing checked and no pair of inputs looked at twice."""
    centered = []
    for features in (x.double(), y.double()):
        xs = features - features.mean(0)
        products = xs @ xs.T
        squares = products.diagonal().clone()
        d = products.mul_(-2).add_(squares[:, None]).add_(squares).clamp_(min=0).sqrt_().fill_diagonal_(0)
        n, sums = len(d), d.sum(1)
        shift = (sums - sums.sum() / (2 * (n - 1))) / (n - 2)
        centered.append((d - shift[:, None]).sub_(shift).fill_diagonal_(0))
    p, q = centered
    return ((p * q).sum() / ((p * p).sum().sqrt() * (q * q).sum().sqrt())).clamp(-1, 1)


def least_seconds(*calls: Callable[[], object], repeats: int) -> list[float]:
    """The least time of the processor that each call took, taken in turn: others only ever make it longer."""
    least = [float("inf")] * len(calls)
    for _ in range(repeats):
        for place, call in enumerate(calls):
            start = time.process_time()
            call()
            least[place] = min(least[place], time.process_time() - start)
    return least


def main() -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for n in (8, 32, 64):
            for d in (16, 256, 2048):
                x, y = (torch.randn(n, d, generator=draw, dtype=dtype) for _ in range(2))
                ours, bare = least_seconds(lambda: distance_correlation(x, y), lambda: inlined(x, y), repeats=300)
                print(at_most(f"ours / inlined without checks, n={n}, d={d}, {dtype}", ours / bare, 2), flush=True)
    x, y = (torch.randn(1000, 64, generator=draw, dtype=torch.float64) for _ in range(2))
    a, b = x.numpy(), y.numpy()
    ours, theirs = least_seconds(
        lambda: distance_correlation(x, y), lambda: dcor.u_distance_correlation_sqr(a, b), repeats=15
    )
    print(at_least("dcor / ours, n=1000, d=64, float64", theirs / ours, 6))


if __name__ == "__main__":
    main()
