"""Names of the layers of a model, with and without the prefixes of wrappers.

Compiling and data-parallel wrappers add a segment to every dotted name. Names in this module have no such segments; the name
of the model itself is "". A model may have a submodule that is called ``module``: ``conv`` and ``module.conv`` are then two
layers and keep their names.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import Any, Callable, NamedTuple, Optional, Union

import torch
from torch import nn

from captum_kd._models.reachable import can_reach, model_of

LayerLike = Union[str, nn.Module]

_COMPILED = "_orig_mod"
_PARALLEL = "module"


class Layer(NamedTuple):
    """A layer found in a model."""

    module: nn.Module
    name: Optional[str]
    """Dotted name without the wrappers' segments, "" for the model itself; None if the model does not
    contain it or is a plain function."""
    model: str
    """The argument that gave the model, for messages."""

    def __str__(self) -> str:
        called = repr(self.name) if self.name else type(self.module).__name__
        return f"layer {called} of {self.model}"


class LayerPair(NamedTuple):
    """The layer of a model's map and the layer of its features."""

    map_layer: Layer
    feature_layer: Layer

    @property
    def is_deeper(self) -> bool:
        """Whether the features come from another layer than the map."""
        return self.feature_layer.module is not self.map_layer.module


def resolve_layer(forward_func: Callable[..., Any], layer: LayerLike, *, model: str, argument: str) -> Layer:
    """Finds a layer by module or dotted name.

    Args:
        forward_func (callable): the model; a name needs an ``nn.Module``.
        layer (str or nn.Module): "layer4.1" or the module itself. Exact names of named_modules() have priority;
            otherwise prefixes of compiling and data-parallel wrappers are ignored.
        model (str): the argument that gave the model, for messages.
        argument (str): the argument that gave the layer, for messages.

    Raises:
        ValueError: an unknown name (the message lists close matches), a name for a plain function, a module that the
            model does not contain, or a layer in TorchScript.
        TypeError: neither a name nor a module.
    """
    if isinstance(layer, nn.Module):
        module = _innermost(layer)
        name = _name_of(forward_func, module) if isinstance(forward_func, nn.Module) else None
        found = _with_hooks(Layer(module, name, model))
        if name is None:
            _check_part(forward_func, module, model, argument)
        return found
    if not isinstance(layer, str):
        raise TypeError(f"{argument} must be an nn.Module or a dotted name, got {type(layer).__name__}.")
    if not isinstance(forward_func, nn.Module):
        raise ValueError(
            f"{argument}={layer!r} is a name, but {model} is a plain function without named layers; "
            "pass the layer's module itself."
        )
    plain = _plain_names(forward_func)
    name = plain[layer] if layer and layer in plain else _name_like(forward_func, layer) if layer else None
    if name is None:
        raise ValueError(_no_such_name(forward_func, layer, model, argument))
    return _with_hooks(Layer(names_in(forward_func)[name], name, model))


def counterpart(layer: Layer, forward_func: Callable[..., Any], *, model: str, argument: str) -> Layer:
    """The layer of another model with the same dotted name as the Student's layer.

    Raises:
        ValueError: the Student's layer has no name, the other model has no layer of that name, or that layer is TorchScript.
    """
    if layer.name is None or not isinstance(forward_func, nn.Module):
        reason = f"{model} is a plain function" if layer.name is not None else (
            f"{layer.model} is a plain function or does not contain it"
        )
        raise ValueError(f"{argument} cannot be inferred from {layer} because {reason}; pass {argument} as a module.")
    name = _name_like(forward_func, layer.name)
    if name is None:
        raise ValueError(
            f"{argument} was not given, and {model} has no counterpart of {layer}: "
            f"{_no_such_name(forward_func, layer.name, model, argument)} Pass {argument} if the architectures differ."
        )
    return _with_hooks(Layer(names_in(forward_func)[name], name, model))


def _with_hooks(layer: Layer) -> Layer:
    if isinstance(layer.module, torch.jit.ScriptModule):
        raise ValueError(
            f"{layer} is a TorchScript module; TorchScript does not run forward hooks, so its layers cannot be captured. Pass "
            "the model that was scripted or traced."
        )
    return layer


def _check_part(forward_func: Callable[..., Any], module: nn.Module, model: str, argument: str) -> None:
    """Raises a ValueError for a module that a model cannot run. For plain functions only a forward pass can show that."""
    whole = model_of(forward_func)
    if whole is not None and not can_reach(forward_func, module):
        name = type(whole).__name__
        raise ValueError(
            f"{argument} is a {type(module).__name__} that is no part of {model} ({name}). Copies, and models that were traced, "
            f"have modules of their own: pass a module of this {name}{', or its dotted name' * (whole is forward_func)}."
        )


def _no_such_name(func: nn.Module, name: str, model: str, argument: str) -> str:
    close = difflib.get_close_matches(name, filter(None, names_in(func)), n=3)
    hint = f" Close matches: {', '.join(map(repr, close))}." if close else ""
    return (
        f"{argument}={name!r} is no layer of {model} ({type(func).__name__}).{hint} "
        "Names must be those of named_modules()."
    )


def _innermost(module: nn.Module) -> nn.Module:
    """The module inside compiled wrappers, whose hooks run when compilation is off."""
    while isinstance(inside := getattr(module, _COMPILED, None), nn.Module):
        module = inside
    return module


def _name_like(model: nn.Module, name: str) -> Optional[str]:
    """The name of the module ``name``, which may start with segments of wrappers; None if there is no such module."""
    found = names_in(model)
    segments = _without_compiled(name)
    while segments:
        if (plain := ".".join(segments)) in found:
            return plain
        if segments.pop(0) != _PARALLEL:
            return None
    return None if name else ""


def _name_of(model: nn.Module, module: nn.Module) -> Optional[str]:
    """The name of a module, found by identity; None if the model does not contain it."""
    plain = _plain_names(model)
    for name, found in model.named_modules(remove_duplicate=False):
        if found is module:
            return plain[name]
    return None


def names_in(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by their names without wrappers' segments."""
    plain = _plain_names(model)
    return {plain[name]: _innermost(module) for name, module in model.named_modules(remove_duplicate=False)}


def _plain_names(model: nn.Module) -> dict[str, str]:
    """From the names of named_modules() to those without wrappers' segments."""
    depth = _wrappers(model)
    within = {
        name: ".".join(_without_compiled(".".join(name.split(".")[depth:])))
        for name, _ in model.named_modules(remove_duplicate=False)
    }
    # Other wrappers are recognized only by the name of their segment, which is removed unless two layers would then share a
    # name.
    short = {name: _without_parallel(name) for name in set(within.values())}
    owners = Counter(short.values())
    return {name: short[longer] if owners[short[longer]] == 1 else longer for name, longer in within.items()}


def _wrappers(model: nn.Module) -> int:
    """The number of known wrappers around a model."""
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
