"""Checks that several processes were given the same question, before any model runs."""

from __future__ import annotations

import functools
import hashlib
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Iterator, Mapping, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from captum_kd._reachable import closure_of
from captum_kd.attr.fingerprints import digest_of_callable, digest_of_tensors, is_device, methods_of
from captum_kd.metrics.report.settings import name_of
from captum_kd.metrics.report.subjects import Subject
from captum_kd.names import names_in
from captum_kd.processes import Processes

__all__ = ["check_models", "exact_digest", "question_of", "what_is_called"]

_OF_ALL_MODULES = frozenset(vars(nn.Module()))


def check_models(subjects: Sequence[Subject], processes: Processes) -> None:
    """Raises a ValueError for models whose forward passes wait for other processes: these have other batches, or none."""
    if type(processes) is Processes:
        return
    for subject in subjects:
        if isinstance(subject.model, DistributedDataParallel):
            raise ValueError(
                f"{subject} is a DistributedDataParallel, whose forward passes wait for those of the other processes; pass the "
                "model in it, its .module."
            )


def question_of(
    subjects: Sequence[Subject], labels: Sequence[str], class_embeddings: Optional[Tensor], arguments: Mapping[str, object]
) -> dict[str, object]:
    """What all processes must have alike, by its name in errors: layers, models, classes and arguments."""
    values: dict[str, object] = {"layers": list(labels), "student, base, teacher": [str(each) for each in subjects]}
    for subject in subjects:
        values[f"layers of {subject}"] = [layer.name for layer in subject.layers]
        if isinstance(subject.model, nn.Module):
            values.update(_modules(subject, subject.model))
        else:
            values[f"{subject} (name and contents)"] = what_is_called(subject.model)
    return {**values, "class_embeddings": exact_digest(class_embeddings), **arguments}


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
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        return "" if value.is_meta or value.is_nested or value.is_quantized else str(digest_of_tensors([value]))
    flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return hashlib.sha1(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()[:12]


def _modules(subject: Subject, model: nn.Module) -> Iterator[tuple[str, object]]:
    """Kind, settings, mode and weights of each module."""
    modules = names_in(model)
    for name, module in modules.items():
        where = f"module {name!r} of {subject}" if name else str(subject)
        yield f"the class of {where}", (f"{type(module).__module__}.{type(module).__qualname__}", _code(type(module)))
        yield f"the mode of {where}", "training" if module.training else "evaluation"
        settings = {key: shown for key, value in vars(module).items() for shown in _setting(key, value)}
        yield f"the settings of {where}", {"": module.extra_repr(), **settings}
    weights = hashlib.sha1()
    for tensor in _weights(model):
        weights.update(repr(exact_digest(tensor)).encode())
    yield f"the weights of {subject}", weights.hexdigest()[:12]


def _setting(name: str, value: Any) -> Iterator[object]:
    """A module's own attribute where it is a plain value or a function; others, such as caches and devices, do not count."""
    if name in _OF_ALL_MODULES:
        return
    if isinstance(value, functools.partial):
        yield what_is_called(value.func), [each for each in (*value.args, *value.keywords.items()) if _is_plain(each)]
    elif isinstance(value, MethodType):
        yield what_is_called(value.__func__)
    elif isinstance(value, (FunctionType, BuiltinFunctionType)):
        yield what_is_called(value)
    elif _is_plain(value):
        yield value


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
    return [] if any(type(each).__name__ in ("DTensor", "FlatParameter") for each in tensors) else tensors
