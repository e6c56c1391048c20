"""Forward passes in which hooks capture the outputs of layers.

No other module of the package uses hooks, save for the check of ids. Hooks are removed and the global random state is restored
after every call, also after an error.
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

from captum_kd._models.call_arguments import check_names
from captum_kd._models.channel_axis import Trace
from captum_kd._models.early_end import EndOfPass, LayerCalls
from captum_kd._models.layer_names import Layer
from captum_kd._models.reachable import model_of
from captum_kd._models.token_ids import checked_ids
from captum_kd._utils.context import Overlapping
from captum_kd._utils.fast_path import without_fast_path
from captum_kd._utils.inputs import ModelInputs
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.pytree import map_tensors, own_tensors, tensors_in
from captum_kd._utils.validation import check_dense, check_untransformed, is_transformed


class Captured(NamedTuple):
    """Copies of one layer's tensors from one forward pass on one device, and the outputs traced up to it."""

    tensors: tuple[Tensor, ...]
    seen: tuple[Trace, ...]
    time_first: bool = False
    """Whether the tensor is (T, N, C)."""


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
    calls: Optional[LayerCalls] = None,
) -> list[dict[nn.Module, Captured]]:
    """Runs one forward pass and copies the outputs of layers.

    Args:
        forward_func (callable): called as ``forward_func(*inputs, *additional_forward_args)``, or with inputs by name.
        layers (sequence of Layer): the layers. If a layer runs several times, its last run counts, as in Captum.
        inputs (tuple): the model's inputs, one batch.
        additional_forward_args (tuple): further positional arguments.
        at_input (bool): capture the layers' inputs instead of their outputs.
        differentiate_from (sequence of Layer): layers at whose tensors the recording of gradients
            begins. Parameters and inputs may be frozen.
        trace (bool): also record all outputs of three to five axes, from which layouts are inferred.
        device_ids (sequence of int, optional): order of devices for DataParallel.
        returned (list, optional): the model's output is appended to it.
        calls (LayerCalls, optional): counts the layers' calls and may end the pass after the last one. There is then no output.

    Returns:
        list of dict: one dictionary from module to :class:`Captured` for each device, in the order
        of the batch; a single one unless the model is data-parallel.

    Raises:
        ValueError: a layer that was never reached or that returned no floating point tensor.
    """
    capture = _Capture(at_input, {layer.module for layer in differentiate_from}, calls)
    contexts: list[ContextManager[Any]] = [
        torch.inference_mode(False),
        torch.enable_grad() if differentiate_from else torch.no_grad(),
        _eager(),
        without_fast_path(),
        same_random_state(inputs),
        checked_ids(forward_func, inputs),
        *([capture.tracing()] if trace else []),
        *(capture.capturing(module) for module in dict.fromkeys(layer.module for layer in layers)),
    ]
    output = None
    try:
        with changed_state(*contexts), interruptible():
            output = _call(forward_func, inputs, additional_forward_args)
        if calls is not None:
            calls.was_caught = calls.is_over
    except EndOfPass as end:
        if end.layers is not calls:
            raise
    except Exception:
        # The model replaced the end of the pass by an error of its own. All layers were captured before.
        if calls is None or not calls.is_over:
            raise
        calls.was_caught = True
    if returned is not None:
        returned.append(output)
    for layer in layers:
        _check_captured(layer, capture.captured, at_input, forward_func)
    devices = _device_order(forward_func, capture.captured[layers[0].module], device_ids)
    return [{layer.module: capture.captured[layer.module][device] for layer in layers} for device in devices]


def run_model(
    forward_func: Callable[..., Any], inputs: tuple[Any, ...], additional_forward_args: tuple[Any, ...] = ()
) -> Any:
    """The output of a model, without gradients, computed as when its layers are captured.

    The fast path of attention is off, since its outputs differ for padded inputs.
    """
    with changed_state(torch.no_grad(), without_fast_path(), checked_ids(forward_func, inputs)), interruptible():
        return _call(forward_func, inputs, additional_forward_args)


