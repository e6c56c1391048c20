"""Several processes that were given different things say so, all of them, before any model runs."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from typing import Any, Callable

import numpy as np
import pytest
import torch
from models import ConvNet
import population
from population import data, related
from torch import Tensor, nn
from torch.nn import functional as F
from workers import Workers, of

from captum_kd import flatten
from captum_kd._distributed import as_process_group

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def compare(group: Any, **changed: Any) -> list[float]:
    given = dict(student=related(1), base=related(2), layers=["conv1"], data=[data(8)], show_progress=False) | changed
    for model in (given["student"], given["base"]):
        if isinstance(model, nn.Module) and not changed.get("keep_mode"):
            model.eval()
    given.pop("keep_mode", None)
    report = population.compare(process_group=group, **given)
    return [row["value"] for row in report.rows]


def times(factor: float) -> Callable[[Tensor], Tensor]:
    def transform(values: Tensor) -> Tensor:
        return values.flatten(1) ** factor

    return transform


def with_default(factor: float) -> Callable[[Tensor], Tensor]:
    def transform(values: Tensor, power: float = factor) -> Tensor:
        return values.flatten(1) ** power

    return transform


def power(factor: float, values: Tensor) -> Tensor:
    return values.flatten(1) ** factor


class Power:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, values: Tensor) -> Tensor:
        return values.flatten(1) ** self.factor

    def method(self, values: Tensor) -> Tensor:
        return values.flatten(1) ** self.factor


def of_class(factor: int) -> Callable[[Tensor], Tensor]:
    class Transform:
        def __call__(self, values: Tensor) -> Tensor:
            return values.flatten(1) ** factor

    return Transform()


def cached(factor: int) -> Callable[[Tensor], Tensor]:
    return functools.lru_cache(maxsize=1)(times(factor))


def two_lambdas(rank: int) -> Callable[[Tensor], Tensor]:
    return (lambda values: values.flatten(1)) if rank == 0 else (lambda values: values.flatten(1).abs())


TRANSFORMS: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "lambda": two_lambdas,
    "closure": times,
    "default": with_default,
    "partial": lambda factor: functools.partial(power, factor),
    "keyword partial": lambda factor: functools.partial(flatten if factor else power, **({} if factor else {"factor": 2})),
    "object": Power,
    "method": lambda factor: Power(factor).method,
    "class": of_class,
    "cache": cached,
    "module": lambda factor: nn.Sequential(nn.Flatten(), nn.Threshold(0.1 * factor, 0.0)),
    "compiled": lambda factor: torch.compile(times(factor)),
}


def transforms(group: Any, way: str, differ: bool) -> list[float]:
    rank = as_process_group(group).rank if differ else 1
    return compare(group, feature_transform=TRANSFORMS[way](rank))


@pytest.mark.parametrize("way", TRANSFORMS)
def test_functions_of_one_name_differ_by_what_they_do(workers: Workers, way: str) -> None:
    for error in workers.run(2, transforms, way, True):
        assert isinstance(error, ValueError)
        assert str(error).startswith("feature_transform differs among the processes: ") and "in process 1" in str(error)


@pytest.mark.parametrize("way", [way for way in TRANSFORMS if way != "compiled"])
def test_equal_functions_are_equal_though_each_process_has_its_own(workers: Workers, way: str) -> None:
    one, two = of(workers.run(2, transforms, way, False))
    assert one == two and any(one)


def on_own_device(group: Any) -> list[float]:
    device = torch.device("cpu", as_process_group(group).rank)
    name = f"cuda:{as_process_group(group).rank}"
    return compare(group, unpack=lambda batch: (batch[0].to(device.type), batch[1], name)[:2])


def test_each_process_may_have_a_device_of_its_own(workers: Workers) -> None:
    one, two = of(workers.run(2, on_own_device))
    assert one == two


class Gained(nn.Module):
    def __init__(self, gain: float, activation: Any = F.relu) -> None:
        super().__init__()
        self.conv1 = related(1).conv1
        self._gain, self.activation = gain, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv1(x)) * self._gain


def forward_of_its_own(rank: int) -> nn.Module:
    class Own(Gained):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv1(x) + rank

    return Own(1.0)


def permuted(rank: int) -> nn.Module:
    """The same sums, and first entries, of each row."""
    model = related(2)
    weight = model.conv1.weight.detach()
    weight[:, 0, 0, 1:3] = weight[:, 0, 0, 1:3].flip(1) if rank else weight[:, 0, 0, 1:3].clone()
    return model


def in_mode(training: bool) -> nn.Module:
    model = nn.Sequential(related(1), nn.Dropout(0.3))
    model.eval()[1].train(training)
    return model


def as_function(rank: int) -> Callable[[Tensor], Tensor]:
    model = related(1).eval()
    return lambda x: model(x) * (rank + 1)


def explained(rank: int) -> Callable[..., Tensor]:
    return lambda model, layer, inputs, classes: inputs.mean(1, keepdim=True) * (1 - 2 * rank)


def counted(rank: int) -> nn.Module:
    model = Gained(1.0)
    model.register_buffer("places", torch.arange(3) + rank)
    return model


class Kind(enum.Enum):
    SUM = 1
    MEAN = 2


@dataclasses.dataclass
class Settings:
    gain: float


class Held(Gained):
    """A model with an attribute, which its passes may store too."""

    def __init__(self, value: Any) -> None:
        super().__init__(1.0)
        self.value = value


class Caching(Held):
    def forward(self, x: Tensor) -> Tensor:
        self._store(x)
        return super().forward(x)

    def _store(self, x: Tensor) -> None:
        self.value, self.passes = x, 1


def loaded(rank: int) -> nn.Module:
    model = ConvNet(seed=rank)
    return model.conv1


VALUES: dict[str, Callable[[int], Any]] = {
    "mapping": lambda rank: {"gain": 1 + rank},
    "mapping of functions": lambda rank: {"activation": [F.relu, F.gelu][rank % 2]},
    "list of functions": lambda rank: [lambda x: x * (1 + rank)],
    "tensor": lambda rank: torch.tensor([1.0, rank]),
    "array": lambda rank: np.array([1.0, rank]),
    "numpy number": lambda rank: np.float64(rank),
    "complex": lambda rank: 1j * rank,
    "data class": lambda rank: Settings(1.0 + rank),
    "namespace": lambda rank: types.SimpleNamespace(a=[rank]),
    "enumeration": lambda rank: list(Kind)[rank % 2],
    "dtype": lambda rank: [torch.float32, torch.float64][rank % 2],
    "set": lambda rank: {"a", f"b{rank}"},
    "class": lambda rank: [nn.ReLU, nn.GELU][rank % 2],
    "object": Power,
    "partial": lambda rank: functools.partial(torch.add, torch.tensor(1.0 + rank)),
    "cached": cached,
    "modules that are not registered": lambda rank: [loaded(rank)],
    "parameters that are not registered": lambda rank: [nn.Parameter(torch.ones(2) * rank)],
}


def with_value(group: Any, way: str, differ: bool) -> list[float]:
    return compare(group, student=Held(VALUES[way](as_process_group(group).rank if differ else 1)))


@pytest.mark.parametrize("way", VALUES)
def test_settings_of_every_kind_count(workers: Workers, way: str) -> None:
    for error in workers.run(2, with_value, way, True):
        assert isinstance(error, ValueError) and "the settings of student differs" in str(error)
        assert "'value'" in str(error) and "activation'" not in str(error).replace("('activation'", "")  # what differs alone
    one, two = of(workers.run(2, with_value, way, False))
    assert one == two and any(one)


KEPT: dict[str, Callable[[int], Any]] = {
    "last input": lambda rank: Caching(None if rank else torch.ones(rank + 1)),
    "cache": lambda rank: Held({} if rank else {(4, 4): torch.ones(3)}),
    "list of outputs": lambda rank: Held([] if rank else [torch.ones(3)]),
    "generator": lambda rank: Held(torch.Generator().manual_seed(rank)),
    "any object": lambda rank: Held(object()),
    "itself": lambda rank: in_circle(),
    "compiled in one process": lambda rank: torch.compile(Held(1), backend="eager") if rank else Held(1),
    "compiled in place in one process": lambda rank: compiled_in_place(bool(rank)),
    "function of a model that stores": lambda rank: Caching(rank).forward,
}


def in_circle() -> nn.Module:
    model = Held(None)
    model.value = [model, {"parent": model}]
    return model


def compiled_in_place(is_compiled: bool) -> nn.Module:
    model = Held(1)
    if is_compiled:
        model.compile(backend="eager")
    return model


def kept(group: Any, way: str) -> list[float]:
    model = KEPT[way](as_process_group(group).rank)
    if not isinstance(model, nn.Module):
        return compare(group, student=model, layers={"a": {"student": model.__self__.conv1, "base": "conv1"}})
    return compare(group, student=model)


@pytest.mark.parametrize("way", KEPT)
def test_what_passes_left_in_a_model_does_not_count(workers: Workers, way: str) -> None:
    one, two = of(workers.run(2, kept, way))
    assert one == two and any(one)


x, y = data(8)
DIFFERENT: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "unpack": (lambda rank: dict(unpack=lambda batch: (batch[0] * (1 + rank), batch[1])), "unpack"),
    "unpack given": (lambda rank: dict(unpack=[None, lambda batch: batch][rank % 2]), "unpack"),
    "output_transform": (lambda rank: dict(output_transform=lambda output: output + rank), "output_transform"),
    "localize": (lambda rank: dict(localize=explained(rank)), "localize"),
    "arguments": (lambda rank: dict(additional_forward_args=(torch.tensor([1.0, rank]),)), "additional_forward_args"),
    "grid": (lambda rank: dict(grid=(4 + rank, 4)), "grid"),
    "reference": (
        lambda rank: dict(localize="unicam", reference=(x, y if rank else y.roll(1))),
        "reference",
    ),
    "gain": (lambda rank: dict(student=Gained(1.0 + rank)), "the settings of student"),
    "activation": (lambda rank: dict(student=Gained(1.0, [F.relu, F.gelu][rank % 2])), "the settings of student"),
    "forward": (lambda rank: dict(student=forward_of_its_own(rank)), "the class of student"),
    "weights": (lambda rank: dict(base=permuted(rank)), "the weights of base"),
    "integer buffer": (lambda rank: dict(student=counted(rank)), "the weights of student"),
    "mode": (
        lambda rank: dict(student=in_mode(bool(rank)), layers={"a": {"student": "0.conv1", "base": "conv1"}}, keep_mode=True),
        "the mode of module '1' of student differs among the processes: 'evaluation' in process 0, 'training'",
    ),
    "function": (
        lambda rank: dict(student=as_function(rank), layers={"a": {"student": related(1).conv1, "base": "conv1"}}),
        r"student \(name and contents\)",
    ),
}  # fmt: skip


def different(group: Any, way: str) -> list[float]:
    return compare(group, **DIFFERENT[way][0](as_process_group(group).rank))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", DIFFERENT)
def test_what_differs_is_an_error_in_all_processes(workers: Workers, way: str, size: int) -> None:
    for error in workers.run(size, different, way):
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match=DIFFERENT[way][1]) as caught:
            raise error
        assert " differs among the processes: " in str(caught.value)
