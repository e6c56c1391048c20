"""Largest absolute values and finiteness of tensors, in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["is_finite", "largest_of"]


def is_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite, in one pass."""
    return math.isfinite(largest_of(x))


def largest_of(x: Tensor) -> float:
    """The largest absolute value; not finite where one of them is not. One pass."""
    low, high = torch.stack(x.detach().aminmax()).tolist()
    return float(high if math.isnan(high) else max(high, -low))
