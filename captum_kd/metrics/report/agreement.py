"""Checks before any model runs that all ranks were called with equal arguments."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from types import MethodType, SimpleNamespace
from typing import Any, Iterator, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from captum_kd._distributed import ProcessGroup
from captum_kd._models.layer_names import names_in
from captum_kd._models.reachable import closure_of
from captum_kd._utils.checksums import checksum
from captum_kd.metrics._fingerprints import digest_of_callable, is_device, is_sharded, methods_of, own_settings
from captum_kd.metrics.report.models import ComparedModel
from captum_kd.metrics.report.settings import Settings, name_of

__all__ = ["check_models", "exact_digest", "question_of", "what_is_called"]


def check_models(subjects: Sequence[ComparedModel], processes: ProcessGroup) -> None:
    """Raises a ValueError for models whose forward passes wait for other processes: these have other batches, or none."""
    if type(processes) is ProcessGroup:
        return
    for subject in subjects:
        if isinstance(subject.model, DistributedDataParallel):
            raise ValueError(
                f"{subject} is a DistributedDataParallel, whose forward passes wait for those of the other processes; pass the "
                "model in it, its .module."
            )


def question_of(subjects: Sequence[ComparedModel], labels: Sequence[str], settings: Settings) -> dict[str, object]:
    """What all processes must have alike, by its name in errors: layers, models and settings."""
    values: dict[str, object] = {"layers": list(labels), "student, base, teacher": [str(each) for each in subjects]}
    for subject in subjects:
        values[f"layers of {subject}"] = [layer.name for layer in subject.layers]
        if isinstance(subject.model, nn.Module):
            values.update(_modules(subject, subject.model))
        else:
            values[f"{subject} (name and contents)"] = what_is_called(subject.model)
    return {**values, **{name: _comparable(value) for name, value in settings.compared().items()}}


def _comparable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {name: _comparable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(_comparable, value))
    return what_is_called(value) if callable(value) else exact_digest(value)


def what_is_called(function: Any) -> Optional[tuple[str, str]]:
    """A function's name and a digest of its code and of all it refers to.

    Installed and compiled C functions count by their names alone.
    """
    if function is None:
        return None
    try:
        return name_of(function), digest_of_callable(function)
    except Exception:  # what it holds cannot be read, such as weights cut into shards
        return name_of(function), "not comparable"


def exact_digest(value: Any) -> Any:
    """A digest of all tensors in lists and tuples to the last bit, with their shapes; other values by their contents."""
    if isinstance(value, (list, tuple)):
        return tuple(map(exact_digest, value))
    if not isinstance(value, Tensor):
        return None if value is None else digest_of_callable(value)
    return (*value.shape, str(value.dtype), _digest_of_bytes(value))


def _digest_of_bytes(value: Tensor) -> str:
    if value.is_meta or value.is_nested or value.is_quantized:
        return ""
    if value.layout != torch.strided:
        return str(checksum([value]))
    flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return hashlib.sha1(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()[:12]


def _modules(subject: ComparedModel, model: nn.Module) -> Iterator[tuple[str, object]]:
    """Kind, settings, mode and weights of each module."""
    seen: dict[int, Any] = {}
    for name, module in names_in(model).items():
        where = f"module {name!r} of {subject}" if name else str(subject)
        yield f"the class of {where}", (f"{type(module).__module__}.{type(module).__qualname__}", _code(type(module)))
        yield f"the mode of {where}", "training" if module.training else "evaluation"
        yield f"the settings of {where}", _settings(module, seen)
    yield f"the weights of {subject}", _digest_of_weights(model)


def _digest_of_weights(model: nn.Module) -> str:
    weights = hashlib.sha1()
    for tensor in _weights(model):
        weights.update(repr(exact_digest(tensor)).encode())
    return weights.hexdigest()[:12]


class _NoSetting(Exception):
    """A value that does not count."""


def _settings(module: nn.Module, seen: dict[int, Any]) -> dict[str, object]:
    """A module's own attributes as plain descriptions."""
    return {"": module.extra_repr(), **dict(_pairs(own_settings(module), seen))}


def _setting(value: Any, seen: dict[int, Any]) -> Any:
    """A plain description of an attribute's value. Devices do not count, nor do objects that are neither functions nor
    configurations, such as generators and trainers."""
    if isinstance(value, (np.generic, torch.dtype, enum.Enum)):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, complex, bytes)) or isinstance(value, str) and not is_device(value):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        return exact_digest(torch.as_tensor(value))
    if isinstance(value, type):
        return name_of(value)
    if isinstance(value, MethodType):
        return what_is_called(value.__func__)
    if id(value) in seen:
        return "as before"
    seen[id(value)] = value
    if isinstance(value, functools.partial):
        return _setting(value.func, seen), _pairs(dict(enumerate(value.args)), seen), _pairs(value.keywords, seen)
    if isinstance(value, nn.Module):
        return name_of(type(value)), [_settings(each, seen) for each in value.modules()], _digest_of_weights(value)
    if dataclasses.is_dataclass(value) or isinstance(value, (SimpleNamespace, Namespace)):
        value = vars(value)
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        return _pairs({key: each for key, each in value.items() if not _is_kept(each)}, seen)
    if isinstance(value, (set, frozenset)):
        return sorted(repr(each) for _, each in _pairs(dict(enumerate(value)), seen))
    if callable(value):
        return what_is_called(value)
    raise _NoSetting


def _is_kept(value: Any) -> bool:
    """Whether a container may have got a value from a pass: tensors, unless they are weights."""
    return isinstance(value, (Tensor, np.ndarray)) and not isinstance(value, nn.Parameter)


def _pairs(values: Mapping[Any, Any], seen: dict[int, Any]) -> list[tuple[str, Any]]:
    found = []
    for key, value in values.items():
        with suppress(_NoSetting):
            found.append((str(key), _setting(value, seen)))
    return found


def _code(kind: type) -> str:
    """A digest of the methods of a user's class, and of the plain values around them."""
    return digest_of_callable(
        [(method.__code__, [each for each in closure_of(method) if _is_plain(each[1])]) for method in methods_of(kind)]
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not is_device(value)
    return type(value) in (bool, int, float, type(None))


def _weights(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers; none where processes have different parts of them (models cut into shards)."""
    counted = [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] != "num_batches_tracked"]
    tensors = [each for each in (*model.parameters(), *counted) if not is_lazy(each)]
    return [] if any(map(is_sharded, tensors)) else tensors
