"""Checks of single arguments: booleans, integers, numbers, options, strings, dense tensors.

All functions use these checks, so that they accept the same types (numpy's numbers too) and raise the same errors. Numbers
are returned as plain Python ones, since settings are written into reports.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

MOST = 2**63 - 1
"""The largest integer of torch."""


def short_repr(value: object) -> str:
    """A short description of a value, for messages."""
    if isinstance(value, Tensor) and value.is_nested:  # some have no shape
        return f"a nested tensor of {value.dtype}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, (str, bytes, numbers.Number, type(None), list, tuple, dict, set, range)):
        return reprlib.repr(value)
    return type(value).__name__


def check_bool(value: object, argument: str) -> bool:
    """True or False, also as 1 and 0.

    Raises:
        TypeError: anything else.
    """
    is_flag = type(value).__name__ in ("bool_", "bool") or isinstance(value, numbers.Integral)
    if not is_flag or value not in (0, 1):
        raise TypeError(f"{argument} must be True or False, got {short_repr(value)}.")
    return bool(value)


def check_int(value: object, argument: str, least: int = 0, *, or_none: bool = False) -> int:
    """A whole number from ``least`` to 2**63 - 1.

    Args:
        or_none (bool): say in the message that None is allowed too; the caller must accept None itself.

    Raises:
        ValueError: anything else; True and False too.
    """
    if type(value) is bool or not isinstance(value, numbers.Integral) or int(value) < least:
        kind = {0: "a non-negative integer", 1: "a positive integer"}.get(least, f"an integer of at least {least}")
        raise ValueError(f"{argument} must be {kind}{' or None' * or_none}, got {short_repr(value)}.")
    if int(value) > MOST:
        raise ValueError(f"{argument} must be below 2**63, got {short_repr(value)}.")
    return int(value)


def check_float(value: object, argument: str, expected: str, low: float, high: float, *, closed: bool = False) -> float:
    """A real number between two ends.

    Args:
        expected (str): description of valid values, for the message.
        low, high (float): the ends of the interval; may be infinite, but the number must be finite.
        closed (bool): the ends are valid values.

    Raises:
        TypeError: not a number.
        ValueError: a number outside the interval, or NaN.
    """
    if type(value) is bool or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} must be {expected}, got {short_repr(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    inside = low <= number <= high if closed else low < number < high
    if not (inside and math.isfinite(number)):
        raise ValueError(f"{argument} must be {expected}, got {short_repr(value)}.")
    return number


def check_share(value: object, argument: str = "keep") -> float:
    """A share of an image's pixels or of a text's tokens, inside (0, 1)."""
    return check_float(value, argument, "a share between 0 and 1, both excluded", 0, 1)


def check_noise(value: object, argument: str = "noise") -> float:
    """A standard deviation that float32 can hold."""
    most = torch.finfo(torch.float32).max
    return check_float(value, argument, "a standard deviation, 0 or a positive number", 0, most, closed=True)


def check_choice(value: object, argument: str, options: Sequence[str]) -> None:
    """Raises a ValueError unless the value is one of the options."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(map(repr, options[:-1]))
        raise ValueError(f"{argument} must be {listed} or {options[-1]!r}, got {short_repr(value)}.")


def check_str(value: object, argument: str, *, or_none: bool = True) -> Optional[str]:
    """A string, or None if that is allowed.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, str) or (value is None and or_none):
        return value
    raise TypeError(f"{argument} must be a text (str){' or None' * or_none}, got {short_repr(value)}.")


def check_texts(value: object, argument: str) -> None:
    """Raises a TypeError for anything but lists of strings. A single string is none: it would be read letter by letter."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{argument} must be a list of texts (str), got {short_repr(value)}.")


def check_mapping(value: Any, argument: str, expected: str) -> None:
    """Raises a TypeError for anything but mappings."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be {expected}, got {short_repr(value)}.")


def check_generator(value: object, argument: str = "generator") -> None:
    """Raises a TypeError for anything but torch's generators and None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{argument} must be a torch.Generator or None, got {short_repr(value)}.")


def check_dense(value: Tensor, argument: str) -> None:
    """Raises a TypeError for tensors that are sparse, nested, quantized or on "meta"."""
    kind = None
    if value.is_nested:
        kind, way_out = "nested", "convert it first, by to_padded_tensor(0.0)"
    elif value.layout != torch.strided:
        kind, way_out = str(value.layout).removeprefix("torch."), "convert it first, by to_dense()"
    elif value.is_quantized:
        kind, way_out = "quantized", "convert it first, by dequantize()"
    elif value.is_meta:
        kind, way_out = "without values (device 'meta')", "make it on a device that holds values"
    if kind is not None:
        shape = "" if value.is_nested else f" of shape {tuple(value.shape)}"  # some nested tensors have none
        raise TypeError(f"{argument} must be an ordinary dense tensor, got one{shape} that is {kind}; {way_out}.")


def check_features(value: Any, argument: str) -> None:
    """Raises a TypeError for anything but ordinary tensors of real numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a tensor of features (N, ...), got {short_repr(value)}.")
    check_dense(value, argument)
    check_untransformed(value, argument)
    if value.is_complex():
        raise TypeError(f"{argument} must be real, got {short_repr(value)}; take torch.view_as_real() of it.")


def is_transformed(value: Tensor) -> bool:
    """Whether a tensor is inside one of torch.func's transforms, in which its values cannot be read."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(value))


def check_untransformed(value: Tensor, argument: str) -> None:
    """Raises a TypeError for tensors inside one of torch.func's transforms."""
    if is_transformed(value):
        raise TypeError(
            f"{argument} must be an ordinary tensor, got one inside a transform of torch.func (vmap, grad, ...); make the "
            "call outside of it."
        )
