"""What p-values and intervals cost, in units of the scores they belong to.

Run with ``python tests/benchmarks/bench_inference.py``.
"""

import torch
from ratios import at_most, ratio
from torch import Tensor

from captum_kd.distance import distance_correlation, euclidean_distances
from captum_kd.distance.centering import center
from captum_kd.distance.gram import gram_of, partial_correlation
from captum_kd.metrics.inference import geometry_products, jackknife, label_permutation_p_value, transfer_scores


def features(n: int, d: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw)


def permutations(classes: int, vectors: Tensor) -> float:
    """1,000 relabelings of one model's distances, in units of one score from features."""
    student, base = features(1000, 2048)
    labels, distances, apart = torch.arange(1000) % classes, euclidean_distances(student), euclidean_distances(vectors)
    return ratio(
        lambda: label_permutation_p_value(distances, labels, apart, permutations=1000),
        lambda: distance_correlation(student, base),
        5,
    )


def intervals(n: int, d: int) -> float:
    """Intervals of all five scores from distances, in units of the five scores from features."""
    student, base = features(n, d)
    one_hot = torch.eye(10)[torch.arange(n) % 10]
    raw = dict(zip(("student", "base", "labels"), map(euclidean_distances, (student, base, one_hot))))

    def scores() -> None:
        gram = gram_of([center(euclidean_distances(each)).matrix.flatten() for each in (student, base, one_hot)])
        for x, y, *given in ((0, 1), (0, 2), (1, 2), (0, 2, 1), (1, 2, 0)):
            partial_correlation(gram, torch.zeros(3), x, y, given)

    def jackknifed() -> None:
        products = geometry_products(raw)
        for score in transfer_scores().values():
            jackknife(products, score)

    return ratio(jackknifed, scores, 5)


def main() -> None:
    draw = torch.Generator().manual_seed(1)
    for classes in (2, 10, 38, 100):
        for kind, vectors in (("one-hot", torch.eye(classes)), ("general", torch.randn(classes, 512, generator=draw))):
            name = f"1,000 permutations / score, n=1000, d=2048, {classes} classes, {kind}"
            print(at_most(name, permutations(classes, vectors), 20))
    for n, d in ((1000, 2048), (1000, 64), (4000, 512)):
        print(at_most(f"jackknife of five scores / the scores, n={n}, d={d}", intervals(n, d), 3))


if __name__ == "__main__":
    main()
