"""Digests of models, functions and tensors.

A digest holds nothing alive, survives copying and pickling, and is the same on every device: it is
taken of the bits, which moving to another device keeps, by integer sums, which are exact in any order.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import re
import weakref
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Iterator, MutableMapping, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from captum_kd._models.reachable import is_installed, is_wrapper, methods_of_passes, references
from captum_kd.distance.pairwise import is_async_device

__all__ = [
    *("digest", "digest_of_callable", "digest_of_tensors", "is_device", "is_sharded", "kept_buffers", "methods_of"),
    *("own_parameters", "own_settings"),
]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_DEVICE = re.compile(r"(cpu|cuda|hpu|mps|npu|xla|xpu)(:\d+)?")

# What every module has besides its own settings: tensors, submodules, hooks and compiled code.
_OF_ALL_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_compile_kwargs", "_is_torch_compile"}


def digest(*contents: bytes) -> str:
    """A few characters that stand for the contents."""
    hashed = hashlib.sha1()
    for content in contents:
        hashed.update(content)
    return hashed.hexdigest()[:12]


# ----------------------------------------------------------------------------- tensors


def digest_of_tensors(tensors: Sequence[Tensor]) -> str:
    """Of every tensor each row's sum over its bits and its first entry: all entries count, at the cost of a sum.

    No change of a single entry escapes; vectors, such as the weights of a normalization, count
    entry by entry. One transfer for each device and type.

    On a GPU, where starting two kernels for each of hundreds of tensors takes longer than a pass of the model, tensors that
    were digested before, were not written to since by PyTorch's count and have the same norms to the last bit are taken for
    unchanged. What that misses is a change through ``.data``, which is not counted, that leaves a norm as it was.
    """
    if not tensors or not all(_is_counted(tensor) for tensor in tensors):
        return _digest_of_bits(tensors)
    norms, known = _norms(tensors), _SEEN.get(tensors[0])
    if known is None or not known.is_of(tensors, norms):
        refs = [weakref.ref(tensor) for tensor in tensors]
        known = _SEEN[tensors[0]] = _Seen(refs, _writes(tensors), norms, _digest_of_bits(tensors))
    return known.digest


class _Seen(NamedTuple):
    """Tensors, as far as they can be recognized without reading their bits, and their digest."""

    tensors: list[Any]
    writes: list[tuple[int, int]]
    norms: list[float]
    digest: str

    def is_of(self, tensors: Sequence[Tensor], norms: Sequence[float]) -> bool:
        # References are equal where tensors are, entry by entry: what counts is whether they are the same.
        are_same = len(self.tensors) == len(tensors) and all(ref() is each for ref, each in zip(self.tensors, tensors))
        return are_same and self.writes == _writes(tensors) and self.norms == norms


# What was digested last, by the first of the tensors.
_SEEN: MutableMapping[Tensor, _Seen] = WeakTensorKeyDictionary()


def _writes(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """Of all tensors of floats: one transfer for each device, since a model may be spread over several."""
    groups: dict[tuple[torch.device, bool], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            groups.setdefault((tensor.device, tensor.element_size() < 4), []).append(tensor.detach())
    # Half types have so few digits that hardly any change would show in a norm of their own type.
    found = [torch._foreach_norm(group, 2, torch.float32 if half else None) for (_, half), group in groups.items()]
    return [norm for group in found for norm in torch.stack(group).tolist()]


def _is_counted(tensor: Tensor) -> bool:
    """Whether a tensor is on a device where it pays to look whether it was written to, and whether that can be seen."""
    return (
        not is_lazy(tensor)
        and is_async_device(tensor.device)
        and tensor.layout == torch.strided
        and not tensor.is_inference()
        and not tensor.is_complex()
        and (tensor.element_size() > 1 or not tensor.is_floating_point())  # floats of 8 bits have no norm
    )


def _digest_of_bits(tensors: Sequence[Tensor]) -> str:
    shapes = []
    columns: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        shapes.append("not initialized" if is_lazy(tensor) else (tuple(tensor.shape), str(tensor.dtype)))
        for bits in () if is_lazy(tensor) or tensor.numel() == 0 else _bits(tensor.detach()):
            # Without a type of its own a sum of integers would first copy them all to int64.
            kind = torch.int64 if bits.dtype == torch.int64 else torch.int32
            inner = tuple(range(1, bits.dim()))
            of_bits = columns.setdefault((bits.device, kind), [])
            of_bits.append(bits.sum(inner, dtype=kind) if inner else bits.to(kind))
            if inner:  # negating an even number of a row's entries keeps its sum
                of_bits.append(bits[(slice(None),) + (0,) * len(inner)].to(kind))
    numbers = [torch.cat(of_bits).cpu().numpy().tobytes() for of_bits in columns.values()]
    return digest(repr(shapes).encode(), *numbers)


def _bits(tensor: Tensor) -> list[Tensor]:
    """A tensor's storage as integers of one dimension or more: a view, where the tensor is dense."""
    if tensor.layout != torch.strided:
        sparse = tensor.to_sparse_coo().coalesce()
        return [*_bits(sparse.indices()), *_bits(sparse.values())]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return [torch.atleast_1d(tensor.view(_BITS[tensor.element_size()]))]


