"""Checksums of tensors, to recognize the weights of a model after copying, pickling or moving to another device."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, Iterable, MutableMapping, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# The latest checksum of tensors on a GPU, by the first tensor.
_SEEN: MutableMapping[Tensor, tuple[list[Any], list[tuple[int, int]], str]] = WeakTensorKeyDictionary()


def checksum(tensors: Sequence[Tensor]) -> str:
    """A short checksum of the bits of tensors, the same on every device and in every memory layout.

    It uses the first entry of each row and the sum of the row's bits as integers, which is exact in any order, so every
    change of a single entry is detected. On a GPU it is computed again only if a tensor was replaced or if PyTorch's count
    of writes changed, which does not include writes through ``.data``. For tensors without dense values in memory (meta,
    quantized, sparse, distributed over ranks) only shape and dtype count.
    """
    versions = _versions(tensors)
    if versions is not None:
        seen = _SEEN.get(tensors[0])
        if seen is not None and seen[1] == versions and all(ref() is each for ref, each in zip(seen[0], tensors)):
            return seen[2]
    shapes = []
    columns: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        has_shape = not (is_lazy(tensor) or tensor.is_nested)
        shapes.append((tuple(tensor.shape) if has_shape else None, str(tensor.dtype)))
        if not _is_plain(tensor):
            continue
        bits = _as_bits(tensor.detach())
        bits = bits if bits.dim() else bits[None]
        # Without dtype=, a sum of integers would first copy them to int64.
        kind = torch.int64 if bits.dtype == torch.int64 else torch.int32
        inner = tuple(range(1, bits.dim()))
        found = columns.setdefault((bits.device, kind), [])
        found.append(bits.sum(inner, dtype=kind) if inner else bits.to(kind))
        if inner:  # the sum alone misses negations of an even number of entries
            found.append(bits[(slice(None),) + (0,) * len(inner)].to(kind))
    hashed = hashlib.sha1(repr(shapes).encode())
    for sums in columns.values():
        hashed.update(torch.cat(sums).cpu().numpy().tobytes())
    text = hashed.hexdigest()[:12]
    if versions is not None:
        _SEEN[tensors[0]] = [weakref.ref(tensor) for tensor in tensors], versions, text
    return text


def checksum_of_modules(modules: Iterable[nn.Module]) -> str:
    """A checksum of the modules' own parameters and kept buffers."""
    return checksum([tensor for module in modules for tensor in (*own_parameters(module), *kept_buffers(module))])


def kept_buffers(module: nn.Module) -> list[Tensor]:
    """A module's own buffers that affect its outputs and are not changed by a pass.

    In training mode, batch normalization changes its running statistics and does not use them. Buffers that are not saved
    with the model are caches.
    """
    if module.training:
        return []
    passing = getattr(module, "_non_persistent_buffers_set", ())
    return [buffer for name, buffer in module._buffers.items() if buffer is not None and name not in passing]


def own_parameters(module: nn.Module) -> list[Tensor]:
    """A module's parameters, without those of its submodules; ``parameters()`` takes ten times as long."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


def _versions(tensors: Sequence[Tensor]) -> Optional[list[tuple[int, int]]]:
    """Counts of writes and addresses of tensors on a GPU, where comparing them is cheaper than a checksum; else None."""
    if not tensors or not all(_is_plain(each) and _counts_writes(each.device) and not each.is_inference() for each in tensors):
        return None
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _counts_writes(device: torch.device) -> bool:
    return device.type == "cuda"


def _is_plain(tensor: Tensor) -> bool:
    is_dense = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    return is_dense and not tensor.is_nested and not tensor.is_meta and tensor.numel() > 0


def _as_bits(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).view(_BITS[tensor.element_size()])
