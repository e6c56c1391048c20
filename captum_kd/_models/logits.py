"""Logits of a model and the classes that it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from captum_kd._models.hooks import run_model, same_random_state
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import check_features

OutputTransform = Callable[[Any], Tensor]


def class_scores(output: Any, output_transform: Optional[OutputTransform], labels: Optional[Tensor], model: str) -> Tensor:
    """Logits (N, classes) from a model's output: the result of ``output_transform``, its ``logits``, or the output itself.

    Args:
        output (Any): the model's output.
        output_transform (callable, optional): from the output to logits.
        labels (Tensor, optional): (N,) labels; they must be among the classes.
        model (str): the argument that gave the model, for messages.

    Raises:
        TypeError: the logits are not a tensor of two dimensions.
        ValueError: another number of rows than labels, fewer than two classes, a label without logit, or
            non-finite logits.
    """
    if output_transform is not None:
        logits = output_transform(output)
    elif isinstance(output, Mapping):
        logits = output.get("logits", output)
    else:
        logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor):
        check_features(logits, f"The logits of {model}")
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        if output_transform is not None:
            raise TypeError(f"output_transform must return the logits (N, classes) of {model}, got {shown}.")
        raise TypeError(
            f"The output of {model} gives no logits (N, classes), got {shown}; pass output_transform=, a function from "
            "the model's output to its logits."
        )
    rows, classes = logits.shape
    if labels is not None and rows != labels.shape[0]:
        raise ValueError(f"{model} gives logits of {rows} rows for {labels.shape[0]} inputs.")
    if classes < 2:
        raise ValueError(
            f"{model} gives one logit per input, but two classes need two: let output_transform return "
            "torch.cat([torch.zeros_like(logit), logit], 1), with logit that column of the output."
        )
    outside = None if labels is None else labels[labels >= classes]
    if outside is not None and outside.numel():
        raise ValueError(
            f"The labels hold the label {int(outside[0])}, but {model} gives logits of the classes 0 to {classes - 1} only. Pass "
            "labels that are numbered as the logits are."
        )
    if not is_finite(logits):
        raise ValueError(f"{model} gives non-finite logits (NaN or infinity); check its weights and its inputs.")
    return logits


def predicted_classes(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    additional_forward_args: tuple[Any, ...] = (),
    *,
    model: str = "forward_func",
    output_transform: Optional[OutputTransform] = None,
) -> Tensor:
    """The class (N,) that a model predicts for each input, on the model's device.

    Raises:
        TypeError, ValueError: an output without logits (N, classes), or with non-finite logits.
    """
    with changed_state(torch.no_grad(), same_random_state(inputs)), interruptible():
        output = run_model(forward_func, inputs, additional_forward_args)
        return class_scores(output, output_transform, None, model).argmax(1)
