"""What p-values and intervals cost, in units of the scores they belong to. Ratios of one run.

``pytest tests/benchmarks/test_inference_cost.py -s`` prints them.
"""

from statistics import median
from time import perf_counter
from typing import Callable

import pytest
import torch
from torch import Tensor

from captum_kd.distance import center, correlation, distance_correlation, euclidean_distances, remove
from captum_kd.metrics.inference import (
    geometry_products,
    jackknife,
    label_permutation_p_value,
    transfer_scores,
)


def ratio(costly: Callable[[], object], unit: Callable[[], object], repeats: int = 5) -> tuple[float, float, float]:
    """Median ratio of two times taken in turn, and both medians in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for work in (costly, unit):
        work()  # warm up
    for _ in range(repeats):
        for work, taken in zip((costly, unit), times):
            start = perf_counter()
            work()
            taken.append(perf_counter() - start)
    return median(a / b for a, b in zip(*times)), median(times[0]), median(times[1])


def features(n: int, d: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw)


@pytest.mark.parametrize("embeddings", ["one-hot", "general"])
@pytest.mark.parametrize("classes", [2, 10, 38, 100])
def test_thousand_permutations_cost_at_most_twenty_scores(classes: int, embeddings: str) -> None:
    student, base = features(1000, 2048)
    labels = torch.arange(1000) % classes
    vectors = torch.eye(classes) if embeddings == "one-hot" else torch.randn(classes, 512)
    distances, apart = euclidean_distances(student), euclidean_distances(vectors)
    share, costly, unit = ratio(
        lambda: label_permutation_p_value(distances, labels, apart, permutations=1000),
        lambda: distance_correlation(student, base),
    )
    print(f"\npermutations, {classes} classes, {embeddings}: {share:.1f} scores ({costly:.3f} s, {unit:.3f} s)")
    assert share <= 20


@pytest.mark.parametrize(("n", "d"), [(1000, 2048), (1000, 64), (4000, 512)])
def test_jackknife_of_five_scores_costs_at_most_three_times_the_scores(n: int, d: int) -> None:
    student, base = features(n, d)
    one_hot = torch.eye(10)[torch.arange(n) % 10]
    raw = {
        "student": euclidean_distances(student),
        "base": euclidean_distances(base),
        "labels": euclidean_distances(one_hot),
    }

    def scores() -> None:
        s, b, g = (center(euclidean_distances(each)) for each in (student, base, one_hot))
        for x, y in ((s, b), (s, g), (b, g), (remove(s, b), g), (remove(b, s), g)):
            correlation(x, y)

    def intervals() -> None:
        products = geometry_products(raw)
        for score in transfer_scores().values():
            jackknife(products, score)

    share, costly, unit = ratio(intervals, scores)
    print(f"\njackknife, n = {n}, d = {d}: {share:.2f} times the scores ({costly:.3f} s, {unit:.3f} s)")
    assert share <= 3
