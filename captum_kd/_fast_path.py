"""PyTorch's fast path of attention, off while layers are looked at.

In eval mode, and only where no gradients are recorded, ``nn.TransformerEncoder`` and
``nn.MultiheadAttention`` may run as fused kernels: padded positions become zeros, layers inside are
given nested tensors, which have no shape, or are not called at all. Passes with and without
gradients would then see different features.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Iterator

import torch

__all__ = ["without_fast_path"]


class _Switch:
    """The switch is the whole process's: the first to come turns it off, the last to go restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.before = True

    def hold(self) -> None:
        with self.lock:
            if self.holders == 0:
                self.before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self.holders += 1

    def release(self) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                torch.backends.mha.set_fastpath_enabled(self.before)


_SWITCH = _Switch()


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Runs attention as it runs when gradients are recorded. Threads may overlap; errors do no harm."""
    _SWITCH.hold()
    try:
        yield
    finally:
        _SWITCH.release()
