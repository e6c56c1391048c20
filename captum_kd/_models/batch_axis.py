"""The axis of a layer's output that holds the batch.

It is the first axis, except for PyTorch's attention and recurrent layers, which return time first, (T, N, C), by default. The
shape does not show it: the first axis may have another length than the batch because windows were folded into it, and T may equal
N. A second pass with another number of inputs does: the axis whose length changes with it is the batch.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NoReturn, Optional, Sequence

import torch
from torch import nn

from captum_kd._models.channel_axis import channels_are_last, own_evidence
from captum_kd._models.hooks import Captured, capture_layers, changes_buffers
from captum_kd._models.layer_names import Layer
from captum_kd._utils.arguments import take_rows


def time_first_layers(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    captured: Sequence[Mapping[nn.Module, Captured]],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    at_input: bool = False,
    device_ids: Optional[Sequence[int]] = None,
) -> set[nn.Module]:
    """Finds layers (T, N, C); other arguments as for :func:`capture_layers`.

    Args:
        captured (sequence of mapping): the layers' outputs on each device, with a trace.

    Returns:
        set of nn.Module: the layers with time first. The first axis of all other layers is the batch.

    Raises:
        ValueError: a layer without one row for each input, or for which the axis of the batch cannot be inferred.
    """
    n = int(inputs[0].shape[0])
    places = {layer: _unclear(layer, [device[layer.module] for device in captured], n, at_input) for layer in layers}
    unclear = {layer: place for layer, place in places.items() if place is not None}
    if not unclear:
        return set()
    layer, place = next(iter(unclear.items()))
    shape = tuple(captured[0][layer.module].tensors[place].shape)
    if changes_buffers(forward_func, (trace for device in captured for each in device.values() for trace in each.seen)):
        _refuse(layer, shape, n, "a further pass would change buffers of modules in training mode; call eval()")
    # A single input is repeated.
    rows = torch.arange(n - 1) if n > 1 else torch.zeros(2, dtype=torch.long)
    other, args = take_rows(inputs, rows, n), take_rows(additional_forward_args, rows, n)
    try:
        again = capture_layers(forward_func, list(unclear), other, args, at_input=at_input, device_ids=device_ids)
    except Exception as error:
        reason = f"a further pass, over {len(rows)} inputs, fails ({type(error).__name__}: {error})"
        _refuse(layer, shape, n, reason, error)
    found = set()
    for layer, place in unclear.items():
        tensors = [device[layer.module].tensors for device in captured]
        before, after = (
            [sum(device[layer.module].tensors[place].shape[axis] for device in devices) for axis in (0, 1)]
            for devices in (captured, again)
        )
        axes = [axis for axis in (0, 1) if before[axis] == n and after[axis] == len(rows)]
        shape = tuple(tensors[0][place].shape)
        if len(axes) > 1:
            _refuse(layer, shape, n, "both change their length with the number of inputs")
        if axes == [1] and len(shape) == 3 and len(tensors[0]) == 1:
            found.add(layer.module)
        elif axes != [0]:
            seen = f"{after[0]} rows for {len(rows)} inputs, and on {n} for {n} by coincidence"
            _raise_rows(layer, seen if before[0] == n else f"{before[0]} rows for {n} inputs")
    return found


def _unclear(layer: Layer, captured: Sequence[Captured], n: int, at_input: bool) -> Optional[int]:
    """The index of a tensor whose batch may be its second axis, or None.

    Raises:
        ValueError: a tensor without one row for each input on either axis.
    """
    for place, tensors in enumerate(zip(*(device.tensors for device in captured))):
        found = sum(tensor.shape[0] for tensor in tensors)
        if found == n:
            continue
        if len(captured[0].tensors) > 1 or tensors[0].dim() != 3 or sum(tensor.shape[1] for tensor in tensors) != n:
            _raise_rows(layer, f"{found} rows for {n} inputs")
        return place
    for device in captured:
        for place, tensor in enumerate(device.tensors):
            shape = tuple(tensor.shape)
            if 3 <= len(shape) <= 5 and shape[0] == shape[1] > 1:
                # After convolutions and similar modules the second axis is the channels.
                own = own_evidence(layer.module, shape, at_input, device.seen)
                if channels_are_last(shape, own, device.seen) is not False:
                    return place
    return None


def _refuse(layer: Layer, shape: tuple[int, ...], n: int, reason: str, cause: Optional[Exception] = None) -> NoReturn:
    raise ValueError(
        f"{layer} returns {shape[0]} x {shape[1]} x ... for {n} inputs, and it cannot be inferred which axis is the batch: "
        f"{reason}. Pass another number of inputs, or choose another layer."
    ) from cause


def _raise_rows(layer: Layer, found: str) -> NoReturn:
    way_out = (
        "choose a layer whose first dimension is the batch, or the inputs of one (attribute_to_layer_input=True). Layers inside "
        "windowed attention, for example, fold windows into it"
    )
    if isinstance(layer.module, nn.RNNBase):
        way_out = "packed sequences hold the steps of all inputs in one axis. Choose a later layer, behind pad_packed_sequence"
    elif any(isinstance(each, nn.RNNBase) for each in layer.module.modules()):
        way_out = (
            "blocks around a recurrent layer may return hidden states (layers, N, C). Choose the recurrent layer itself, whose "
            "hidden states are left out, or a later layer"
        )
    raise ValueError(f"{layer} works on {found}: its first dimension is not the batch; {way_out}.")
