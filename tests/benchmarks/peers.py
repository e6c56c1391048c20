"""The same scores by other means: what a user would write, or has, without this package.

FSS is the squared, unbiased distance correlation of two sets of features; RS that of features and one-hot labels, after a
second model's features have been removed from the first ones. Each peer takes (n, d) tensors and gives a float, and says
beforehand how many bytes it will need over its inputs.
"""

from typing import Callable, NamedTuple, Optional

import torch
from torch import Tensor

__all__ = ["JOBS", "PEERS", "Peer", "make_inputs"]

CLASSES = 10
BATCH = 64


def make_inputs(job: str, n: int, d: int) -> list[Tensor]:
    """Features of two models that share a part and, for RS, labels (n, 10) that they know something of."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.eye(CLASSES)[torch.arange(n) % CLASSES]
    common = labels @ torch.randn(CLASSES, d, generator=draw)
    x, y = (common * share + torch.randn(n, d, generator=draw) for share in (1.0, 0.7))
    return [x, y] if job == "FSS" else [x, y, labels]


# --------------------------------------------------------------------------- formulas


def u_centered(d: Tensor) -> Tensor:
    n = len(d)
    p = d - d.sum(0) / (n - 2) - d.sum(1, keepdim=True) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    return p.fill_diagonal_(0)


def score_of(matrices: list[Tensor]) -> Tensor:
    """From centered matrices of x and y or, for RS, of x, what is removed, and labels."""
    p, q = matrices[0], matrices[-1]
    if len(matrices) == 3:
        z = matrices[1]
        p = p - (p * z).sum() / (z * z).sum() * z
    return (p * q).sum() / ((p * p).sum() * (q * q).sum()).sqrt()


def broadcast_distances(x: Tensor) -> Tensor:
    """The authors' formulation: n*n*d differences."""
    return ((x[:, None] - x[None]) ** 2).sum(-1).sqrt()


# ------------------------------------------------------------------------------ peers


def broadcast(*features: Tensor) -> float:
    return float(score_of([u_centered(broadcast_distances(x)) for x in features]))


def broadcast_in_batches(*features: Tensor) -> float:
    """Its mean over mini-batches: another quantity, which costs less and says less."""
    parts = list(zip(*(x.split(BATCH) for x in features)))
    return sum(broadcast(*part) for part in parts if len(part[0]) == BATCH) / max(1, len(features[0]) // BATCH)


def by_dcor(*features: Tensor) -> float:
    import dcor
    import numpy as np

    arrays = [x.double().numpy() for x in features]
    if len(arrays) == 2:
        return float(dcor.u_distance_correlation_sqr(*arrays))
    p, z, q = (dcor.u_centered(dcor.distances.pairwise_distances(each)) for each in arrays)
    p = dcor.u_complementary_projection(z)(p)
    return float(dcor.u_product(p, q) / np.sqrt(dcor.u_product(p, p) * dcor.u_product(q, q)))


def gathered(*features: Tensor) -> float:
    """A metric that keeps all features in lists, as torchmetrics' own metrics of features do, and ends with whole matrices."""
    from torchmetrics import Metric
    from torchmetrics.functional import pairwise_euclidean_distance

    class Gathered(Metric):
        full_state_update = False

        def __init__(self, count: int) -> None:
            super().__init__()
            self.names = [f"features_{place}" for place in range(count)]
            for name in self.names:
                self.add_state(name, [], dist_reduce_fx="cat")

        def update(self, *parts: Tensor) -> None:
            for name, part in zip(self.names, parts):
                getattr(self, name).append(part)

        def compute(self) -> Tensor:
            whole = [torch.cat(getattr(self, name)) for name in self.names]
            return score_of([u_centered(pairwise_euclidean_distance(x)) for x in whole])

    metric = Gathered(len(features))
    for parts in zip(*(x.split(BATCH) for x in features)):
        metric.update(*parts)
    return float(metric.compute())


def ours(*features: Tensor) -> float:
    from captum_kd.distance import distance_correlation, semipartial_distance_correlation

    if len(features) == 2:
        return float(distance_correlation(*features))
    x, removed, labels = features
    return float(semipartial_distance_correlation(x, labels, removed))


class Peer(NamedTuple):
    """One way to a score.

    Attributes:
        score (callable): of the inputs.
        bytes_needed (callable): of n, d and the number of sets of features: about how many over the inputs.
        same_quantity (bool): whether the result is that of the whole population.
    """

    score: Callable[..., float]
    bytes_needed: Callable[[int, int, int], int]
    same_quantity: bool = True


PEERS = {
    # Differences and their squares are there at once.
    "broadcasting": Peer(broadcast, lambda n, d, k: 8 * n * n * d),
    f"broadcasting, batches of {BATCH}": Peer(broadcast_in_batches, lambda n, d, k: 8 * BATCH**2 * d, False),
    # dcor 0.7 does not take arrays of NumPy for such beside current releases of array-api-compat, and then broadcasts in float64
    # instead of calling SciPy; its matrices are small beside that.
    "dcor": Peer(by_dcor, lambda n, d, k: 16 * n * n * d + 8 * (k + 2) * n * n),
    "gathering": Peer(gathered, lambda n, d, k: 4 * k * n * d + 8 * n * d + 4 * (k - 1) * n * n + 8 * 3 * n * n),
    "captum_kd": Peer(ours, lambda n, d, k: 0),
}
JOBS = ("FSS", "RS")


def reason_not_to(peer: Peer, job: str, n: int, d: int, most: int) -> Optional[str]:
    """Why a peer is not run: more memory than there is."""
    needed = peer.bytes_needed(n, d, len(make_inputs(job, BATCH, 1)))
    return None if needed <= most else f"would need {needed / 2**30:.3g} GiB"
