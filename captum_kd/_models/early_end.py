"""The early end of forward passes: once all layers are captured, no further module runs.

A pass ends early only if it captures what a complete pass captures and leaves the model as a complete pass leaves it:

- A complete pass over inputs of the same shapes ran every layer once, and the model's code cannot run a layer twice.
- That pass changed no attribute and no buffer of a module, neither up to the last layer nor behind it. Items of containers and
  attributes of other objects count. No attribute holds a module under a second name.
- No module but containers is in training mode, where dropout draws random numbers and batch normalization updates its
  statistics.
- No hooks but those of this package are registered, since hooks of later modules would not run.

Not seen are state outside of modules, such as global variables and files, and writes that PyTorch does not count: through
``.data`` and NumPy, and in generators of random numbers.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Iterator, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.single_calls import is_container, runs_once_at_most

# Objects that hold no state of a pass, or are compared as they are.
_WHOLE = (
    Tensor, nn.Module, type, FunctionType, BuiltinFunctionType, MethodType, ModuleType,
    str, bytes, int, float, complex, type(None),
)  # fmt: skip
# A model that holds more, such as a data set, runs complete passes.
_MOST_ENTRIES = 200_000


class EndOfPass(BaseException):
    """Ends a forward pass. It is no ``Exception``, so models that catch all exceptions let it through."""

    def __init__(self, layers: LayerCalls) -> None:
        super().__init__("This ends a forward pass of captum_kd; if you catch it, raise it again.")
        self.layers = layers


class LayerCalls:
    """The calls of layers in one forward pass.

    Attributes:
        stops (bool): the pass ends when all layers have run.
        is_over (bool): all layers have run in a pass that stops. What the model runs afterwards does not count.
        was_caught (bool): the model caught the end of the pass.
    """

    def __init__(self, modules: Sequence[nn.Module], layers: Sequence[nn.Module], *, stops: bool) -> None:
        self.stops = stops
        self.is_over = False
        self.was_caught = False
        self._modules = modules
        self._missing = set(layers)
        self._ran_again = False
        self._states = [] if stops else [_state_of(modules)]

    def reached(self, layer: nn.Module) -> None:
        """Counts a call of a layer, after its tensors were captured."""
        self._ran_again |= layer not in self._missing
        self._missing.discard(layer)
        if self._missing:
            return
        if self.stops:
            self.is_over = True
            raise EndOfPass(self)
        self._states.append(_state_of(self._modules))

    def allow_early_end(self) -> bool:
        """Whether the next passes may stop, after a complete pass."""
        if self._missing or self._ran_again:
            return False
        first, *others = *self._states, _state_of(self._modules)
        if len(first) > _MOST_ENTRIES or any(isinstance(value, nn.Module) for value, _ in first):
            return False
        return all(len(each) == len(first) and all(map(_is_same, first, each)) for each in others)


def layer_calls(
    forward_func: Callable[..., Any], modules: Sequence[nn.Module], layers: Sequence[nn.Module], may_stop: Optional[bool]
) -> Optional[LayerCalls]:
    """The calls of layers in the next pass.

    Args:
        forward_func (callable): the model.
        modules (sequence of nn.Module): all modules that it may run.
        layers (sequence of nn.Module): the layers that are captured.
        may_stop (bool, optional): what :meth:`LayerCalls.allow_early_end` returned after an earlier pass; None before.

    Returns:
        LayerCalls: stops the pass if ``may_stop``; otherwise observes it. None if no pass may end early.
    """
    if may_stop is False:
        return None
    if any(each._forward_hooks or each._forward_pre_hooks for each in modules) or _has_global_hooks():
        return None
    if any(each.training and not is_container(each) for each in modules):
        return None
    if may_stop is None and not all(runs_once_at_most(forward_func, layer) for layer in layers):
        return None
    return LayerCalls(modules, layers, stops=bool(may_stop))


def _has_global_hooks() -> bool:
    every = torch.nn.modules.module
    return bool(every._global_forward_hooks or every._global_forward_pre_hooks)


def _state_of(modules: Sequence[nn.Module]) -> list[tuple[Any, int]]:
    """The attributes of modules, hooks and children left out, and what these hold, with the versions of tensors."""
    seen: set[int] = set()
    values = (
        value for module in modules for name, value in vars(module).items() if "_hooks" not in name and name != "_modules"
    )
    entries = (entry for value in values for entry in _entries(value, seen))
    return list(islice(entries, _MOST_ENTRIES + 1))


def _entries(value: Any, seen: set[int]) -> Iterator[tuple[Any, int]]:
    yield value, _version(value)
    if isinstance(value, _WHOLE) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        parts = [each for item in value.items() for each in item]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    for each in parts:
        yield from _entries(each, seen)


def _version(value: Any) -> int:
    # Tensors made in inference mode count no versions.
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _is_same(before: tuple[Any, int], after: tuple[Any, int]) -> bool:
    return before[0] is after[0] and before[1] == after[1]
