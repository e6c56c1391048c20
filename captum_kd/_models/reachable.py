"""The modules and methods that a model or function refers to."""

from __future__ import annotations

import dis
import functools
import gc
import inspect
import os
import sys
import sysconfig
import weakref
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Iterable, Iterator, Optional

from torch import Tensor, nn

# Folders of Python, of installed packages and of this module.
_INSTALLED = tuple(
    str(folder) + os.sep
    for folder in (
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        Path(__file__).parent,
    )
)


def add_modules(module: nn.Module, found: dict[nn.Module, None]) -> None:
    """Adds a module and its descendants, in the order of ``modules()`` but several times as fast."""
    if module not in found:
        found[module] = None
        for child in module._modules.values():
            if child is not None:
                add_modules(child, found)


def modules_of(forward_func: Callable[..., Any]) -> list[nn.Module]:
    """All modules of a model, in a fixed order.

    For a plain function these are the modules that it can reach: through its closure, the globals that it uses, its defaults,
    the arguments of a partial, the owner of a method, the attributes of a callable object, and functions and containers among
    these. Data-parallel and compiling wrappers are left out, since the model inside is the same with and without them.
    """
    found: dict[nn.Module, None] = {}
    seen: dict[int, Any] = {}  # keeps the objects alive, since ids of deleted objects are reused
    pending: list[Any] = [forward_func]
    while pending:
        value = pending.pop(0)
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            add_modules(value, found)
        else:
            pending += _referred(value)
            if callable(value) and not isinstance(value, (type, FunctionType, MethodType, functools.partial)):
                pending.append(getattr(value, "__dict__", None))
    return [module for module in found if not is_wrapper(module)]


def _referred(value: Any) -> Iterable[Any]:
    """Objects that a function or a container refers to."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__, getattr(value.__self__, "__dict__", None)]
    if isinstance(value, FunctionType):
        return _references(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    return value.values() if isinstance(value, dict) else ()


def model_of(forward_func: Any) -> Optional[nn.Module]:
    """The module that a call runs: the object itself or the owner of a (partial) bound method; None for other functions."""
    while isinstance(forward_func, functools.partial):
        forward_func = forward_func.func
    if isinstance(forward_func, MethodType):
        forward_func = forward_func.__self__
    return forward_func if isinstance(forward_func, nn.Module) else None


def can_reach(forward_func: Callable[..., Any], module: nn.Module) -> bool:
    """Whether a model may run a module: a submodule, or a module that its attributes or its code refer to.

    Models also keep modules in lists, weak references, class attributes, registries and other files, so that their weights are
    not registered. The answer may be True for a module that does not run; the forward pass detects that later.
    """
    seen: dict[int, Any] = {}
    pending: list[Any] = [forward_func]
    while pending:
        value = pending.pop()
        if value is module:
            return True
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if type(value) in weakref.ProxyTypes:  # first, since isinstance() fails for a proxy whose object is gone
            with suppress(ReferenceError):
                pending.append(value.__repr__.__self__)
        elif isinstance(value, FunctionType):
            pending += _referred(value)
        elif isinstance(value, ModuleType):
            pending += vars(value).values() if _is_of_user(value) else ()
        elif isinstance(value, type):
            owners = [owner for owner in value.__mro__ if _is_of_user(sys.modules.get(owner.__module__))]
            pending += [each for owner in owners for each in vars(owner).values()]
        elif isinstance(value, weakref.ref):
            pending.append(value())
        elif not isinstance(value, (Tensor, str, bytes, CodeType)):
            # The items, the attributes and the class of any other object.
            pending += gc.get_referents(value)
    return False


def _is_of_user(module: Optional[ModuleType]) -> bool:
    """Whether a Python module is neither installed nor part of Python; True for None, a class without a module."""
    if module is None or module.__name__ == "__main__":
        return True
    return not (getattr(module, "__file__", None) or _INSTALLED[0]).startswith(_INSTALLED)


def is_wrapper(module: nn.Module) -> bool:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return isinstance(module, parallel) or "_orig_mod" in module._modules


def _references(function: FunctionType) -> list[Any]:
    """Objects that a function refers to: closure, defaults and, for code that is not installed, globals."""
    code = function.__code__
    names = [] if is_installed(code) else sorted(set(_global_names(code)) & function.__globals__.keys())
    return [
        *(cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)),
        function.__defaults__,
        function.__kwdefaults__,
        *(function.__globals__[name] for name in names),
    ]


def methods_of_passes(module: nn.Module) -> tuple[FunctionType, ...]:
    """The forward method of a module's class, and the methods that it calls, directly or not."""
    return _methods_of_passes(type(module))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=512)
def _methods_of_passes(kind: type) -> tuple[FunctionType, ...]:
    pending, seen, found = ["forward"], {"forward"}, []
    while pending:
        name = pending.pop()
        # Some descriptors, such as those of TorchScript, raise an error when they are looked up in a class.
        method: Any = inspect.unwrap(inspect.getattr_static(kind, name, None))
        if isinstance(method, FunctionType) and method is not getattr(nn.Module, name, None):
            found.append(method)
            pending += [each for each in method.__code__.co_names if each not in seen]
            seen.update(pending)
    return tuple(found)


def _is_full(cell: Any) -> bool:
    """False until the cell's variable is assigned."""
    try:
        cell.cell_contents
    except ValueError:
        return False
    return True


def is_installed(code: CodeType) -> bool:
    return code.co_filename.startswith(_INSTALLED)


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
