"""A context in which matrix products use the full precision of their dtype."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ContextManager, Iterator

import torch

from captum_kd._utils.context import Overlapping

__all__ = ["full_precision"]

# How torch 2.9 and later name products of float32 that keep the digits of TF32 (10) or bfloat16 (7).
_COARSE = ("tf32", "bf16")
# Where it is set, backend by backend; nowhere before torch 2.9, which has one setting for all.
_MODULES: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
_BACKENDS = [module.matmul for module in _MODULES] if hasattr(torch.backends, "fp32_precision") else []


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
