"""Outputs of a model's layers for one batch: captured in a forward pass, checked, and with their layouts."""

from __future__ import annotations

import functools
from typing import Any, Callable, Collection, Mapping, Optional, Sequence

from torch import Tensor, nn

from captum_kd._models.batch_axis import check_batch_axis
from captum_kd._models.channel_axis import Size
from captum_kd._models.early_end import LayerCalls
from captum_kd._models.hooks import Captured, capture_layers
from captum_kd._models.layer_names import Layer
from captum_kd._models.patch_order import is_row_by_row
from captum_kd._models.token_layout import Layout, LayoutHints, find_layout


def capture_outputs(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...],
    *,
    at_input: bool,
    device_ids: Optional[Sequence[int]],
    differentiate_from: Sequence[Layer] = (),
    trace: bool = True,
    returned: Optional[list[Any]] = None,
    calls: Optional[LayerCalls] = None,
) -> list[dict[nn.Module, Captured]]:
    """Captures layers as :func:`capture_layers` does, and checks that their first dimension is the batch.

    Without ``trace`` only the number of rows is checked, and no layouts can be found.

    Raises:
        ValueError: as :func:`capture_layers`; a layer whose first dimension is not the batch.
    """
    captured = capture_layers(
        forward_func,
        layers,
        inputs,
        additional_forward_args,
        at_input=at_input,
        differentiate_from=differentiate_from,
        trace=trace,
        device_ids=device_ids,
        returned=returned,
        calls=calls,
    )
    for layer in layers:
        _check_rows(layer, [device[layer.module] for device in captured], inputs[0].shape[0])
    if trace:
        check_batch_axis(
            forward_func, layers, captured, inputs, additional_forward_args, at_input=at_input, device_ids=device_ids
        )
    return captured


def find_layouts(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...],
    captured: Sequence[Mapping[nn.Module, Captured]],
    *,
    hints: LayoutHints,
    at_input: bool,
    known: Mapping[nn.Module, tuple[Layout, ...]] = {},
    optional: Collection[nn.Module] = (),
) -> list[dict[nn.Module, tuple[Layout, ...]]]:
    """The layouts of all tensors of the layers, for each device.

    Args:
        captured (sequence of mapping): what :func:`capture_outputs` returned, with traces.
        known (mapping): layouts found for several inputs; used if a device has a single input.
        optional (collection of nn.Module): layers for which () is returned, without an error, if no layouts can be found.

    Raises:
        ValueError: a layer whose layout cannot be found.
    """
    image_size = image_size_of(inputs)
    seen = max((each.seen for device in captured for each in device.values()), key=len)
    # Several layers may need the same grid checked, and each check takes two forward passes.
    probe = functools.lru_cache(functools.partial(is_row_by_row, forward_func, inputs, additional_forward_args, seen))

    def layouts_of(layer: Layer, found: Captured) -> tuple[Layout, ...]:
        before = [*known.get(layer.module, ()), *([None] * len(found.tensors))]
        find = functools.partial(
            find_layout,
            module=layer.module,
            where=str(layer),
            image_size=image_size,
            seen=found.seen,
            hints=hints,
            at_input=at_input,
            is_row_by_row=probe,
        )
        try:
            return tuple(find(tensor, known=layout) for tensor, layout in zip(found.tensors, before))
        except ValueError:
            if layer.module not in optional:
                raise
            return ()

    return [{layer.module: layouts_of(layer, device[layer.module]) for layer in layers} for device in captured]


def image_size_of(inputs: tuple[Any, ...]) -> Optional[Size]:
    """(H, W) of the first input that is an image batch (N, C, H, W)."""
    for value in inputs:
        if isinstance(value, Tensor) and value.dim() == 4:
            return value.shape[2], value.shape[3]
    return None


def _check_rows(layer: Layer, captured: Sequence[Captured], rows: int) -> None:
    """Raises a ValueError for tensors that do not have one row for each input."""
    for tensors in zip(*(device.tensors for device in captured)):
        found = sum(tensor.shape[0] for tensor in tensors)
        if found != rows:
            raise ValueError(f"{layer} works on {found} rows for {rows} inputs; {_way_to_rows(layer.module)}")


def _way_to_rows(module: nn.Module) -> str:
    if any(isinstance(each, nn.RNNBase) for each in module.modules()):
        return (
            "recurrent layers return hidden states (layers, N, C) beside their outputs, and outputs (T, N, C) unless "
            "batch_first=True. Choose a later layer whose first dimension is the batch, or the inputs of one "
            "(attribute_to_layer_input=True)."
        )
    return (
        "choose a layer whose first dimension is the batch, or the inputs of one (attribute_to_layer_input=True). Layers "
        "inside windowed attention, for example, fold windows into it, and time-first layers have the steps there."
    )