# ------------------------------------------------------------------------------ models


def kept_buffers(module: nn.Module) -> list[Tensor]:
    """A module's own buffers that shape its outputs and outlast a pass.

    In training mode batch normalization does not use its running statistics, and every pass changes
    them; buffers that are not saved with the model are caches.
    """
    if module.training:
        return []
    passing = getattr(module, "_non_persistent_buffers_set", ())
    return [buffer for name, buffer in module._buffers.items() if buffer is not None and name not in passing]


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process has a part of a tensor of its own."""
    return type(tensor).__name__ in ("DTensor", "FlatParameter")


def own_parameters(module: nn.Module) -> list[Tensor]:
    """A module's parameters, without those of its submodules; ``parameters()`` takes ten times as long to say."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


# --------------------------------------------------------------------------- functions


def digest_of_callable(function: Any) -> str:
    """A function by its code and all it refers to, a module by its settings and weights, an object by type and state.

    Installed functions are known by their names, for their code changes with versions. Of an object
    that does not say what it consists of (no pickling) the type and its methods count. Devices do not count.
    """
    return digest(repr(_description(function, {})).encode())


def is_device(name: str) -> bool:
    """Whether a text names a device: each of several processes has one of its own."""
    return _DEVICE.fullmatch(name) is not None


def _description(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """Nested tuples of plain values that are equal for equal things, in any process.

    ``seen`` numbers, and keeps alive, what was described before: things may hold each other.
    """
    describe = functools.partial(_description, seen=seen)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"
    # What cannot be changed may be one object or several equal ones, and is described each time.
    if isinstance(value, torch.device) or (isinstance(value, str) and is_device(value)):
        return ("device",)
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        return kind, repr(value)
    if isinstance(value, ModuleType):
        return kind, value.__name__
    if isinstance(value, type):
        return kind, name
    if isinstance(value, tuple):
        return (kind, *map(describe, value))
    if isinstance(value, frozenset):
        return (kind, *sorted(map(describe, value), key=repr))
    if isinstance(value, CodeType):
        return kind, value.co_code, value.co_names, value.co_varnames, describe(value.co_consts)
    if id(value) in seen:
        return kind, "number", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    if isinstance(value, list):
        return (kind, *map(describe, value))
    if isinstance(value, set):
        return (kind, *sorted(map(describe, value), key=repr))
    if isinstance(value, dict):
        return (kind, *sorted(((describe(key), describe(item)) for key, item in value.items()), key=repr))
    if isinstance(value, Tensor):
        return kind, digest_of_tensors([value])
    if isinstance(value, nn.Module):
        return _description_of_module(value, describe)
    if isinstance(value, functools.partial):
        return kind, describe(value.func), describe(value.args), describe(value.keywords)
    if isinstance(value, MethodType):
        return kind, describe(value.__func__), describe(value.__self__)
    if hasattr(value, "_torchdynamo_orig_callable"):  # compiled
        return describe(value._torchdynamo_orig_callable)
    if isinstance(value, FunctionType):
        code = None if is_installed(value.__code__) else value.__code__
        return kind, name, describe(code), *((called, describe(referred)) for called, referred in references(value))
    if isinstance(value, torch.jit.ScriptFunction):
        return kind, value.code
    if isinstance(value, BuiltinFunctionType):
        return kind, name, describe(value.__self__)
    if hasattr(value, "__wrapped__"):  # a cache around a function, say
        return kind, describe(value.__wrapped__)
    return kind, name, *map(describe, _state(value)), *map(describe, methods_of(type(value)))


def _description_of_module(module: nn.Module, describe: Callable[[Any], Any]) -> Any:
    if is_wrapper(module):
        (inside,) = module.children()
        return describe(inside)
    return (
        f"{type(module).__module__}.{type(module).__qualname__}",
        module.training,
        describe(own_settings(module)),
        digest_of_tensors([*own_parameters(module), *kept_buffers(module)]),
        *((name, describe(child)) for name, child in module.named_children()),
    )


def own_settings(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes but for those that its passes store, such as counters, caches and the last outputs."""
    code = [each for method in methods_of_passes(module) for each in dis.get_instructions(method)]
    stored = {each.argval for each in code if each.opname == "STORE_ATTR"}
    return {name: value for name, value in vars(module).items() if name not in _OF_ALL_MODULES and name not in stored}


def methods_of(kind: type) -> Iterator[FunctionType]:
    """The methods that a user's classes define: two classes of one name may differ in them."""
    for each in kind.__mro__:
        for _, method in sorted(vars(each).items()):
            if isinstance(method, FunctionType) and not is_installed(method.__code__):
                yield method


def _state(value: Any) -> tuple[Any, ...]:
    """What pickle would keep of an object; nothing of one that cannot be pickled, for whatever reason."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:
        return ()
    if isinstance(reduced, str):
        return (reduced,)
    # Then constructor, arguments, state and, as iterators, the items of lists and mappings.
    return tuple(part if part is None or index < 3 else list(part) for index, part in enumerate(reduced[:5]))
