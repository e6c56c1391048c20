"""The precision of distances: the dtype that holds them, and a context in which products keep all of its digits.

All scores share one rule (:func:`distance_dtype`). Up to 4,096 inputs distances are float64 where the device has it: where
two models are nearly alike, removal magnifies the rounding of float32. More inputs are compared tile by tile in the
features' own dtype, and pairs that are so close that the matrix product loses their digits are subtracted one by one.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ContextManager, Iterator

import torch

from captum_kd._utils.context import Overlapping

__all__ = ["MOST_DENSE", "distance_dtype", "full_precision", "has_float64", "widest"]

MOST_DENSE = 4096
"""Inputs up to which distances are float64, and whole matrices of them are held unless a block size is asked for."""

# How torch 2.9 and later name products of float32 that keep the digits of TF32 (10) or bfloat16 (7).
_COARSE = ("tf32", "bf16")
# Where it is set, backend by backend; nowhere before torch 2.9, which has one setting for all.
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
    """Float32 stays float32 in products: neither autocast's half types, nor TF32 or bfloat16 inside
    (``torch.set_float32_matmul_precision``, ``torch.backends``), which would cost distances 3 of their 7 digits."""
    is_cast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    if not is_cast and not _is_coarse():
        return nullcontext()
    return _full(device, is_cast)


@contextmanager
def _full(device: torch.device, is_cast: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if is_cast:
            stack.enter_context(torch.autocast(device.type, enabled=False))
        # Also where another thread has switched it off already: that one may be done sooner.
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
            backend.fp32_precision = "none"  # as the setting for all backends says, if that was how it came about
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


_without_coarse_products = Overlapping(_switched)