def _call(forward_func: Callable[..., Any], inputs: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """Calls a model with copies of its inputs, by name if these have names."""
    if not isinstance(inputs, ModelInputs) or inputs.names is None:
        return forward_func(*_copies((*inputs, *args)))
    check_names(forward_func, inputs, args)
    return forward_func(*_copies(args), **dict(zip(inputs.names, _copies(inputs))))


def _copies(values: tuple[Any, ...]) -> list[Any]:
    """Copies of tensors, since models may change their inputs in place but the next pass needs them unchanged.

    Tensors made in inference mode can also not be changed or recorded outside of it.
    """
    return [value.clone() if isinstance(value, Tensor) else value for value in values]


def changes_buffers(forward_func: Callable[..., Any], seen: Iterable[Trace]) -> bool:
    """Whether another pass may change buffers: a module of the model or of a trace has some and is in training mode."""
    modules = {trace.module for trace in seen}
    if isinstance(forward_func, nn.Module):
        modules.update(forward_func.modules())
    return any(module.training and module._buffers for module in modules)


class _Capture:
    """The hooks of one forward pass and the tensors that they captured."""

    def __init__(self, at_input: bool, roots: set[nn.Module], calls: Optional[LayerCalls]) -> None:
        self.at_input = at_input
        self.roots = roots
        self.calls = calls
        self.captured: dict[nn.Module, dict[torch.device, Captured]] = defaultdict(dict)
        self.seen: dict[torch.device, list[Trace]] = defaultdict(list)
        self.last: dict[torch.device, Any] = {}
        self.recording: set[torch.device] = set()
        self.thread = threading.get_ident()
        self.lock = threading.Lock()

    @contextmanager
    def capturing(self, module: nn.Module) -> Iterator[None]:
        # Replicas of a DataParallel model share the hooks but are other objects: results are stored under this module.
        def at_input(running: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._is_of_this_pass(running):
                return None
            if not tensors_in(args):
                return args, self._take(module, kwargs)
            return self._take(module, args), kwargs

        def at_output(running: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return self._take(module, output) if self._is_of_this_pass(running) else None

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
        """Hooks on all modules, since it is unknown which modules a plain function calls."""
        last = self.last
        entered: dict[nn.Module, tuple[int, Optional[tuple[int, ...]]]] = {}

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            first = next((arg for arg in args if isinstance(arg, Tensor)), None)
            if module._modules and first is not None and self._is_of_this_pass(module):
                entered[module] = len(self.seen[first.device]), _permutation(last.get(first.device), first)

        def trace(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, (tuple, list)) and output:
                output = output[0]  # attention and recurrent layers return more beside it
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
        """Other threads may run the same model meanwhile; a data-parallel model runs replicas in threads of its own.

        What a model runs after it caught the end of the pass does not count.
        """
        if self.calls is not None and self.calls.is_over:
            return False
        return threading.get_ident() == self.thread or getattr(running, "_is_replica", False)

    def _take(self, module: nn.Module, value: Any) -> Any:
        """Keeps copies of the tensors in ``value``; returns the value that the model continues with, or ends the pass."""
        value = self._keep(module, value)
        if self.calls is not None:
            self.calls.reached(module)
        return value

    def _keep(self, module: nn.Module, value: Any) -> Any:
        tensors = own_tensors(module, value, self.at_input)
        if not tensors:
            with self.lock:
                self.captured.setdefault(module, {})
            return value
        device = tensors[0].device
        if module in self.roots:
            kept = tuple(self._root(tensor, device) for tensor in tensors)
            # The model continues with clones, since later in-place operations must not change the kept tensors.
            clones: dict[int, list[Tensor]] = defaultdict(list)
            for tensor, leaf in zip(tensors, kept):
                clones[id(tensor)].append(leaf.clone())

            def continued(tensor: Tensor) -> Tensor:
                # Tensors that accompany the output have no clones. A tensor that occurs twice has two.
                own = clones.get(id(tensor), [tensor])
                return own.pop(0) if len(own) > 1 else own[0]

            value = map_tensors(value, continued)
            self.recording.add(device)
        else:
            kept = tuple(tensor.clone() for tensor in tensors)
        seen = tuple(self.seen[device])
        if self.at_input:
            # A layer's input is traced as the output of an identity before the layer.
            shape, moved = tuple(tensors[0].shape), _permutation(self.last.get(device), tensors[0])
            seen += (Trace(shape, nn.Identity(), (shape,), moved, ahead_of=module),)
        with self.lock:
            self.captured[module][device] = Captured(kept, seen)
        return value

    def _root(self, tensor: Tensor, device: torch.device) -> Tensor:
        # After an earlier root the graph stays connected, so that the gradient at that root is complete. Tensors inside
        # transforms raise an error after the pass.
        if device in self.recording and tensor.requires_grad or is_transformed(tensor):
            return tensor
        return tensor.detach().requires_grad_()


def _permutation(before: Any, after: Any) -> Optional[tuple[int, ...]]:
    """The permutation from the axes of a tensor to those of another one, if that one is a view of the whole tensor."""
    if isinstance(after, Tensor) and before is after:
        return tuple(range(after.dim()))
    # Subclasses, sparse tensors and tensors inside transforms may have no memory to compare.
    if not (type(before) is type(after) is Tensor) or before.dim() != after.dim():
        return None
    if any(is_transformed(each) or each.layout != torch.strided for each in (before, after)):
        return None
    if before.data_ptr() != after.data_ptr():
        return None
    axes, moved = (list(zip(tensor.shape, tensor.stride())) for tensor in (before, after))
    return tuple(map(axes.index, moved)) if sorted(axes) == sorted(moved) and len(set(axes)) == len(axes) else None


def _check_captured(
    layer: Layer,
    captured: Mapping[nn.Module, Mapping[torch.device, Captured]],
    at_input: bool,
    forward_func: Callable[..., Any],
) -> None:
    if layer.module not in captured:
        graph = _way_out_of_graph(layer, forward_func)
        raise ValueError(f"The forward pass never reached {layer}; choose a layer that the model runs.{graph}")
    if not captured[layer.module]:
        verb = "received" if at_input else "returned"
        raise ValueError(f"{layer} {verb} no floating point tensor; choose a layer whose values are tensors.")
    for of_device in captured[layer.module].values():
        for tensor in of_device.tensors:
            name = f"The {'input' if at_input else 'output'} of {layer}"
            check_dense(tensor, name)
            check_untransformed(tensor, name)


def _way_out_of_graph(layer: Layer, forward_func: Callable[..., Any]) -> str:
    model = model_of(forward_func)
    if not isinstance(model, torch.fx.GraphModule):
        return ""
    run = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    run = [name for name in run if not name.startswith("_")]  # without checks of the inputs
    if not run:
        return (
            " Exported graphs run operations, not modules: pass torch.export.unflatten(program) of the exported program, "
            "whose modules run."
        )
    inside = [name for name in run if layer.name and name.startswith(f"{layer.name}.")]
    last = f"; the last one that it runs there is {inside[-1]!r}" if inside else ""
    return f" A traced graph runs the innermost modules only{last}. Or pass the model that was traced."


def _device_order(
    forward_func: Callable[..., Any], captured: Mapping[torch.device, Captured], device_ids: Optional[Sequence[int]]
) -> list[torch.device]:
    devices = list(captured)
    if len(devices) == 1:
        return devices
    ids = device_ids if device_ids is not None else getattr(forward_func, "device_ids", None)
    if ids is None:
        raise ValueError(
            f"The layer ran on {len(devices)} devices, and forward_func has no device_ids that give their order; "
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
    # Compiled models skip hooks registered after their first call. The compiler is not imported if nothing was compiled.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    try:
        stance = torch.compiler.set_stance("force_eager")
    except RuntimeError as error:
        raise ValueError(
            "Layers cannot be captured inside a function that torch.compile compiles, since compiled code skips hooks; make "
            "the call outside of it, or in a function marked with torch.compiler.disable."
        ) from error
    with warnings.catch_warnings(), stance:
        # The warning is about hooks on all modules, which also run for the compiled wrappers; that does no harm here.
        warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


_eager = Overlapping(_uncompiled)


def same_random_state(inputs: tuple[Any, ...]) -> ContextManager[None]:
    """Restores the global random state of the CPU and of the inputs' devices, which models in training mode change.

    If calls overlap in several threads, the last call to end restores the state from before the first call.
    """
    devices = {value.device for value in inputs if isinstance(value, Tensor) and value.device.type != "cpu"}
    kind = next(iter(devices)).type if devices else "cuda"
    has_state = hasattr(getattr(torch, kind, None), "get_rng_state")
    indices = sorted(device.index for device in devices if has_state and device.index is not None)
    return _fork(tuple(indices), kind if has_state else "cuda")()


@functools.lru_cache(maxsize=None)
def _fork(devices: tuple[int, ...], device_type: str) -> Overlapping:
    return Overlapping(functools.partial(torch.random.fork_rng, devices, device_type=device_type))
