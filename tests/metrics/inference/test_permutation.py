"""Label permutations by class sums, against explicit relabeling and full enumeration."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from reference.geometries import correlation
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.centering import center
from captum_kd.distance.sources import MatrixDistances
from captum_kd.metrics.inference import permutation
from captum_kd.metrics.inference.permutation import label_permutation_p_value


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot_distances(classes: int) -> Tensor:
    return 2**0.5 * (1 - torch.eye(classes, dtype=torch.float64))


def embedding_distances(classes: int, seed: int = 0) -> Tensor:
    return euclidean_distances(normal(classes, 4, seed))


def gathered(distances: Tensor, labels: Tensor, class_distances: Tensor, order: Tensor) -> float:
    """R with both matrices centered in full; input order[i] takes the label of input i."""
    relabeled = torch.empty_like(labels)
    relabeled[order] = labels
    p = center(distances.double())
    g = center(class_distances.double()[relabeled][:, relabeled])
    return float(correlation(p, g))


def correlations(distances: Tensor, labels: Tensor, class_distances: Tensor, orders: Tensor) -> Tensor:
    """R of relabelings (batch, n) by class sums."""
    classes = permutation._classes(labels, class_distances, len(labels))
    source = MatrixDistances(distances)
    sums = permutation._ClassSums(source, classes, population_sums([source]))
    return torch.div(sums(lambda: iter(orders.split(2)), len(orders)), sums.norm * classes.norm)


@pytest.mark.parametrize("n", [6, 41, 700])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("equidistant", [True, False])
def test_class_sums_equal_the_gathered_product(n: int, classes: int, equidistant: bool) -> None:
    labels = (torch.arange(n) ** 2) % classes
    apart = one_hot_distances(classes) if equidistant else embedding_distances(classes)
    distances = euclidean_distances(normal(n, 3, 1))
    draw = torch.Generator().manual_seed(2)
    orders = torch.stack([torch.randperm(n, generator=draw) for _ in range(5)])
    expected = torch.tensor([gathered(distances, labels, apart, order) for order in orders]).double()
    torch.testing.assert_close(correlations(distances, labels, apart, orders), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("tile", [1, 16, 40])
def test_tiles_add_up_to_the_whole_matrix(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, apart = torch.arange(41) ** 2 % 5, embedding_distances(5)
    distances, orders = euclidean_distances(normal(41, 3, 1)), torch.stack([torch.arange(41), torch.arange(41).flip(0)])
    whole = correlations(distances, labels, apart, orders)
    monkeypatch.setattr(permutation, "_TILE", tile)
    torch.testing.assert_close(correlations(distances, labels, apart, orders), whole, rtol=0, atol=2e-7)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_p_value_approaches_that_of_all_relabelings(labels: list[int], dtype: torch.dtype) -> None:
    """Six inputs have 720 orders and few labelings: without its ties p would be far too small."""
    truth = torch.tensor(labels)
    apart, distances = embedding_distances(3), euclidean_distances(normal(6, 2, 5))
    every = [gathered(distances, truth, apart, torch.tensor(order)) for order in permutations(range(6))]
    observed = gathered(distances, truth, apart, torch.arange(6))
    exact = sum(value >= observed - 1e-9 for value in every) / len(every)
    estimated = label_permutation_p_value(distances.to(dtype), truth, apart, permutations=20_000)
    assert estimated == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4)


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=12),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 100.0]),
    outlier=st.sampled_from([0.0, 1e4]),
)
def test_relabelings_that_change_nothing_count_as_ties(
    labels: list[int], seed: int, offset: float, outlier: float
) -> None:
    """Inputs of one class exchanged: rounding keeps to half of what is tolerated."""
    truth, n = torch.tensor(labels), len(labels)
    apart = embedding_distances(3, seed)
    features = normal(n, 2, seed)
    features[0] += outlier
    distances = euclidean_distances(features) + offset * (1 - torch.eye(n, dtype=torch.float64))
    try:
        permutation._classes(truth, apart, n)
    except ValueError:
        return  # labels without geometry
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.arange(n)]
    for _ in range(20):
        order = orders[0].clone()
        for each in set(labels):
            members = (truth == each).nonzero()[:, 0]
            order[members] = members[torch.randperm(len(members), generator=draw)]
        orders.append(order)
    values = correlations(distances.float(), truth, apart, torch.stack(orders))
    tolerated = permutation._TIE * torch.finfo(torch.float32).eps / n**0.5
    assert float((values - values[0]).abs().max()) <= tolerated / 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-60, 1e-6, 1.0, 1e6, 1e60]))
def test_the_features_scale_does_not_matter(seed: int, scale: float) -> None:
    distances, labels = euclidean_distances(normal(20, 3, seed)), torch.arange(20) % 4
    first, second = (
        label_permutation_p_value(each, labels, apart, permutations=99)
        for each, apart in (
            (distances, embedding_distances(4)),
            (scale * distances, embedding_distances(4) / scale),
        )
    )
    assert first == second


@pytest.mark.parametrize("classes", [2, 4])
def test_p_values_are_uniform_when_labels_mean_nothing(classes: int) -> None:
    apart, labels = embedding_distances(classes), torch.arange(24) % classes
    p_values = [
        label_permutation_p_value(each, labels, apart, permutations=199, seed=seed)
        for seed, each in enumerate(euclidean_distances(normal(24, 3, seed)) for seed in range(200))
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_p_values_are_small_when_labels_mean_much() -> None:
    labels = torch.arange(60) % 3
    distances = euclidean_distances(normal(60, 3, 0) + 2 * labels[:, None])
    assert label_permutation_p_value(distances, labels, one_hot_distances(3), permutations=999) == 1 / 1000


def test_the_test_is_one_sided() -> None:
    """Labels spread evenly along a line score below chance, which is no evidence of relevance."""
    distances = euclidean_distances(torch.arange(40.0)[:, None])
    assert label_permutation_p_value(distances, torch.arange(40) % 2, one_hot_distances(2)) > 0.5


def test_same_seed_same_value_and_no_trace_on_the_global_state() -> None:
    labels, distances = torch.arange(30) % 3, euclidean_distances(normal(30, 3, 1))
    before = torch.get_rng_state()
    first, again, other = (
        label_permutation_p_value(distances, labels, one_hot_distances(3), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_distances_are_left_as_they_were() -> None:
    distances = euclidean_distances(normal(30, 3, 1))
    before = distances.clone()
    label_permutation_p_value(distances, torch.arange(30) % 2, one_hot_distances(2), permutations=10)
    assert torch.equal(before, distances)


def test_features_without_geometry_tell_no_relabeling_from_another() -> None:
    """One outlier among equals: distances, but nothing of them is left by U-centering."""
    features = torch.zeros(6, 2)
    features[2] = 1.0
    distances = euclidean_distances(features)
    assert label_permutation_p_value(distances, torch.arange(6) % 2, one_hot_distances(2)) == 1.0


def test_constant_features_and_unused_classes() -> None:
    labels = torch.tensor([3, 3, 7, 7, 3, 7])
    assert label_permutation_p_value(torch.zeros(6, 6), labels, one_hot_distances(9)) == 1.0
    distances = euclidean_distances(normal(6, 2, 2))
    assert label_permutation_p_value(distances, labels, one_hot_distances(9)) == label_permutation_p_value(
        distances, (labels == 7).long(), one_hot_distances(2)
    )


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (torch.zeros(6, dtype=torch.long), ValueError, "no geometry"),
        (torch.arange(6), ValueError, "no geometry"),
        (torch.tensor([0, 0, 0, 0, 0, 1]), ValueError, "no geometry"),
        (torch.tensor([0, 0, 0, 1, 1, 6]), ValueError, "between 0 and 6"),
        (torch.tensor([0, 0, 0, 1, 1, -1]), ValueError, "between -1 and 1"),
        (torch.tensor([0, 1, 0]), ValueError, "labels must have shape \\(6,\\)"),
        (torch.tensor([0.0, 1, 0, 1, 0, 1]), TypeError, "integers"),
    ],
)
def test_labels_that_cannot_be_permuted(labels: Tensor, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        label_permutation_p_value(euclidean_distances(normal(6, 2, 0)), labels, one_hot_distances(6))


def test_other_arguments_that_cannot_be() -> None:
    distances, labels = euclidean_distances(normal(6, 2, 0)), torch.arange(6) % 2
    with pytest.raises(ValueError, match="permutations must be a positive integer, got 0"):
        label_permutation_p_value(distances, labels, one_hot_distances(2), permutations=0)
    with pytest.raises(ValueError, match="square"):
        label_permutation_p_value(distances, labels, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="class_distances has non-finite"):
        label_permutation_p_value(distances, labels, torch.full((2, 2), float("nan")))


def test_distances_without_values_are_refused_not_called_significant() -> None:
    """Nothing is at least NaN: counting would give the smallest p there is."""
    distances = euclidean_distances(normal(6, 2, 0))
    distances[0, 1] = distances[1, 0] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        label_permutation_p_value(distances, torch.arange(6) % 2, one_hot_distances(2))
