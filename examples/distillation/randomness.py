"""Random numbers that depend on nothing but what they are for.

Whatever is drawn in a training step is drawn after torch's generators were seeded by ``derived(seed, epoch, step)``: so
a training that goes on after a kill draws what it would have drawn without, and what ran before, beside or in worker
processes makes no difference.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import Iterator

import torch

__all__ = ["derived", "own_randomness"]


def derived(*parts: int | str) -> int:
    """A seed of 32 bits; other parts give another one, also where their sums are the same."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


@contextmanager
def own_randomness(*parts: int | str) -> Iterator[None]:
    """torch's generators, those of the GPUs too, seeded by ``derived(*parts)``; afterwards they stand where they stood."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derived(*parts))
        yield
