"""Largest absolute values and finiteness of tensors, in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_finite(x: Tensor) -> bool:
    """True if no entry is NaN or infinite."""
    return math.isfinite(largest_of(x))


def largest_of(x: Tensor) -> float:
    """The largest absolute value; NaN or infinity if the tensor contains any."""
    low, high = torch.stack(x.detach().aminmax()).tolist()
    return float(high if math.isnan(high) else max(high, -low))
