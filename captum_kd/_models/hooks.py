"""Forward passes in which hooks capture the outputs of layers.

The one place with hooks. Hooks are gone and the global random state is as it was when a call ends, however it ends.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Iterable, Iterator, NamedTuple, Optional, Sequence

import torch
from captum._utils.common import _sort_key_list
from torch import Tensor, nn

from captum_kd._models.channel_axis import Trace
from captum_kd._models.layer_names import Layer
from captum_kd._models.reachable import model_of
from captum_kd._utils.context import Overlapping
from captum_kd._utils.fast_path import without_fast_path
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.pytree import map_tensors, tensors_in
from captum_kd._utils.validation import check_dense, check_untransformed, is_transformed


class Captured(NamedTuple):
    """What one layer gave in one forward pass on one device."""

    tensors: tuple[Tensor, ...]
    seen: tuple[Trace, ...]


def capture_layers(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    at_input: bool = False,
    differentiate_from: Sequence[Layer] = (),
    trace: bool = False,
    device_ids: Optional[Sequence[int]] = None,
    returned: Optional[list[Any]] = None,
) -> list[dict[nn.Module, Captured]]:
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
        trace (bool): also note the outputs of three to five axes seen on the way.
        device_ids (sequence of int, optional): order of devices for DataParallel.
        returned (list, optional): the model's output is appended to it.

    Returns:
        list of dict: one dictionary from module to :class:`Captured` for each device, in the order
        of the batch; a single one unless the model is data-parallel.

    Raises:
        ValueError: a layer that was never reached or that gave no floating point tensor.
    """
    catcher = _Catcher(at_input, {layer.module for layer in differentiate_from})
    contexts: list[ContextManager[Any]] = [
        torch.inference_mode(False),
        torch.enable_grad() if differentiate_from else torch.no_grad(),
        _eager(),
        without_fast_path(),
        same_random_state(inputs),
        *([catcher.tracing()] if trace else []),
        *(catcher.catching(module) for module in dict.fromkeys(layer.module for layer in layers)),
    ]
    with changed_state(*contexts), interruptible():
        # Models may change what they are given where it lies; the next pass has to see it as it was.
        # And tensors of inference mode can neither be changed nor recorded outside of it.
        output = forward_func(*(_copied(value) for value in (*inputs, *additional_forward_args)))
    if returned is not None:
        returned.append(output)
    for layer in layers:
        _check_caught(layer, catcher.caught, at_input, forward_func)
    devices = _device_order(forward_func, catcher.caught[layers[0].module], device_ids)
    return [{layer.module: catcher.caught[layer.module][device] for layer in layers} for device in devices]


def run_model(
    forward_func: Callable[..., Any], inputs: tuple[Any, ...], additional_forward_args: tuple[Any, ...] = ()
) -> Any:
    """What a model returns, without gradients, computed as when its layers are caught.

    On copies, since a model may change what it is given where it lies; and without the fast path of attention, whose
    answers differ where inputs are padded.
    """
    with changed_state(torch.no_grad(), without_fast_path()), interruptible():
        return forward_func(*(_copied(value) for value in (*inputs, *additional_forward_args)))


def changes_buffers(forward_func: Callable[..., Any], seen: Iterable[Trace]) -> bool:
    """Whether another pass may change buffers: a module of the model or of a trace has some and is in training mode."""
    modules = {trace.module for trace in seen}
    if isinstance(forward_func, nn.Module):
        modules.update(forward_func.modules())
    return any(module.training and module._buffers for module in modules)


