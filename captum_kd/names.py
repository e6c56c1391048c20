"""What the layers of a model are called, whatever it is wrapped in.

Compiling and data-parallel wrappers put a segment of their own into every dotted name. Names here
are without them, the model itself being "". A model may also have a part of its own that is called
``module``: ``conv`` beside ``module.conv`` are two layers and keep their names.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Optional

from torch import nn

__all__ = ["Named", "find", "find_like", "innermost", "name_of", "names_in"]

_COMPILED = "_orig_mod"
_PARALLEL = "module"


class Named(NamedTuple):
    """A module and its name without wrappers' segments."""

    module: nn.Module
    name: str


def innermost(module: nn.Module) -> nn.Module:
    """What was compiled: its hooks are those that run when compilation is off."""
    while isinstance(inside := getattr(module, _COMPILED, None), nn.Module):
        module = inside
    return module


def find(model: nn.Module, name: str) -> Optional[Named]:
    """The module that a user calls ``name``: as named_modules() has it, or else as :func:`find_like`."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if name in modules:
        return Named(innermost(modules[name]), _plain_names(model)[name])
    return find_like(model, name)


def find_like(model: nn.Module, name: str) -> Optional[Named]:
    """The module whose name without wrappers' segments is ``name``, or what is left of it without any."""
    found = names_in(model)
    segments = _without_compiled(name)
    while segments:
        plain = ".".join(segments)
        if plain in found:
            return Named(found[plain], plain)
        if segments[0] != _PARALLEL:
            return None
        segments.pop(0)
    return None if name else Named(found[""], "")


def name_of(model: nn.Module, module: nn.Module) -> Optional[str]:
    """The name of a module, found by identity; None where the model does not contain it."""
    plain = _plain_names(model)
    for name, found in model.named_modules(remove_duplicate=False):
        if found is module:
            return plain[name]
    return None


def names_in(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by their names without wrappers' segments."""
    plain = _plain_names(model)
    return {plain[name]: innermost(module) for name, module in model.named_modules(remove_duplicate=False)}


def _plain_names(model: nn.Module) -> dict[str, str]:
    """From the names of named_modules() to those without wrappers' segments."""
    depth = _wrappers(model)
    within = {
        name: ".".join(_without_compiled(".".join(name.split(".")[depth:])))
        for name, _ in model.named_modules(remove_duplicate=False)
    }
    # Of other wrappers, which only their name for the model gives away, the segment is left out
    # as well, unless two layers would then share a name.
    short = {name: _without_parallel(name) for name in set(within.values())}
    owners = Counter(short.values())
    return {name: short[longer] if owners[short[longer]] == 1 else longer for name, longer in within.items()}


def _wrappers(model: nn.Module) -> int:
    """How many known wrappers are around a model."""
    depth = 0
    while True:
        if _COMPILED in dict(model.named_children()):
            model = getattr(model, _COMPILED)
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return depth
        depth += 1


def _without_compiled(name: str) -> list[str]:
    return [segment for segment in name.split(".") if segment not in ("", _COMPILED)]


def _without_parallel(name: str) -> str:
    segments = name.split(".")
    while len(segments) > 1 and segments[0] == _PARALLEL:
        segments.pop(0)
    return ".".join(segments)
