"""A check that a layer's first axis is the batch if the second axis is equally long.

PyTorch's attention and recurrent layers return time first, (T, N, C), by default. If T equals N, the shape does not show which
axis is the batch. A second pass without the last input does: the axis that becomes shorter is the batch.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NoReturn, Optional, Sequence

from torch import nn

from captum_kd._models.channel_axis import channels_are_last, own_evidence
from captum_kd._models.hooks import Captured, capture_layers, changes_buffers
from captum_kd._models.layer_names import Layer
from captum_kd._utils.arguments import take_rows


def check_batch_axis(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    captured: Sequence[Mapping[nn.Module, Captured]],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    at_input: bool = False,
    device_ids: Optional[Sequence[int]] = None,
) -> None:
    """Checks layers whose first two axes are both as long as the batch; other arguments as for :func:`capture_layers`.

    Args:
        captured (sequence of mapping): the layers' outputs on each device, with a trace.

    Raises:
        ValueError: a layer whose first axis is not the batch, or for which the batch axis cannot be inferred.
    """
    places = {layer: _unclear(device[layer.module], layer.module, at_input) for device in captured for layer in layers}
    unclear = {layer: place for layer, place in places.items() if place is not None}
    if not unclear:
        return
    n = int(inputs[0].shape[0])
    layer = next(iter(unclear))
    if changes_buffers(forward_func, (trace for device in captured for each in device.values() for trace in each.seen)):
        _refuse(layer, n, "a further pass would change buffers of modules in training mode; call eval()")
    rows, fewer = slice(0, n - 1), take_rows(inputs, slice(0, n - 1), n)
    try:
        args = take_rows(additional_forward_args, rows, n)
        again = capture_layers(forward_func, list(unclear), fewer, args, at_input=at_input, device_ids=device_ids)
    except Exception as error:
        _refuse(layer, n, f"a further pass, over {n - 1} inputs, fails ({type(error).__name__}: {error})", error)
    for layer, place in unclear.items():
        found = sum(device[layer.module].tensors[place].shape[0] for device in again)
        if found != n - 1:
            raise ValueError(
                f"{layer} works on {found} rows for {n - 1} inputs, and on {n} for {n} by coincidence: its first dimension is "
                "not the batch. Choose a layer whose first dimension is the batch, or build the model with batch_first=True."
            )


def _unclear(captured: Captured, module: nn.Module, at_input: bool) -> Optional[int]:
    """The index of a tensor whose batch may be either of its first two axes, or None."""
    for place, tensor in enumerate(captured.tensors):
        shape = tuple(tensor.shape)
        if 3 <= len(shape) <= 5 and shape[0] == shape[1] > 1:
            # After convolutions and similar modules the second axis is the channels.
            if channels_are_last(shape, own_evidence(module, shape, at_input, captured.seen), captured.seen) is not False:
                return place
    return None


def _refuse(layer: Layer, n: int, reason: str, cause: Optional[Exception] = None) -> NoReturn:
    raise ValueError(
        f"{layer} returns {n} x {n} x ... for {n} inputs, and it cannot be inferred which axis is the batch: {reason}. "
        "Pass another number of inputs, or choose another layer."
    ) from cause
