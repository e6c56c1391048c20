"""A context in which PyTorch's fast path of attention is off, so that hooks see its layers.

In eval mode without gradients, ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` may run as
fused kernels: padded positions become zeros, and the layers inside receive nested tensors, which
have no shape, or are not called. Passes with and without gradients would then give different features.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch

from captum_kd._utils.context import Overlapping


@contextmanager
def _switched_off() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


without_fast_path = Overlapping(_switched_off)
"""Runs attention as it runs when gradients are recorded."""
