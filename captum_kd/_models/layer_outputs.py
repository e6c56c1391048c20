"""Outputs of a model's layers for one batch: captured in a forward pass, checked, and with their layouts."""

from __future__ import annotations

import functools
from typing import Any, Callable, Collection, Mapping, Optional, Sequence

from torch import Tensor, nn

from captum_kd._models.batch_axis import time_first_layers
from captum_kd._models.channel_axis import Size
from captum_kd._models.early_end import LayerCalls
from captum_kd._models.hooks import Captured, capture_layers
from captum_kd._models.layer_activations import LayerOutput
from captum_kd._models.layer_names import Layer
from captum_kd._models.patch_order import is_row_by_row
from captum_kd._models.token_layout import Layout, LayoutHints, find_layout
from captum_kd._utils.inputs import ModelInputs, find_ids


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
    """Captures layers as :func:`capture_layers` does, and finds the axis of the batch.

    Without ``trace`` no layouts and no axes can be found; the shapes must be those of an earlier pass with a trace.

    Raises:
        ValueError: as :func:`capture_layers`; a layer whose first dimension is not the batch, and which is not (T, N, C) either.
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
    if not trace:
        return captured
    time_first = time_first_layers(
        forward_func, layers, captured, inputs, additional_forward_args, at_input=at_input, device_ids=device_ids
    )
    return [
        {module: each._replace(time_first=module in time_first) for module, each in device.items()} for device in captured
    ]


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
    image_size, token_count = image_size_of(inputs), token_count_of(inputs)
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
            time_first=found.time_first,
            token_count=token_count,
            is_row_by_row=probe,
        )
        try:
            return tuple(find(tensor, known=layout) for tensor, layout in zip(found.tensors, before))
        except ValueError:
            if layer.module not in optional:
                raise
            return ()

    return [{layer.module: layouts_of(layer, device[layer.module]) for layer in layers} for device in captured]


def joined_outputs(
    layers: Sequence[Layer],
    inputs: ModelInputs,
    captured: Sequence[Mapping[nn.Module, Captured]],
    layouts: Sequence[Mapping[nn.Module, tuple[Layout, ...]]],
) -> list[dict[nn.Module, LayerOutput]]:
    """What :func:`capture_outputs` and :func:`find_layouts` returned, together with each device's rows of the token mask."""
    beside_images, names = image_size_of(inputs) is not None, {layer.module: str(layer) for layer in layers}
    outputs, start = [], 0
    for device, of_device in zip(captured, layouts):
        module, first = next(iter(device.items()))
        stop = start + (*of_device[module], Layout())[0].rows(first.tensors[0])
        mask = None if inputs.token_mask is None else inputs.token_mask[start:stop]
        output_of = functools.partial(LayerOutput.of, token_mask=mask, beside_images=beside_images)
        outputs.append({m: output_of(each.tensors, of_device[m], where=names[m]) for m, each in device.items()})
        start = stop
    return outputs


def image_size_of(inputs: tuple[Any, ...]) -> Optional[Size]:
    """(H, W) of the first input that is an image batch (N, C, H, W)."""
    for value in inputs:
        if isinstance(value, Tensor) and value.dim() == 4:
            return value.shape[2], value.shape[3]
    return None


def token_count_of(inputs: tuple[Any, ...]) -> Optional[int]:
    """T of inputs that are sequences of tokens: they have a token mask or hold ids, (N, T)."""
    mask, place = getattr(inputs, "token_mask", None), find_ids(inputs)
    if mask is not None:
        return int(mask.shape[1])
    return None if place is None else int(inputs[place].shape[1])
