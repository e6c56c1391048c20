"""A context in which PyTorch's fast path of attention is off, so that hooks see its layers.

In eval mode, and only where no gradients are recorded, ``nn.TransformerEncoder`` and
``nn.MultiheadAttention`` may run as fused kernels: padded positions become zeros, layers inside are
given nested tensors, which have no shape, or are not called at all. Passes with and without
gradients would then see different features.
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
"""Runs attention as it runs when gradients are recorded. Threads may overlap; errors do no harm."""
