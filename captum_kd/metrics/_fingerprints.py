"""Digests of models and functions."""

from __future__ import annotations

import dis
import functools
import hashlib
import re
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn

from captum_kd._models.reachable import is_installed, is_wrapper, methods_of_passes, references
from captum_kd._utils.checksums import checksum, kept_buffers, own_parameters

_DEVICE = re.compile(r"(cpu|cuda|hpu|mps|npu|xla|xpu)(:\d+)?")

# What every module has besides its own settings: tensors, submodules, hooks and compiled code.
_OF_ALL_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_compile_kwargs", "_is_torch_compile"}


def digest(*contents: bytes) -> str:
    """A few characters that stand for the contents."""
    hashed = hashlib.sha1()
    for content in contents:
        hashed.update(content)
    return hashed.hexdigest()[:12]


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process has a part of a tensor of its own."""
    return type(tensor).__name__ in ("DTensor", "FlatParameter")


# --------------------------------------------------------------------------- functions


def digest_of_callable(function: Any) -> str:
    """A function by its code and all it refers to, a module by its settings and weights, an object by type and state.

    Installed functions are known by their names, for their code changes with versions. Of an object
    that does not say what it consists of (no pickling) the type and its methods count. Devices do not count.
    """
    return digest(repr(_description(function, {})).encode())


def is_device(name: str) -> bool:
    """Whether a text names a device: each of several processes has one of its own."""
    return _DEVICE.fullmatch(name) is not None


def _description(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """Nested tuples of plain values that are equal for equal things, in any process.

    ``seen`` numbers, and keeps alive, what was described before: things may hold each other.
    """
    describe = functools.partial(_description, seen=seen)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"
    # What cannot be changed may be one object or several equal ones, and is described each time.
    if isinstance(value, torch.device) or (isinstance(value, str) and is_device(value)):
        return ("device",)
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        return kind, repr(value)
    if isinstance(value, ModuleType):
        return kind, value.__name__
    if isinstance(value, type):
        return kind, name
    if isinstance(value, tuple):
        return (kind, *map(describe, value))
    if isinstance(value, frozenset):
        return (kind, *sorted(map(describe, value), key=repr))
    if isinstance(value, CodeType):
        return kind, value.co_code, value.co_names, value.co_varnames, describe(value.co_consts)
    if id(value) in seen:
        return kind, "number", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    if isinstance(value, list):
        return (kind, *map(describe, value))
    if isinstance(value, set):
        return (kind, *sorted(map(describe, value), key=repr))
    if isinstance(value, dict):
        return (kind, *sorted(((describe(key), describe(item)) for key, item in value.items()), key=repr))
    if isinstance(value, Tensor):
        return kind, checksum([value])
    if isinstance(value, nn.Module):
        return _description_of_module(value, describe)
    if isinstance(value, functools.partial):
        return kind, describe(value.func), describe(value.args), describe(value.keywords)
    if isinstance(value, MethodType):
        return kind, describe(value.__func__), describe(value.__self__)
    if hasattr(value, "_torchdynamo_orig_callable"):  # compiled
        return describe(value._torchdynamo_orig_callable)
    if isinstance(value, FunctionType):
        code = None if is_installed(value.__code__) else value.__code__
        return kind, name, describe(code), *((called, describe(referred)) for called, referred in references(value))
    if isinstance(value, torch.jit.ScriptFunction):
        return kind, value.code
    if isinstance(value, BuiltinFunctionType):
        return kind, name, describe(value.__self__)
    if hasattr(value, "__wrapped__"):  # a cache around a function, say
        return kind, describe(value.__wrapped__)
    return kind, name, *map(describe, _state(value)), *map(describe, methods_of(type(value)))


def _description_of_module(module: nn.Module, describe: Callable[[Any], Any]) -> Any:
    if is_wrapper(module):
        (inside,) = module.children()
        return describe(inside)
    return (
        f"{type(module).__module__}.{type(module).__qualname__}",
        module.training,
        describe(own_settings(module)),
        checksum([*own_parameters(module), *kept_buffers(module)]),
        *((name, describe(child)) for name, child in module.named_children()),
    )


def own_settings(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes but for those that its passes store, such as counters, caches and the last outputs."""
    code = [each for method in methods_of_passes(module) for each in dis.get_instructions(method)]
    stored = {each.argval for each in code if each.opname == "STORE_ATTR"}
    return {name: value for name, value in vars(module).items() if name not in _OF_ALL_MODULES and name not in stored}


def methods_of(kind: type) -> Iterator[FunctionType]:
    """The methods that a user's classes define: two classes of one name may differ in them."""
    for each in kind.__mro__:
        for _, method in sorted(vars(each).items()):
            if isinstance(method, FunctionType) and not is_installed(method.__code__):
                yield method


def _state(value: Any) -> tuple[Any, ...]:
    """What pickle would keep of an object; nothing of one that cannot be pickled, for whatever reason."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:
        return ()
    if isinstance(reduced, str):
        return (reduced,)
    # Then constructor, arguments, state and, as iterators, the items of lists and mappings.
    return tuple(part if part is None or index < 3 else list(part) for index, part in enumerate(reduced[:5]))
