"""Checks of the inputs, labels and layers that users pass, and their conversion to one form."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from os import PathLike
from typing import Any, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from captum_kd._utils.inputs import ModelInputs, Rows, rows_of
from captum_kd._utils.validation import check_int, check_bool, check_dense, check_mapping, check_untransformed, short_repr

_GRAD_KWARGS = ("retain_graph", "create_graph", "only_inputs", "allow_unused", "materialize_grads")

Target = Union[None, int, Sequence[int], Tensor]


def check_callable(value: object, argument: str) -> None:
    """Raises a TypeError for transforms and other values that cannot be called."""
    if not callable(value):
        raise TypeError(f"{argument} must be callable (a function), got {type(value).__name__}.")


def check_model(value: object, argument: str) -> None:
    """Raises a TypeError for models that cannot be called."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise TypeError(f"{argument} must be a model, got the class {value.__name__}; pass an instance of it.")
    if type(value).__name__ == "ExportedProgram":
        raise TypeError(f"{argument} must be a model, got an ExportedProgram; pass torch.export.unflatten() of it.")
    if isinstance(value, nn.Module):
        _check_weights(value, argument)
    if callable(value):
        return
    way_out = ""
    if isinstance(value, (str, bytes, PathLike)):
        way_out = " To load a file, build the model first, then call model.load_state_dict(torch.load(path))."
    elif isinstance(value, Mapping):
        way_out = " To load weights, build the model first, then call model.load_state_dict(weights)."
    raise TypeError(f"{argument} must be callable (a model or a function), got {type(value).__name__}.{way_out}")


def _check_weights(model: nn.Module, argument: str) -> None:
    """Raises a ValueError for a model whose weights have no values."""
    modules = list(model.modules())
    if any(hasattr(module, "_hf_hook") for module in modules):
        return  # accelerate loads weights on demand
    for module in modules:
        if any(tensor is not None and tensor.is_meta for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise ValueError(
                f"{argument} has weights without values (device 'meta') in {type(module).__name__}; load them first, by "
                "model.to_empty(device=...) and load_state_dict(), or load_state_dict(..., assign=True)."
            )


def as_forward_args(additional_forward_args: Any) -> tuple[Any, ...]:
    """Further arguments as a tuple, by Captum's convention: None is no argument, anything but a tuple is one argument."""
    if additional_forward_args is None:
        return ()
    return additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)


def take_rows(values: tuple[Any, ...], part: Rows, n: int) -> tuple[Any, ...]:
    """Rows of the tensors that have one for each of n examples, and of their token mask; everything else as it is."""
    return values.rows(part, n) if isinstance(values, ModelInputs) else tuple(rows_of(value, part, n) for value in values)


def as_labels(target: Any, n: int, argument: str = "target") -> Optional[Tensor]:
    """Labels as an (n,) tensor of int64 on the CPU, a copy; None stays None.

    Args:
        target: (n,) or (n, 1) integers of any type, as a tensor, an array or a sequence; or one label for all inputs.
        n (int): number of inputs.
        argument (str): the labels' name in messages.

    Raises:
        TypeError: labels that are not integers.
        ValueError: another number of labels than inputs, negative labels, or labels beyond int64.
    """
    if target is None:
        return None
    values = target if isinstance(target, Tensor) else _label_tensor(target, argument)
    check_dense(values, argument)
    check_untransformed(values, argument)
    name = argument if isinstance(target, Tensor) else f"torch.as_tensor({argument})"
    if values.is_floating_point() or values.is_complex():
        raise TypeError(
            f"{argument} must hold integer class labels, got {short_repr(target)}; {_way_to_labels(values, name)}"
        )
    labels = values.detach().to("cpu", torch.long, copy=True)
    if labels.numel() == 1:
        labels = labels.reshape(1).expand(n)
    elif labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1 or labels.shape[0] != n:
        rows = f" For rows with one number per class, pass {name}.argmax(1)." * (labels.dim() == 2 and len(labels) == n)
        raise ValueError(
            f"{argument} has shape {tuple(labels.shape)} for {n} inputs; pass one label per input, ({n},).{rows}"
        )
    if values.dtype == getattr(torch, "uint64", None) and bool((labels < 0).any()):
        raise ValueError(f"{argument} must hold labels below 2**63, got {short_repr(target)}.")
    check_not_negative(labels, argument)
    return labels


