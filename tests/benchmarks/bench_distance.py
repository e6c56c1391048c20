"""Distance correlation against broadcasting, dcor and the bare matrix products.

Run with ``python tests/benchmarks/bench_distance.py``.
"""

import dcor
import torch
from ratios import at_least, at_most, ratio
from torch import Tensor

from captum_kd.distance import distance_correlation


def broadcast(x: Tensor, y: Tensor) -> Tensor:
    """The authors' formulation: n*n*d differences."""
    centered = []
    for features in (x, y):
        d = ((features[:, None] - features[None]) ** 2).sum(-1).sqrt()
        n = len(d)
        p = d - d.sum(0) / (n - 2) - d.sum(1, keepdim=True) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
        centered.append(p.fill_diagonal_(0))
    p, q = centered
    return (p * q).sum() / ((p * p).sum() * (q * q).sum()).sqrt()


def pair(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(n, d, generator=generator, dtype=dtype)


def main() -> None:
    x, y = pair(500, 512, torch.float32)
    value = ratio(lambda: broadcast(x, y), lambda: distance_correlation(x, y), 7)
    print(at_least("broadcasting / ours, n=500, d=512, float32", value, 40))

    x, y = pair(500, 2048, torch.float64)
    a, b = x.numpy(), y.numpy()
    value = ratio(lambda: dcor.u_distance_correlation_sqr(a, b), lambda: distance_correlation(x, y), 7)
    print(at_least("dcor / ours, n=500, d=2048, float64", value, 30))

    for dtype in (torch.float32, torch.float64):
        x, y = pair(2000, 2048, dtype)
        value = ratio(lambda: distance_correlation(x, y), lambda: (x @ x.T, y @ y.T), 7)
        print(at_most(f"ours / bare matrix products, n=2000, d=2048, {dtype}", value, 2.5))


if __name__ == "__main__":
    main()
