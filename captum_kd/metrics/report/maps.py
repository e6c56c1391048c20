"""Maps of one model of a report at its layers, for scores of the salient part and for agreement of explanations."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._models.layer_names import Layer
from captum_kd._models.logits import predicted_classes
from captum_kd._utils.inputs import ModelInputs
from captum_kd.attr.grad_cam import layer_gradcams
from captum_kd.metrics.report.models import ComparedModel, hints_for
from captum_kd.metrics.report.settings import Settings

MapMethod = Union[str, Callable[..., Tensor]]


def layer_maps(
    of: ComparedModel,
    layers: Sequence[Optional[Layer]],
    inputs: ModelInputs,
    classes: Optional[Tensor],
    args: tuple[Any, ...],
    method: MapMethod,
    settings: Settings,
) -> list[Tensor]:
    """One tensor of maps for each layer, of the predicted classes if ``classes`` is None.

    ``method`` is "gradcam", "hirescam" or a function (model, layer module, inputs, classes) -> maps, which may take maps at the
    inputs: its layer is then None.
    """
    options, output_transform = settings.model_options, settings.output_transform
    if callable(method):
        if classes is None:
            classes = predicted_classes(of.model, inputs, args, model=str(of), output_transform=output_transform)
        alone, classes = inputs.as_given(), classes.to(inputs[0].device)
        return [method(of.model, None if layer is None else layer.module, alone, classes) for layer in layers]
    return layer_gradcams(
        of.model,
        [layer for layer in layers if layer is not None],
        inputs,
        classes,  # None: this forward pass also gives the predictions
        args,
        model=str(of),
        hints=hints_for(of, options.hints),
        high_resolution=method == "hirescam",
        output_transform=output_transform,
        at_input=options.attribute_to_layer_input,
        device_ids=options.device_ids,
    )


def with_prefix(maps: Tensor, tokens: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Maps (N, 1, T) and their token mask (N, T); maps that do not cover the prefix tokens get a 0 there, outside of the mask."""
    if prefix and isinstance(maps, Tensor) and maps.dim() == 3 and maps.shape[2] == tokens.shape[1] - prefix:
        maps = torch.nn.functional.pad(maps, (prefix, 0))
        tokens = tokens & (torch.arange(tokens.shape[1], device=tokens.device) >= prefix)
    return maps, tokens
