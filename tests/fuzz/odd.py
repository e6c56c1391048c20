"""Values that arguments are not made for, and values at the edge of what they are made for."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["FIXED", "Opaque", "TheModelsOwnError", "any_tensor", "odd_values"]


class TheModelsOwnError(Exception):
    """A model was given what it cannot take. Such errors are its own, and pass through as they are."""


class Opaque:
    """Of no use as any argument."""

    def __repr__(self) -> str:
        return "Opaque()"


class Unreadable(Opaque):
    """Says nothing of itself: error messages must not depend on it."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Taking:
    """A class that can be called with anything, to no avail."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class Refusing(nn.Linear):
    """A model that takes nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TheModelsOwnError


FIXED: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "5": lambda: 5,
    "10**30": lambda: 10**30,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "1j": lambda: 1j,
    "half": lambda: Fraction(1, 2),
    "np.float32": lambda: np.float32(0.5),
    "np.int64": lambda: np.int64(2),
    "empty text": lambda: "",
    "text": lambda: "no such thing",
    "bytes": lambda: b"bytes",
    "empty list": lambda: [],
    "ints": lambda: [1, 2, 3],
    "texts": lambda: ["a", "b"],
    "Nones": lambda: [None, None],
    "ragged": lambda: [[1, 2], [3]],
    "empty tuple": lambda: (),
    "pair": lambda: (1, 2),
    "odd pair": lambda: (Opaque(), Opaque()),
    "range": lambda: range(8),
    "set": lambda: {1, 2},
    "iterator": lambda: iter([1, 2]),
    "empty dict": lambda: {},
    "texts by text": lambda: {"a": "b"},
    "numbers by number": lambda: {1: 2},
    "opaque": Opaque,
    "unreadable": Unreadable,
    "class": lambda: Taking,
    "function": lambda: lambda *args, **kwargs: None,
    "module": lambda: Refusing(2, 2),
    "numpy array": lambda: np.ones((8, 1, 3, 3)),
    "texts in numpy": lambda: np.array(["a", "b"]),
    "tensors": lambda: [torch.ones(8, 1, 3, 3), torch.ones(8, 1, 3, 3)],
    "tuple of tensors": lambda: (torch.ones(8, 1, 3, 3), torch.ones(3)),
    "tensor by text": lambda: {"a": torch.ones(8, 1, 3, 3)},
    "scalar tensor": lambda: torch.tensor(0.5),
    "int tensor": lambda: torch.arange(8),
    "empty tensor": lambda: torch.empty(0),
    "no rows": lambda: torch.empty(0, 3, 12, 12),
    "no channels": lambda: torch.empty(8, 0, 12, 12),
    "no pixels": lambda: torch.empty(8, 3, 0, 12),
    "nan tensor": lambda: torch.full((8, 1, 3, 3), math.nan),
    "nan images": lambda: torch.full((8, 3, 12, 12), math.nan),
    "complex tensor": lambda: torch.ones(8, 3, 12, 12, dtype=torch.complex64),
    "bool tensor": lambda: torch.ones(8, 3, 12, 12, dtype=torch.bool),
    "sparse tensor": lambda: torch.ones(8, 3, 12, 12).to_sparse(),
    "sparse matrix": lambda: torch.eye(8).to_sparse_csr(),
    "meta tensor": lambda: torch.ones(8, 3, 12, 12, device="meta"),
    "quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(8, 3, 12, 12), 0.1, 0, torch.qint8),
}

DTYPES = [
    torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64,
]  # fmt: skip


@st.composite
def any_tensor(draw: Any) -> Tensor:
    """Sizes 0 to 5 (and the 8 rows that most cases have), any dtype, any layout in memory, any values."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 12]), max_size=5))
    if draw(st.booleans()) and shape:
        shape[0] = 8
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 5))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    special = draw(st.sampled_from([None, None, None, "zero", "one", "nan", "inf", "-inf", "huge", "tiny", "integers"]))
    if special in ("nan", "inf", "-inf") and values.numel():
        values.view(-1)[draw(st.integers(0, values.numel() - 1))] = float(special)
    elif special is not None and special not in ("nan", "inf", "-inf"):
        values = {
            "zero": values * 0,
            "one": values * 0 + 1,
            "huge": values * 1e30,
            "tiny": values * 1e-30,
            "integers": (values * 3).round(),
        }[special]
    if dtype in (torch.uint8, torch.int32, torch.int64):
        values = values.nan_to_num(0, 5, 0).clamp(-5, 5)
        values = values.abs() if dtype == torch.uint8 else values
    tensor = values.to(dtype)
    layout = draw(st.sampled_from(["contiguous", "transposed", "strided", "expanded", "sparse", "subclass"]))
    if layout == "transposed" and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided" and tensor.dim():
        tensor = tensor.repeat_interleave(2, 0)[::2]
    elif layout == "expanded" and tensor.dim() and tensor.shape[0]:
        tensor = tensor[:1].expand(tensor.shape)
    elif layout == "sparse" and tensor.dim() and draw(st.booleans()):
        tensor = tensor.to_sparse()
    elif layout == "subclass":
        tensor = tensor.as_subclass(nn.Parameter) if tensor.is_floating_point() else tensor
    if tensor.is_floating_point() and tensor.is_leaf and tensor.layout == torch.strided and draw(st.booleans()):
        tensor = tensor.clone().requires_grad_()
    return tensor


def odd_values() -> st.SearchStrategy[Any]:
    return st.one_of(
        any_tensor(),
        st.sampled_from(sorted(FIXED)).map(lambda name: FIXED[name]()),
        st.integers(-3, 12),
        st.floats(allow_nan=True, allow_infinity=True),
        st.text(max_size=4),
        st.lists(st.one_of(st.integers(-1, 5), st.floats(0, 1), st.text(max_size=2), st.none()), max_size=9),
        st.dictionaries(st.text(max_size=2), st.one_of(st.integers(0, 3), any_tensor()), max_size=3),
        st.tuples(any_tensor(), any_tensor()),
    )
