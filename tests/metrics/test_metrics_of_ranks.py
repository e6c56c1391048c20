"""Metrics that differ between ranks raise an error in every rank."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from torch import Tensor
from workers import Workers, of

from captum_kd._distributed import as_process_group

pytest.importorskip("torchmetrics")

from captum_kd.metrics.torchmetrics import FeatureSimilarityScore, RelevanceScore, TransferScores  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def share(rank: int, n: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rank)
    return torch.randn(n, 4, generator=draw), torch.randn(n, 5, generator=draw), torch.arange(n) % 3


def fss(group: Any, rank: int, **settings: Any) -> Any:
    metric = FeatureSimilarityScore(process_group=group, **settings)
    metric.update(*share(rank)[:2])
    return metric


def rs(group: Any, rank: int, table: Any = None, given: bool = True, **settings: Any) -> Any:
    metric = RelevanceScore(table, process_group=group, **settings)
    student, base, y = share(rank)
    metric.update(student, y, base if given else None)
    return metric


def five(group: Any, table: Any) -> Any:
    metric = TransferScores(table, process_group=group)
    metric.update(*share(0))
    return metric


def table(rank: int) -> Tensor:
    places = torch.tensor([[0.0, 1, 2], [3, 5, 4], [7, 8, 6]])
    return places.flip(1) if rank else places


def gather_here(value: Tensor, group: Any = None) -> list[Tensor]:
    return [value]


def empty(group: Any, rank: int, **settings: Any) -> Any:
    return FeatureSimilarityScore(process_group=group, **settings) if rank else fss(group, 0)


def shortened(group: Any, rank: int) -> Any:
    metric = fss(group, rank)
    if rank:
        metric.base[0] = metric.base[0][:7]
    return metric


def wide(group: Any, rank: int) -> Any:
    metric = FeatureSimilarityScore(process_group=group)
    metric.update(*(each.double() if rank else each for each in share(rank)[:2]))
    return metric


DIFFERENT: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "estimator": (lambda group, rank: fss(group, rank, estimator="biased" if rank else "unbiased"), "estimator differs"),
    "block size": (lambda group, rank: fss(group, rank, block_size=3 + rank), "block_size differs .* 3 in rank 0, 4 in"),
    "block size given": (lambda group, rank: fss(group, rank, block_size=3 if rank else None), "block_size differs"),
    "embeddings": (lambda group, rank: rs(group, rank, table(rank)), "class_embeddings differs"),
    "embeddings' size": (lambda group, rank: five(group, torch.eye(3 + rank)), "class_embeddings differs"),
    "embeddings given": (lambda group, rank: five(group, table(0) if rank else None), "class_embeddings differs"),
    "remove_from": (lambda group, rank: rs(group, rank, remove_from="both" if rank else "x"), "remove_from differs"),
    "given": (lambda group, rank: rs(group, rank, given=bool(rank)), "given gives"),
    "metric": (lambda group, rank: five(group, None) if rank else fss(group, rank), "metric differs"),
    "empty": (lambda group, rank: empty(group, rank, estimator="biased"), "estimator differs"),
    "dist_sync_fn": (lambda group, rank: fss(group, rank, dist_sync_fn=gather_here if rank else None), "dist_sync_fn differs"),
    "with dist_sync_fn": (
        lambda group, rank: fss(group, rank, block_size=3 + rank, dist_sync_fn=gather_here), "block_size differs"
    ),
    "dtype": (wide, "student gives 4 features of torch.float32 in rank 0 and 4 features of torch.float64"),
}  # fmt: skip


def computed(group: Any, way: str) -> Any:
    return DIFFERENT[way][0](group, as_process_group(group).rank).compute()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", DIFFERENT)
def test_different_metrics_raise_in_every_rank(workers: Workers, way: str, size: int) -> None:
    for error in workers.run(size, computed, way):
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match=DIFFERENT[way][1]):
            raise error


def stepwise(group: Any) -> Any:
    rank = as_process_group(group).rank
    metric = FeatureSimilarityScore(process_group=group, dist_sync_on_step=True, estimator="biased" if rank else "unbiased")
    return metric(*share(rank)[:2])


def test_a_batch_of_different_metrics_is_an_error_too(workers: Workers) -> None:
    for error in workers.run(2, stepwise):
        assert isinstance(error, ValueError) and "estimator differs" in str(error)


def same(group: Any, way: str) -> float:
    rank = as_process_group(group).rank
    metric = {
        "embeddings": lambda: rs(group, rank, table(1)),
        "empty": lambda: empty(group, rank),
    }[way]()
    return float(metric.compute())


@pytest.mark.parametrize("way", ["embeddings", "empty"])
def test_equal_metrics_give_one_score(workers: Workers, way: str) -> None:
    found = of(workers.run(3, same, way))
    assert len(set(found)) == 1 and found[0] == found[0] != 0


def uneven(group: Any) -> tuple[float, float, float]:
    """Both have a score; then only one sees further inputs."""
    rank = as_process_group(group).rank
    metric = fss(group, rank)
    before = float(metric.compute())
    again = float(metric.compute())
    if rank:
        metric.update(*share(7)[:2])
    return before, again, float(metric.compute())


def test_a_rank_without_further_inputs_takes_part_in_the_next_score(workers: Workers) -> None:
    one, two = of(workers.run(2, uneven))
    alone = FeatureSimilarityScore()
    for seed in (0, 1, 7):
        alone.update(*share(seed)[:2])
    assert one == two and one[0] == one[1] != one[2]
    assert one[2] == pytest.approx(float(alone.compute()), abs=1e-6)


def after_an_error(group: Any) -> float:
    rank = as_process_group(group).rank
    metric = fss(group, rank, estimator="biased" if rank else "unbiased")
    with pytest.raises(ValueError, match="estimator differs"):
        metric.compute()
    metric.estimator = "unbiased"
    return float(metric.compute())


def test_metrics_go_on_once_they_are_alike(workers: Workers) -> None:
    one, two = of(workers.run(2, after_an_error))
    assert one == two


def states_of_two_lengths(group: Any) -> None:
    shortened(group, as_process_group(group).rank).compute()


def test_states_of_different_lengths_raise_in_every_rank(workers: Workers) -> None:
    one, two = workers.run(2, states_of_two_lengths)
    assert isinstance(two, ValueError) and "different numbers of inputs: {'student': 10, 'base': 7}" in str(two)
    assert isinstance(one, RuntimeError) and "Rank 1 failed while checking its states" in str(one)