class _Catcher:
    """The hooks of one forward pass and what they saw."""

    def __init__(self, at_input: bool, roots: set[nn.Module]) -> None:
        self.at_input = at_input
        self.roots = roots
        self.caught: dict[nn.Module, dict[torch.device, Captured]] = defaultdict(dict)
        self.seen: dict[torch.device, list[Trace]] = defaultdict(list)
        self.last: dict[torch.device, Any] = {}
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
            if not tensors_in(args):
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
        last = self.last
        entered: dict[nn.Module, tuple[int, Optional[tuple[int, ...]]]] = {}

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            first = next((arg for arg in args if isinstance(arg, Tensor)), None)
            if module._modules and first is not None and self._is_of_this_pass(module):
                entered[module] = len(self.seen[first.device]), _permutation(last.get(first.device), first)

        def trace(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, (tuple, list)) and output:
                output = output[0]  # attention and recurrent layers give more beside it
            if not isinstance(output, Tensor) or output.is_nested:  # nested tensors have no shape
                return
            if 3 <= output.dim() <= 5 and self._is_of_this_pass(module):
                given = tuple(tuple(arg.shape) for arg in args if isinstance(arg, Tensor) and not arg.is_nested)
                before = last.get(output.device, args)
                seen = self.seen[output.device]
                moved = next((order for arg in args if (order := _permutation(before, arg)) is not None), None)
                number, moved = entered.pop(module, (len(seen), moved))
                order = _permutation(args[0], output) if args else None
                seen.append(Trace(tuple(output.shape), module, given, moved, order, output is before, number))
                last[output.device] = output

        register = nn.modules.module
        handles = register.register_module_forward_pre_hook(enter), register.register_module_forward_hook(trace)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _is_of_this_pass(self, running: nn.Module) -> bool:
        """Other threads may run the same model meanwhile; a data-parallel model runs replicas in threads of its own."""
        return threading.get_ident() == self.thread or getattr(running, "_is_replica", False)

    def _catch(self, module: nn.Module, value: Any) -> Any:
        """Keeps copies of the tensors in ``value``; returns what the model goes on with."""
        tensors = tensors_in(value)
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
            going_on = map_tensors(value, lambda _: next(replacements))
            self.rooted.add(device)
        else:
            kept = tuple(tensor.clone() for tensor in tensors)
        seen = tuple(self.seen[device])
        if self.at_input:
            # What a layer is given is noted as what an identity ahead of it gives.
            shape, moved = tuple(tensors[0].shape), _permutation(self.last.get(device), tensors[0])
            seen += (Trace(shape, nn.Identity(), (shape,), moved, ahead_of=module),)
        with self.lock:
            self.caught[module][device] = Captured(kept, seen)
        return going_on

    def _root(self, tensor: Tensor, device: torch.device) -> Tensor:
        # Behind an earlier root the graph has to hold together, so that its gradient is whole.
        if device in self.rooted and tensor.requires_grad or is_transformed(tensor):  # the latter is refused behind the pass
            return tensor
        return tensor.detach().requires_grad_()


def _permutation(before: Any, after: Any) -> Optional[tuple[int, ...]]:
    """How the axes of a tensor were permuted into another one, if that is a view of the whole of it."""
    if isinstance(after, Tensor) and before is after:
        return tuple(range(after.dim()))
    if not (type(before) is type(after) is Tensor) or before.dim() != after.dim():  # subclasses may have no memory to look at
        return None
    if any(is_transformed(each) or each.layout != torch.strided for each in (before, after)):  # these share no memory to compare
        return None
    if before.data_ptr() != after.data_ptr():
        return None
    axes, moved = (list(zip(tensor.shape, tensor.stride())) for tensor in (before, after))
    return tuple(map(axes.index, moved)) if sorted(axes) == sorted(moved) and len(set(axes)) == len(axes) else None


def _check_caught(
    layer: Layer,
    caught: Mapping[nn.Module, Mapping[torch.device, Captured]],
    at_input: bool,
    forward_func: Callable[..., Any],
) -> None:
    if layer.module not in caught:
        graph = _way_out_of_graph(layer, forward_func)
        raise ValueError(f"The forward pass never reached {layer}; choose a layer that the model runs.{graph}")
    if not caught[layer.module]:
        side = "was given" if at_input else "gave"
        raise ValueError(f"{layer} {side} no floating point tensor; choose a layer whose values are tensors.")
    for of_device in caught[layer.module].values():
        for tensor in of_device.tensors:
            check_dense(tensor, f"What {layer} gives")
            check_untransformed(tensor, f"What {layer} gives")


def _way_out_of_graph(layer: Layer, forward_func: Callable[..., Any]) -> str:
    model = model_of(forward_func)
    if not isinstance(model, torch.fx.GraphModule):
        return ""
    run = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    run = [name for name in run if not name.startswith("_")]  # checks of what comes in
    if not run:
        return (
            " Exported graphs run operations, not modules: pass torch.export.unflatten(program) of the exported program, "
            "whose modules run."
        )
    inside = [name for name in run if layer.name and name.startswith(f"{layer.name}.")]
    last = f"; the last one that it runs there is {inside[-1]!r}" if inside else ""
    return f" A traced graph runs the innermost modules only{last}. Or pass the model that was traced."


def _device_order(
    forward_func: Callable[..., Any], caught: Mapping[torch.device, Captured], device_ids: Optional[Sequence[int]]
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
