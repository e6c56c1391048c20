"""The dtype of distances, and a context in which matrix products keep full precision.

All scores use one rule (:func:`distance_dtype`). Up to 4,096 inputs, distances are float64 if the device supports it: if two
models are nearly equal, removal magnifies the rounding of float32. More inputs are compared tile by tile in the features'
own dtype. Pairs that are too close for the matrix product are subtracted directly.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ContextManager, Iterator

import torch

from captum_kd._utils.context import Overlapping

__all__ = ["MOST_DENSE", "distance_dtype", "full_precision", "has_float64", "widest"]

MOST_DENSE = 4096
"""The most inputs for which distances are float64 and, unless a block size is given, are held as whole matrices."""

# The names in torch >= 2.9 of settings under which float32 products keep the bits of TF32 (10) or bfloat16 (7).
_COARSE = ("tf32", "bf16")
# The backends that have the setting; before torch 2.9 there is one setting for all backends.
_MODULES: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
_BACKENDS = [module.matmul for module in _MODULES] if hasattr(torch.backends, "fp32_precision") else []


def distance_dtype(features: torch.dtype, n: int, device: torch.device) -> torch.dtype:
    """The dtype of the distances between n inputs whose features are float32 or float64."""
    return widest(device) if n <= MOST_DENSE else features


def widest(device: torch.device) -> torch.dtype:
    return torch.float64 if has_float64(device) else torch.float32


def has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def full_precision(device: torch.device) -> ContextManager[None]:
    """A context without autocast and without TF32 or bfloat16 inside float32 products.

    TF32 (``torch.set_float32_matmul_precision``, ``torch.backends``) would cost distances 3 of their 7 digits.
    """
    is_cast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    if not is_cast and not _is_coarse():
        return nullcontext()
    return _full(device, is_cast)


@contextmanager
def _full(device: torch.device, is_cast: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if is_cast:
            stack.enter_context(torch.autocast(device.type, enabled=False))
        # Needed even if another thread has switched it off already, since that thread may finish first.
        stack.enter_context(_without_coarse_products())
        yield


def _is_coarse() -> bool:
    if _without_coarse_products.is_made:
        return True
    if _BACKENDS:
        return any(backend.fp32_precision in _COARSE for backend in _BACKENDS)
    return torch.get_float32_matmul_precision() != "highest"


@contextmanager
def _switched() -> Iterator[None]:
    if not _BACKENDS:
        setting = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(setting)
        return
    before = [backend.fp32_precision for backend in _BACKENDS]
    for backend in _BACKENDS:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(_BACKENDS, before):
            backend.fp32_precision = "none"  # inherits the setting for all backends, which may have been the source
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


_without_coarse_products = Overlapping(_switched)
