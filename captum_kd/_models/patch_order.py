"""A check by two probe images that a model's tokens are square patches of the image, row by row.

A model that cuts its images by reshaping has no output with the shape of the grid. The number of tokens does not determine the
patches, which may be oblong, in another order, or incomplete. Two more passes check them. One probe image is a ramp, the other
is blank, and the differences between their tokens must lie on a ramp too.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from captum_kd._models.channel_axis import Size, Trace
from captum_kd._models.hooks import capture_layers, changes_buffers
from captum_kd._models.layer_names import Layer
from captum_kd._utils.inputs import ModelInputs

_SLANT = 0.618
"""The horizontal slope of the ramp; the vertical slope is 1. They differ, so that exchanged axes are detected."""
_ENOUGH = 0.99
"""Fraction of the differences that a ramp must explain: 1 in exact arithmetic, 0.93 for 8 x 2 instead of 4 x 4 patches."""


def is_row_by_row(
    forward_func: Callable[..., Any],
    inputs: tuple[Any, ...],
    additional_forward_args: tuple[Any, ...],
    seen: Sequence[Trace],
    grid: Size,
    prefix_tokens: int,
) -> bool:
    """Whether the first tokens of a forward pass are the cells of a grid over the image, row by row.

    Args:
        forward_func, inputs, additional_forward_args: as for :func:`capture_layers`; one input is an image (N, C, H, W).
        seen (sequence of Trace): outputs of a pass over the inputs.
        grid (tuple): (h, w).
        prefix_tokens (int): tokens in front of the grid, which may be added later.

    Returns:
        bool: False also if the probe is not possible.
    """
    n, (h, w) = int(inputs[0].shape[0]), grid
    counts = (h * w, prefix_tokens + h * w)
    given = (trace for trace in seen if trace.given and len(trace.given[0]) == 3 and trace.given[0][0] == n)
    first = next(given, None)
    if first is None or first.given[0][1] not in counts or changes_buffers(forward_func, seen):
        return False
    place = next(i for i, value in enumerate(inputs) if isinstance(value, Tensor) and value.dim() == 4)
    layer = Layer(first.ahead_of or first.module, None, "forward_func")
    tokens = []
    try:
        for image in (_ramp(*inputs[place].shape[2:]), torch.zeros(())):
            image = image.to(inputs[place]).expand_as(inputs[place])
            own = inputs if isinstance(inputs, ModelInputs) else ModelInputs(inputs)
            changed = own.with_value(place, image)
            captured = capture_layers(forward_func, [layer], changed, additional_forward_args, at_input=True)
            tokens.append(captured[0][layer.module].tensors[0][0, -h * w :].double().cpu())
    except Exception:
        return False
    difference = tokens[0] - tokens[1]
    difference = difference - difference.mean(0)
    ramp = _ramp(h, w).double().flatten()
    ramp = ramp - ramp.mean()
    explained = (ramp @ difference).square().sum() / ramp.square().sum()
    return h * w == 1 or bool(explained > _ENOUGH * difference.square().sum())


def _ramp(height: int, width: int) -> Tensor:
    """A ramp (height, width) that rises from the upper left to the lower right."""
    down, right = (torch.arange(0.5, side) * (100 / side) for side in (height, width))
    return down[:, None] + _SLANT * right
