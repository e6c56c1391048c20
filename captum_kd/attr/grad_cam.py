"""Grad-CAM at several layers, token layers included, from one forward and one backward pass.

Captum's ``LayerGradCam`` explains one layer in a call and does not put tokens on a grid. Localized scores need maps
of one batch at many layers. For a layer that both can explain, the maps are the same.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.cam import precise
from captum_kd._models.layer_names import Layer
from captum_kd._models.layer_outputs import capture_outputs, find_layouts, joined_outputs
from captum_kd._models.logits import OutputTransform, class_scores
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.inputs import ModelInputs
from captum_kd._utils.interrupts import changed_state, interruptible


def layer_gradcams(
    forward_func: Callable[..., Any],
    layers: Sequence[Layer],
    inputs: ModelInputs,
    labels: Optional[Tensor],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    model: str = "forward_func",
    output_transform: Optional[OutputTransform] = None,
    high_resolution: bool = False,
    hints: LayoutHints = LayoutHints(),
    at_input: bool = False,
    device_ids: Optional[Sequence[int]] = None,
) -> list[Tensor]:
    """Computes Grad-CAM maps of a batch for the logits of the labels.

    Args:
        forward_func, layers, inputs, additional_forward_args, device_ids: as in Captum's LayerGradCam, for several layers.
        labels (Tensor, optional): (N,) classes to explain. Default: the predicted classes
        model (str): the model's name in messages.
        output_transform (callable, optional): from the model's output to its logits.
        high_resolution (bool): HiResCAM (Draelos & Carin 2020), as in the authors' scores: gradient times activation
            at each position, without the mean over positions. It explains the log-odds of the softmax output. The
            softmax output itself gives the same map up to a positive factor, but its gradient vanishes if the model
            is confident.
        hints (LayoutHints): layout of token and channels-last layers.
        at_input (bool): explain the layers' inputs instead of their outputs.

    Returns:
        list of Tensor: for each layer (N, 1, ...), signed, detached, float32 or float64.

    Raises:
        ValueError: a layer that is never reached, gives several tensors, has no positions or does not affect the
            logits; a label without a logit.
        TypeError: an output that is not an (N, classes) tensor.
    """
    inputs = with_named_mask(forward_func, inputs, additional_forward_args)
    outputs: list[Any] = []
    devices = capture_outputs(
        forward_func,
        layers,
        inputs,
        additional_forward_args,
        at_input=at_input,
        device_ids=device_ids,
        differentiate_from=layers,
        returned=outputs,
    )
    for layer in layers:
        tensors = devices[0][layer.module].tensors
        if len(tensors) > 1 or tensors[0].dim() < 3:
            what = f"{len(tensors)} tensors" if len(tensors) > 1 else f"shape {tuple(tensors[0].shape)}, no positions"
            raise ValueError(
                f"{layer} gives {what}, so it has no map. Take the maps from another layer, by layer= of Localization or "
                "Explanations, or pass a function that makes maps in the method's place."
            )
    with changed_state(torch.inference_mode(False), torch.enable_grad()), interruptible():
        scores = class_scores(outputs[0], output_transform, labels, model)
        explained = (scores.argmax(1) if labels is None else labels.to(scores.device).clone())[:, None]
        chosen = (_log_odds(scores, explained) if high_resolution else scores.gather(1, explained)).sum()
    activations = [device[layer.module].tensors[0] for device in devices for layer in layers]
    gradients = torch.autograd.grad(chosen, activations, allow_unused=True) if chosen.requires_grad else ()
    if len(gradients) == 0 or any(gradient is None for gradient in gradients):
        number = next((i for i, gradient in enumerate(gradients) if gradient is None), 0)
        raise ValueError(
            f"The logits of {model} do not depend on {layers[number % len(layers)]} in a differentiable way, so it has no "
            "map. Choose a layer on the path to the output."
        )
    layouts = find_layouts(
        forward_func, layers, inputs, additional_forward_args, devices, hints=hints, at_input=at_input
    )
    maps: list[list[Tensor]] = [[] for _ in layers]
    remaining = iter(zip(activations, gradients))
    for of_device in joined_outputs(layers, inputs, devices, layouts):
        for of_layer, layer in zip(maps, layers):
            activation, gradient = map(precise, next(remaining))
            output = of_device[layer.module]._replace(tensors=(activation,))
            of_layer += output.maps([gradient], True, weights="elementwise" if high_resolution else "mean")
    return [torch.cat([part.to(parts[0].device) for part in parts]) for parts in maps]


def _log_odds(scores: Tensor, chosen: Tensor) -> Tensor:
    """log(p / (1 - p)) of the chosen classes, (N, 1), from logits: the softmax outputs p are rounded near 1."""
    scores = precise(scores)
    others = scores.scatter(1, chosen, -torch.inf).logsumexp(1, keepdim=True)
    return scores.gather(1, chosen) - others
