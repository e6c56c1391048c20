"""Comparison of the arguments of all ranks, before any model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Sequence

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captum_kd._distributed import ProcessGroup
from captum_kd._models.layer_names import names_in
from captum_kd._models.reachable import is_wrapper, modules_of
from captum_kd._utils.checksums import checksum, checksum_of_modules
from captum_kd.metrics.report.models import ComparedModel


def check_models(models: Sequence[ComparedModel], group: ProcessGroup) -> None:
    """Raises a ValueError for DistributedDataParallel models, which would hang if another rank has fewer batches."""
    for each in models:
        if group.is_distributed and isinstance(each.model, DistributedDataParallel):
            raise ValueError(
                f"{each} is a DistributedDataParallel, whose forward passes wait for those of the other ranks. Pass the wrapped "
                "model, its .module."
            )


def shared_arguments(
    models: Sequence[ComparedModel], labels: Sequence[str], settings: Mapping[str, object]
) -> dict[str, object]:
    """The arguments that must be equal in all ranks, by the name that an error shows."""
    values: dict[str, object] = {"layers": list(labels), "student, base, teacher": [str(each) for each in models]}
    for each in models:
        values[f"layers of {each}"] = [layer.name for layer in each.layers]
        values[f"modules of {each}"] = _modules(each.model) if isinstance(each.model, nn.Module) else comparable(each.model)
        values[f"weights of {each}"] = checksum_of_modules(modules_of(each.model))  # also of the modules that a function runs
    return values | {name: comparable(value) for name, value in settings.items()}


def comparable(value: Any) -> object:
    """A short, picklable value that stands for an argument in a comparison.

    Tensors are compared by shape, dtype and a checksum of their values; containers by their items; functions by their names;
    other objects by their types.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return value
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), checksum([value])
    if isinstance(value, Mapping):
        return {key: comparable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(comparable, value))
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _modules(model: nn.Module) -> dict[str, str]:
    """Class, arguments and mode of each module."""
    return {
        name: f"{type(module).__name__}({module.extra_repr()}), {'training' if module.training else 'evaluation'}"
        for name, module in names_in(model).items()
        if not is_wrapper(module)
    }