def check_not_negative(labels: Tensor, argument: str = "target") -> None:
    """Raises a ValueError for negative labels, which other libraries use for inputs without a label."""
    negative = labels < 0
    if bool(negative.any()):
        place = int(negative.nonzero()[0])
        raise ValueError(
            f"{argument} holds the negative label {int(labels[place])} (input {place}). Classes are numbered from 0. "
            "Negative labels often mean \"no label\" (-1, -100), which is not a class. Leave them out, inputs and labels "
            "alike (keep = labels >= 0), or number the classes from 0."
        )


def _label_tensor(target: Any, argument: str) -> Tensor:
    """Arrays, sequences and single values as a tensor."""
    plain = target.tolist() if hasattr(target, "tolist") else target  # arrays and numbers of numpy and similar packages
    items: list[Any] = list(plain) if isinstance(plain, (list, tuple, range)) else [plain]
    if all(isinstance(item, (list, tuple)) and len(item) == 1 for item in items):
        items = [item[0] for item in items]  # (n, 1)
    try:
        return torch.tensor([operator.index(item) for item in items], dtype=torch.long, device="cpu")
    except (ValueError, OverflowError, RuntimeError):  # RuntimeError in older versions of torch
        raise ValueError(f"{argument} must hold labels that fit into 64 bits, got {short_repr(target)}.") from None
    except TypeError:
        pass
    try:
        values = torch.tensor(items, device="cpu")
        if values.is_floating_point() or values.dim() < 2 or plain is not target:
            return values
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise TypeError(
        f"{argument} must hold class labels, an int, a list of ints or an (N,) tensor of integers, "
        f"got {short_repr(target)}. (Captum's tuples that select from a multi-dimensional output do not apply: "
        "the labels say which inputs belong together, not which output to explain.)"
    )


def _way_to_labels(values: Tensor, name: str) -> str:
    """Advice on how to turn non-integer values into labels."""
    if values.dim() == 2 and values.shape[1] > 1:
        return (
            f"for one-hot rows, probabilities or logits (N, C), pass the class of each input, {name}.argmax(1). With "
            "class_embeddings, soft labels can be points: class_embeddings=rows with target=range(N)."
        )
    if values.is_complex():
        return "pass one class number per input."
    if not bool(torch.isfinite(values).all()):
        return "leave out inputs without a label (NaN)."
    if bool((values == values.round()).all()):
        return f"use {name}.long()."
    return (
        f"turn such numbers into classes first, for example ({name} > 0.5).long() for probabilities of two classes; .long() "
        "alone would truncate them."
    )


def check_batch_size(value: Optional[int], argument: str) -> None:
    """Raises unless the value is None or a positive integer."""
    if value is not None:
        check_int(value, argument, 1, or_none=True)


def as_grad_kwargs(grad_kwargs: Any) -> dict[str, bool]:
    """Keyword arguments of :func:`torch.autograd.grad` that can be used for one gradient of one output.

    Raises:
        TypeError: not a mapping of names to flags.
        ValueError: a name that does not exist, or would change the gradient's shape.
    """
    if grad_kwargs is None:
        return {}
    check_mapping(grad_kwargs, "grad_kwargs", "a dict of keyword arguments of torch.autograd.grad, or None")
    for name, value in grad_kwargs.items():
        if name not in _GRAD_KWARGS:
            raise ValueError(f"grad_kwargs may hold {', '.join(_GRAD_KWARGS)}; got {short_repr(name)}.")
        if value is not None:
            check_bool(value, f"grad_kwargs[{name!r}]")
    return dict(grad_kwargs)


def check_device_ids(device_ids: Any) -> None:
    """Raises a TypeError unless device_ids is None or a list of device numbers."""
    is_list = isinstance(device_ids, (list, tuple)) and all(type(each) is int and each >= 0 for each in device_ids)
    if device_ids is not None and not is_list:
        raise TypeError(f"device_ids must be a list of device numbers or None, got {short_repr(device_ids)}.")


def as_layers(value: Any, argument: str, length: Optional[int] = None) -> list[Any]:
    """A list of layers unchanged, or one layer repeated. If ``length`` is given, None may stand for a layer.

    Raises:
        TypeError: neither layer nor list.
        ValueError: an empty list or one of another length.
    """
    if isinstance(value, (str, nn.Module)) or (value is None and length is not None):
        return [value] * (length or 1)
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{argument} must be an nn.Module, a dotted name or a list of them, got {type(value).__name__}."
        )
    if not value:
        raise ValueError(f"{argument} is an empty list; pass at least one layer.")
    if length is not None and len(value) != length:
        raise ValueError(f"{argument} has {len(value)} entries for {length} layer(s); pass one for each.")
    return list(value)
