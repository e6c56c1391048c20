"""Features of every kind, and the scores of two or three sets of them."""

import torch
from torch import Tensor

from captum_kd.distance import distance_correlation, partial_distance_correlation

F64 = torch.float64
DTYPES = [torch.float32, F64]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def rotation(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(randn(d, d, seed=seed))[0]


def triple(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three sets of features that have something to do with one another."""
    x = randn(n, d, seed=seed)
    y = 0.6 * x + randn(n, d, seed=seed + 1)
    return x, y, 0.5 * (x + y) + randn(n, d, seed=seed + 2)


def clusters(n: int, d: int, width: float, seed: int = 0) -> Tensor:
    return randn(4, d, seed=seed)[torch.arange(n) % 4] + width * randn(n, d, seed=seed + 1)


def direct(x: Tensor, y: Tensor) -> Tensor:
    """Distances without a matrix product."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def score(x: Tensor, y: Tensor, **kwargs) -> float:
    return float(distance_correlation(x, y, **kwargs))


def partial(x: Tensor, y: Tensor, removed: Tensor, **kwargs) -> float:
    return float(partial_distance_correlation(x, y, removed, **{"remove_from": "x", **kwargs}))


def each(change, *features: Tensor) -> list[Tensor]:
    return [change(f) for f in features]


def badly_scaled(f: Tensor) -> Tensor:
    return f * 10 ** torch.linspace(-6, 6, f.shape[1], dtype=f.dtype)


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


FEATURES = {
    "random": triple(60, 8),
    "fewest inputs": triple(5, 3),
    "duplicated": each(lambda f: f[torch.arange(60) // 3], *triple(60, 8)),
    "half of them the same": each(lambda f: torch.cat([f[:1].expand(30, -1), f[30:]]), *triple(60, 8)),
    "one-dimensional": triple(60, 1),
    "vectors (n,)": each(lambda f: f[:, 0], *triple(60, 1)),
    "images": each(lambda f: f.reshape(60, 3, 2, 2), *triple(60, 12)),
    "of different widths": (triple(60, 8)[0], triple(60, 8)[1][:, :1], triple(60, 8)[2][:, :3]),
    "very wide": triple(16, 20_000),
    "badly scaled columns": each(badly_scaled, *triple(60, 8)),
    "badly scaled rows": each(lambda f: f * 10 ** torch.linspace(-3, 3, 60, dtype=F64)[:, None], *triple(60, 8)),
    "far from the origin": each(lambda f: f + 1e4, *triple(60, 8)),
    "tiny": each(lambda f: f * 1e-30, *triple(60, 8)),
    "huge": each(lambda f: f * 1e30, *triple(60, 8)),
    "tight clusters": [clusters(60, 8, width, seed) for seed, width in ((0, 1e-3), (2, 1e-2), (4, 1e-1))],
    "near-duplicates": each(
        lambda f: torch.cat([f[:30], f[:30] + 1e-7 * randn(30, f.shape[1], seed=9)]), *triple(60, 8)
    ),
    "sparse": each(lambda f: torch.relu(f - 1), *triple(60, 8)),
}
