"""Ranks that are called with different arguments raise an error, all of them, before any model runs."""

from __future__ import annotations

from typing import Any, Callable

import population
import pytest
import torch
from models import ConvNet
from population import data, related
from torch import Tensor, nn
from workers import Workers, of

from captum_kd import flatten, global_average_pool
from captum_kd._distributed import as_process_group
from captum_kd.metrics.report.agreement import comparable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def compare(group: Any, **changed: Any) -> list[float]:
    given = dict(student=related(1), base=related(2), layers=["conv1"], data=[data(8)]) | changed
    report = population.compare(process_group=group, **given)
    return [row["value"] for row in report.rows]


def in_mode(training: bool) -> nn.Module:
    model = nn.Sequential(related(1), nn.Dropout(0.3)).eval()
    model[1].train(training)
    return model


def strided(stride: int) -> nn.Module:
    model = related(1)
    model.conv1.stride = (stride, stride)
    return model


def counted(rank: int) -> nn.Module:
    model = related(1)
    model.register_buffer("places", torch.arange(3) + rank)
    return model


def as_function(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x)


def maps_of(model: Any, layer: Any, inputs: Tensor, classes: Any) -> Tensor:
    return inputs.mean(1, keepdim=True)


def other_maps(model: Any, layer: Any, inputs: Tensor, classes: Any) -> Tensor:
    return inputs.amax(1, keepdim=True)


x, y = data(8)
SEQUENTIAL = {"a": {"student": "0.conv1", "base": "conv1"}}
DIFFERENT: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "seed": (lambda rank: dict(seed=rank), "seed differs between ranks: 0 in rank 0, 1 in rank 1"),
    "layers": (lambda rank: dict(layers=["conv1", "conv2"][: 1 + rank % 2]), "layers differs .*conv2"),
    "transform": (lambda rank: dict(feature_transform=[flatten, global_average_pool][rank % 2]), "feature_transform differs"),
    "unpack": (lambda rank: dict(unpack=[None, lambda batch: batch][rank % 2]), "unpack differs"),
    "localize": (lambda rank: dict(localize=[maps_of, other_maps][rank % 2]), "localize.method differs .*maps_of.*other_maps"),
    "arguments": (lambda rank: dict(additional_forward_args=(torch.ones(2 + rank),)), "additional_forward_args differs"),
    "grid": (lambda rank: dict(grid=(4 + rank, 4)), "grid differs"),
    "reference": (lambda rank: dict(localize="unicam", reference=(x, y if rank else y.roll(1))), "reference differs"),
    "embeddings": (lambda rank: dict(class_embeddings=torch.eye(3 + rank)), "class_embeddings differs"),
    "class names": (lambda rank: dict(class_names=["a", "b", f"c{rank}"]), "class_names differs"),
    "layer": (
        lambda rank: dict(layers={"a": {"student": "conv1", "base": "conv2" if rank else "conv1"}}), "layers of base differs"
    ),
    "stride": (
        lambda rank: dict(student=strided(1 + rank % 2)),
        r"modules of student\['conv1'\] differs between ranks: .*Conv2d.*stride=\(2, 2\)",
    ),
    "mode": (
        lambda rank: dict(student=in_mode(bool(rank)), layers=SEQUENTIAL),
        r"modules of student\['1'\] differs between ranks: .*evaluation.* in rank 0, .*training",
    ),
    "weights": (lambda rank: dict(base=related(2 + rank)), "weights of base differs"),
    "buffer": (lambda rank: dict(student=counted(rank)), "weights of student differs"),
    "weights of a function": (
        lambda rank: dict(student=as_function(related(1 + rank)), layers={"a": {"student": related(1), "base": "conv1"}}),
        "weights of student differs",
    ),
}  # fmt: skip


def different(group: Any, way: str) -> list[float]:
    return compare(group, **DIFFERENT[way][0](as_process_group(group).rank))


@pytest.mark.parametrize("way", DIFFERENT)
def test_different_arguments_raise_in_every_rank(workers: Workers, way: str) -> None:
    for error in workers.run(3 if way == "seed" else 2, different, way):
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match=DIFFERENT[way][1]):
            raise error


class Storing(ConvNet):
    """Keeps what its passes leave, which differs between ranks."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return super().forward(x)


def of_its_own(group: Any, way: str) -> list[float]:
    rank = as_process_group(group).rank
    device = torch.device("cpu", rank)
    return compare(group, **{
        "closure": lambda: dict(unpack=lambda batch: (batch[0].to(device.type), batch[1])),
        "compiled": lambda: dict(student=torch.compile(related(1), backend="eager") if rank else related(1)),
        "data parallel": lambda: dict(student=nn.DataParallel(related(1)) if rank else related(1)),
        "last input": lambda: dict(student=Storing(seed=1).eval()),
        "buffer that is not saved": lambda: dict(student=cached(rank)),
    }[way]())  # fmt: skip


def cached(rank: int) -> nn.Module:
    model = related(1)
    model.register_buffer("cache", torch.ones(rank + 1), persistent=False)
    return model


@pytest.mark.parametrize("way", ["closure", "compiled", "data parallel", "last input", "buffer that is not saved"])
def test_each_rank_may_have_its_own_device_and_cache(workers: Workers, way: str) -> None:
    one, two = of(workers.run(2, of_its_own, way))
    assert one == two and any(one)


def test_comparable_values_are_equal_for_equal_arguments() -> None:
    nan = float("nan")
    given = {"a": [torch.ones(2), nan], "b": (flatten, nn.ReLU()), "c": None}
    same = {"a": [torch.ones(2), nan], "b": (flatten, nn.ReLU()), "c": None}
    assert repr(comparable(given)) == repr(comparable(same))
    for other in ({"a": [torch.zeros(2), nan]}, {"b": (flatten, nn.GELU())}, {"b": (global_average_pool, nn.ReLU())}, {"c": 0}):
        assert repr(comparable(given)) != repr(comparable({**same, **other}))
