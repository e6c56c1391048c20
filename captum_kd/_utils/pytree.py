"""Tensors in nested tuples, lists, mappings and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any, Callable, Iterable

from torch import Tensor, nn


def tensors_in(value: Any) -> list[Tensor]:
    """Floating point tensors of a tensor, tuple, list, mapping or dataclass, in order."""
    if _is_kept(value):
        return [value]
    children: Iterable[Any] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = _fields(value).values()
    elif isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, (tuple, list)):
        children = value
    return [tensor for child in children for tensor in tensors_in(child)]


def own_tensors(module: nn.Module, value: Any, at_input: bool = False) -> list[Tensor]:
    """The tensors of a module's output (or input), without those that accompany them.

    Left out are hidden states of recurrent layers, weights of :class:`torch.nn.MultiheadAttention`, tuples of a model's output
    (the outputs of all of its blocks), tuples among keyword arguments (tables of positions) and, beside tokens (N, T, C), tensors
    (., heads, T, .): attention weights, position biases and caches.
    """
    kinds = (nn.RNNBase,) if at_input else (nn.RNNBase, nn.MultiheadAttention)
    if isinstance(module, kinds) and isinstance(value, tuple):
        value = value[:1]
    elif isinstance(value, Mapping) and ("last_hidden_state" in value or (at_input and any(map(_is_kept, value.values())))):
        value = [each for each in value.values() if not isinstance(each, (tuple, list))]
    tensors = tensors_in(value)
    if not tensors or tensors[0].dim() != 3:
        return tensors
    return [tensor for tensor in tensors if tensor.dim() != 4 or tensor.shape[2] != tensors[0].shape[1]]


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with other tensors: those that :func:`tensors_in` returns are changed, in its order."""
    if _is_kept(value):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _map_fields(value, change)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key in value:
            changed[key] = map_tensors(value[key], change)
        return changed
    return value


def _is_kept(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _map_fields(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy, not constructed again, with changed tensors and everything else that was set on the dataclass."""
    changed = copy.copy(value)
    for name, content in _fields(value).items():
        mapped = map_tensors(content, change)
        object.__setattr__(changed, name, mapped)  # works for frozen dataclasses too
        # Outputs that are mappings as well (Hugging Face's) hold their fields a second time.
        if isinstance(changed, MutableMapping) and name in changed:
            changed[name] = mapped
    return changed


def _fields(value: Any) -> dict[str, Any]:
    # Fields that are not arguments of the constructor count too, once they are set.
    return {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
    }
