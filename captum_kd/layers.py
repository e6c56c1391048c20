"""Running a model and catching what its layers give.

The one place with hooks, and the one that knows Captum's private helpers. Hooks are gone and
the global random state is as it was when a call ends, however it ends.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, ContextManager, Iterable, Iterator, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.common import _sort_key_list
from torch import Tensor, nn

from captum_kd._fast_path import without_fast_path
from captum_kd._overlapping import Overlapping
from captum_kd._values import check_dense, check_untransformed, is_transformed
from captum_kd.layouts import Trace
from captum_kd.names import find, find_like, innermost, name_of, names_in

__all__ = [
    "Caught",
    "Layer",
    "LayerLike",
    "catch_layers",
    "counterpart",
    "resolve_layer",
    "run_model",
    "same_random_state",
]

LayerLike = Union[str, nn.Module]


class Layer(NamedTuple):
    """A layer found in a model."""

    module: nn.Module
    name: Optional[str]
    """Dotted name without the wrappers' segments, "" for the model itself; None where the model does not
    contain it or is a plain function."""
    model: str
    """The argument that gave the model, for messages."""

    def __str__(self) -> str:
        called = repr(self.name) if self.name else type(self.module).__name__
        return f"layer {called} of {self.model}"


class Caught(NamedTuple):
    """What one layer gave in one forward pass on one device."""

    tensors: tuple[Tensor, ...]
    seen: tuple[Trace, ...]


# ----------------------------------------------------------------------------- finding


def resolve_layer(forward_func: Callable[..., Any], layer: LayerLike, *, model: str, argument: str) -> Layer:
    """Finds a layer by module or dotted name.

    Args:
        forward_func (callable): the model; a name needs an ``nn.Module``.
        layer (str or nn.Module): "layer4.1" or the module itself. Exact names of named_modules() go
            first; else prefixes of compiling and data-parallel wrappers do not matter.
        model (str): the argument that gave the model, for messages.
        argument (str): the argument that gave the layer, for messages.

    Raises:
        ValueError: no such name (with close matches), a name for a plain function, or a layer in TorchScript.
        TypeError: neither name nor module.
    """
    if isinstance(layer, nn.Module):
        module = innermost(layer)
        name = name_of(forward_func, module) if isinstance(forward_func, nn.Module) else None
        return _that_calls_hooks(Layer(module, name, model))
    if not isinstance(layer, str):
        raise TypeError(f"{argument} must be an nn.Module or a dotted name, got {type(layer).__name__}.")
    if not isinstance(forward_func, nn.Module):
        raise ValueError(
            f"{argument}={layer!r} is a name, but {model} is a plain function without named layers; "
            "pass the layer's module itself."
        )
    found = find(forward_func, layer) if layer else None
    if found is None:
        raise ValueError(_no_such_name(forward_func, layer, model, argument))
    return _that_calls_hooks(Layer(found.module, found.name, model))


def counterpart(layer: Layer, forward_func: Callable[..., Any], *, model: str, argument: str) -> Layer:
    """Another model's layer of the same dotted name as the Student's; that model itself for the whole Student.

    Raises:
        ValueError: the Student's layer has no name or the other model has none of that name, or it is TorchScript.
    """
    if layer.name is None or not isinstance(forward_func, nn.Module):
        reason = f"{model} is a plain function" if layer.name is not None else (
            f"{layer.model} is a plain function or does not contain it"
        )
        raise ValueError(f"{argument} cannot be told from {layer} because {reason}; pass {argument} as a module.")
    found = find_like(forward_func, layer.name)
    if found is None:
        raise ValueError(
            f"{argument} was not given, and {model} has no counterpart of {layer}: "
            f"{_no_such_name(forward_func, layer.name, model, argument)} Pass {argument} if the architectures differ."
        )
    return _that_calls_hooks(Layer(found.module, found.name, model))


def _that_calls_hooks(layer: Layer) -> Layer:
    if isinstance(layer.module, torch.jit.ScriptModule):
        raise ValueError(
            f"{layer} is TorchScript, which calls no hooks, so that nobody can look inside; pass the model that was "
            "scripted or traced."
        )
    return layer


def _no_such_name(func: nn.Module, name: str, model: str, argument: str) -> str:
    close = difflib.get_close_matches(name, filter(None, names_in(func)), n=3)
    hint = f" Close matches: {', '.join(map(repr, close))}." if close else ""
    return (
        f"{argument}={name!r} is no layer of {model} ({type(func).__name__}).{hint} "
        "Names must be those of named_modules()."
    )


# ---------------------------------------------------------------------------- catching


def catch_layers(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    at_input: bool = False,
    differentiate_from: Sequence[Layer] = (),
    trace: bool = False,
    device_ids: Optional[Sequence[int]] = None,
) -> list[dict[nn.Module, Caught]]:
    """One forward pass; copies of what the layers gave.

    Args:
        forward_func (callable): called as ``forward_func(*inputs, *additional_forward_args)``.
        layers (sequence of Layer): what to catch. Of a layer that runs twice the last run counts,
            as for Captum.
        inputs (tuple): the model's inputs, one batch.
        additional_forward_args (tuple): further positional arguments.
        at_input (bool): catch the layers' inputs instead of their outputs.
        differentiate_from (sequence of Layer): layers from whose tensors on gradients are recorded.
            Frozen parameters and inputs do not matter: the graph begins there.
        trace (bool): also note the 4-D outputs seen on the way.
        device_ids (sequence of int, optional): order of devices for DataParallel.

    Returns:
        list of dict: one dictionary from module to :class:`Caught` for each device, in the order
        of the batch; a single one unless the model is data-parallel.

    Raises:
        ValueError: a layer that was never reached or that gave no floating point tensor.
    """
    catcher = _Catcher(at_input, {layer.module for layer in differentiate_from})
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(bool(differentiate_from)))
        stack.enter_context(_eager())
        stack.enter_context(without_fast_path())
        stack.enter_context(same_random_state(inputs))
        if trace:
            stack.enter_context(catcher.tracing())
        for module in dict.fromkeys(layer.module for layer in layers):
            stack.enter_context(catcher.catching(module))
        # Models may change what they are given where it lies; the next pass has to see it as it was.
        # And tensors of inference mode can neither be changed nor recorded outside of it.
        forward_func(*(_copied(value) for value in (*inputs, *additional_forward_args)))
    for layer in layers:
        _check_caught(layer, catcher.caught, at_input, isinstance(forward_func, torch.fx.GraphModule))
    devices = _device_order(forward_func, catcher.caught[layers[0].module], device_ids)
    return [{layer.module: catcher.caught[layer.module][device] for layer in layers} for device in devices]


def run_model(
    forward_func: Callable[..., Any], inputs: tuple[Any, ...], additional_forward_args: tuple[Any, ...] = ()
) -> Any:
    """What a model returns, without gradients, computed as when its layers are caught.

    On copies, since a model may change what it is given where it lies; and without the fast path of attention, whose
    answers differ where inputs are padded.
    """
    with torch.no_grad(), without_fast_path():
        return forward_func(*(_copied(value) for value in (*inputs, *additional_forward_args)))


class _Catcher:
    """The hooks of one forward pass and what they saw."""

    def __init__(self, at_input: bool, roots: set[nn.Module]) -> None:
        self.at_input = at_input
        self.roots = roots
        self.caught: dict[nn.Module, dict[torch.device, Caught]] = defaultdict(dict)
        self.seen: dict[torch.device, list[Trace]] = defaultdict(list)
        self.rooted: set[torch.device] = set()
        self.thread = threading.get_ident()
        self.lock = threading.Lock()

    @contextmanager
    def catching(self, module: nn.Module) -> Iterator[None]:
        # Replicas of a DataParallel model share the hooks but are other objects: the module that
        # was asked for is bound here.
        def at_input(running: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._is_of_this_pass(running):
                return None
            if not _tensors_in(args):
                return args, self._catch(module, kwargs)
            return self._catch(module, args), kwargs

        def at_output(running: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return self._catch(module, output) if self._is_of_this_pass(running) else None

        if self.at_input:
            handle = module.register_forward_pre_hook(at_input, with_kwargs=True)
        else:
            handle = module.register_forward_hook(at_output)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        # A hook on all modules, since a plain function does not say which modules it will call.
        def trace(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and self._is_of_this_pass(module):
                n, a, b, c = output.shape
                keeps_shape = any(isinstance(arg, Tensor) and arg.shape == output.shape for arg in args)
                self.seen[output.device].append(Trace((n, a, b, c), module, keeps_shape))

        handle = nn.modules.module.register_module_forward_hook(trace)
        try:
            yield
        finally:
            handle.remove()

    def _is_of_this_pass(self, running: nn.Module) -> bool:
        """Other threads may run the same model meanwhile; a data-parallel model runs replicas in threads of its own."""
        return threading.get_ident() == self.thread or getattr(running, "_is_replica", False)

    def _catch(self, module: nn.Module, value: Any) -> Any:
        """Keeps copies of the tensors in ``value``; returns what the model goes on with."""
        tensors = _tensors_in(value)
        if not tensors:
            with self.lock:
                self.caught.setdefault(module, {})
            return value
        device = tensors[0].device
        going_on = value
        if module in self.roots:
            leaves = [self._root(tensor, device) for tensor in tensors]
            kept = tuple(leaves)
            # Clones go on: an in-place operation behind the layer must not reach what was kept.
            replacements = iter([leaf.clone() for leaf in leaves])
            going_on = _map_tensors(value, lambda _: next(replacements))
            self.rooted.add(device)
        else:
            kept = tuple(tensor.clone() for tensor in tensors)
        with self.lock:
            self.caught[module][device] = Caught(kept, tuple(self.seen[device]))
        return going_on

    def _root(self, tensor: Tensor, device: torch.device) -> Tensor:
        # Behind an earlier root the graph has to hold together, so that its gradient is whole.
        if device in self.rooted and tensor.requires_grad or is_transformed(tensor):  # the latter is refused behind the pass
            return tensor
        return tensor.detach().requires_grad_()


def _check_caught(
    layer: Layer, caught: Mapping[nn.Module, Mapping[torch.device, Caught]], at_input: bool, is_graph: bool
) -> None:
    if layer.module not in caught:
        graph = " Exported graphs run operations, not modules: torch.export.unflatten() gives them back." * is_graph
        raise ValueError(f"The forward pass never reached {layer}; choose a layer that the model runs.{graph}")
    if not caught[layer.module]:
        side = "was given" if at_input else "gave"
        raise ValueError(f"{layer} {side} no floating point tensor; choose a layer whose values are tensors.")
    for of_device in caught[layer.module].values():
        for tensor in of_device.tensors:
            check_dense(tensor, f"What {layer} gives")
            check_untransformed(tensor, f"What {layer} gives")


def _device_order(
    forward_func: Callable[..., Any], caught: Mapping[torch.device, Caught], device_ids: Optional[Sequence[int]]
) -> list[torch.device]:
    devices = list(caught)
    if len(devices) == 1:
        return devices
    ids = device_ids if device_ids is not None else getattr(forward_func, "device_ids", None)
    if ids is None:
        raise ValueError(
            f"The layer ran on {len(devices)} devices, and forward_func does not say in which order; "
            "pass device_ids, as for any Captum layer attribution of a DataParallel model."
        )
    try:
        ordered: list[torch.device] = _sort_key_list(devices, list(ids))
    except AssertionError:
        raise ValueError(
            f"device_ids={list(ids)} does not list each of the devices that the layer ran on, "
            f"{', '.join(map(str, devices))}."
        ) from None
    return ordered


@contextmanager
def _uncompiled() -> Iterator[None]:
    # Compiled models skip hooks registered after their first call. Where nothing was ever
    # compiled the switch is not worth the import of the compiler.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    try:
        stance = torch.compiler.set_stance("force_eager")
    except RuntimeError as error:
        raise ValueError(
            "Layers cannot be looked at inside a function that torch.compile compiles, since compiled code skips hooks; make "
            "the call outside of it, or in a function marked with torch.compiler.disable."
        ) from error
    with warnings.catch_warnings(), stance:
        # That a hook on all modules also runs for the compiled wrappers does no harm here.
        warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


_eager = Overlapping(_uncompiled)


def same_random_state(inputs: tuple[Any, ...]) -> ContextManager[None]:
    """The global random state, of the CPU and of the inputs' devices, afterwards is what it was before.

    Of calls that overlap in several threads the state before the first one comes back behind the last.
    """
    # Dropout of a model in training mode draws numbers; the caller's stream must not notice.
    devices = {value.device for value in inputs if isinstance(value, Tensor) and value.device.type != "cpu"}
    kind = next(iter(devices)).type if devices else "cuda"
    has_state = hasattr(getattr(torch, kind, None), "get_rng_state")
    indices = sorted(device.index for device in devices if has_state and device.index is not None)
    return _fork(tuple(indices), kind if has_state else "cuda")()


@functools.lru_cache(maxsize=None)
def _fork(devices: tuple[int, ...], device_type: str) -> Overlapping:
    return Overlapping(functools.partial(torch.random.fork_rng, devices, device_type=device_type))


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


# ------------------------------------------------------------- tensors inside structures


def _is_kept(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _tensors_in(value: Any) -> list[Tensor]:
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
    return [tensor for child in children for tensor in _tensors_in(child)]


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if _is_kept(value):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _map_fields(value, change)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key in value:
            changed[key] = _map_tensors(value[key], change)
        return changed
    return value


def _fields(value: Any) -> dict[str, Any]:
    # Fields that the constructor does not take are outputs too, once they are set.
    return {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
    }


def _map_fields(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy, not constructed again, with changed tensors and everything else that was set on the dataclass."""
    changed = copy.copy(value)
    for name, content in _fields(value).items():
        mapped = _map_tensors(content, change)
        object.__setattr__(changed, name, mapped)  # works for frozen dataclasses too
        # Outputs that are mappings as well (Hugging Face's) hold their fields a second time.
        if isinstance(changed, MutableMapping) and name in changed:
            changed[name] = mapped
    return changed
