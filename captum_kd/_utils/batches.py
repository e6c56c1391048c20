"""Conversion of the batches of a DataLoader to inputs and labels on a device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional

import torch
from captum._utils.progress import progress
from torch import Tensor, nn

from captum_kd._utils.arguments import as_labels
from captum_kd._utils.inputs import IDS, LABEL_KEYS, InputsByModel, ModelInputs, as_inputs_by_model, is_ids
from captum_kd._utils.validation import short_repr

Unpack = Callable[[Any], tuple[Any, Any]]

INPUTS_KEY = "pixel_values"

WAY_OUT = "Pass unpack=, a function from a batch to the pair (inputs, labels)."
WITHOUT = "compare_transfer can do without labels if it gets comparisons=Comparisons(labels=False)."


class Batch(NamedTuple):
    """The inputs of a batch, and its labels as int64 on the CPU, if it has any: (N,), or (N, T) for tokens."""

    inputs: InputsByModel
    labels: Optional[Tensor]


def unpack_batch(
    batch: Any,
    unpack: Optional[Unpack] = None,
    token_mask: Optional[Callable[[Any], Tensor]] = None,
    labeled: Optional[bool] = True,
    by_token: bool = False,
) -> Batch:
    """Inputs and labels of a loader's batch.

    Args:
        batch (Any): a tuple or list (inputs, labels, ...), or a mapping with ``labels`` (or ``label``), as Hugging Face
            datasets yield it. Images of the key ``pixel_values`` are the only input; else all other keys are inputs by name.
        unpack (callable, optional): from a batch of any other kind to (inputs, labels).
        token_mask (callable, optional): from the inputs to their token mask (N, T).
        labeled (bool): False for batches without labels: inputs alone, (inputs, None), or mappings, whose labels are not read.
            None for batches with or without labels, which are not read.
        by_token (bool): True for labels of tokens, (N, T).

    Raises:
        TypeError: a batch without labels, or with labels if it should have none; inputs that are not tensors; labels that are not
            integers; an ``unpack`` that does not return a pair.
        ValueError: a mapping without the keys, no examples, or another number of labels than inputs.
    """
    if unpack is not None:
        pair = unpack(batch)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"unpack must return the pair (inputs, labels), got {_kind(pair)}.")
        inputs, labels = pair
    elif isinstance(batch, Mapping):
        inputs, labels = _from_mapping(batch, labeled)
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        inputs, labels = batch[0], batch[1]
    elif not labeled and (isinstance(batch, Tensor) or isinstance(batch, (tuple, list)) and batch):
        inputs, labels = batch if isinstance(batch, Tensor) else batch[0], None
    else:
        raise TypeError(
            f"The loader yields {_kind(batch)}, in which no labels can be found; batches are pairs (inputs, labels) "
            f"or mappings with {LABEL_KEYS[0]!r}. {WAY_OUT} {WITHOUT}"
        )
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs
    mask = None if token_mask is None else token_mask(inputs)
    values = as_inputs_by_model(inputs, "The inputs of a batch", mask)
    if labeled:
        return Batch(values, (_token_labels if by_token else _labels)(labels, len(values.student[0])))
    if labels is not None and labeled is not None:
        raise TypeError(
            "The loader yields pairs whose second part is not None, but there are to be no labels (labels=False). Pass "
            "unpack=lambda batch: (batch[0], None) if it holds labels, or unpack=lambda batch: (tuple(batch), None) if it is an "
            "input of the models."
        )
    return Batch(values, None)


def _from_mapping(batch: Mapping[Any, Any], labeled: Optional[bool]) -> tuple[Any, Any]:
    label_key = next((key for key in LABEL_KEYS if key in batch), None)
    if label_key is None and labeled:
        raise ValueError(
            f"The loader yields mappings with the keys {sorted(map(str, batch))}, without labels; expected {LABEL_KEYS[0]!r} (or "
            f"{LABEL_KEYS[1]!r}). {WAY_OUT} {WITHOUT}"
        )
    has_images = INPUTS_KEY in batch and IDS not in batch
    return batch[INPUTS_KEY] if has_images else batch, batch[label_key] if labeled else None


def _labels(labels: Any, n: int) -> Tensor:
    if labels is None:
        raise TypeError(f"The loader yields None for labels. {WAY_OUT} {WITHOUT}")
    try:
        found = as_labels(labels, n, "labels")
    except (TypeError, ValueError) as error:
        raise type(error)(f"The labels of a batch do not fit: {error} {WAY_OUT}") from None
    assert found is not None
    # as_labels accepts one label for all inputs, as Captum does for targets; a batch needs one label per input.
    given = labels.numel() if isinstance(labels, Tensor) else getattr(labels, "size", None)
    if given is None:
        given = len(labels) if hasattr(labels, "__len__") else 1
    if given != n:
        raise ValueError(
            f"The loader yields {given} label(s) for {n} inputs; one for each is expected. (A Dataset yields single "
            f"examples: put it into a DataLoader.) {WAY_OUT}"
        )
    return found


def _token_labels(labels: Any, n: int) -> Tensor:
    if not is_ids(labels) or len(labels) != n:
        raise ValueError(
            f"TokenPositions needs one integer label for each token, ({n}, T), got labels {short_repr(labels)}. Pass "
            "comparisons=Comparisons(labels=False) to compare tokens without labels, or leave out positions= to compare "
            "sentences."
        )
    found: Tensor = labels.long().cpu()
    return found


def to_device(value: Any, device: Optional[torch.device]) -> Any:
    """Moves the tensors of a tensor, tuple, list or mapping to a device; None moves nothing."""
    if device is None:
        return value
    if isinstance(value, (Tensor, ModelInputs)):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return value


def length_of(data: Any) -> Optional[int]:
    """``len(data)``, or None if it raises. Lightning's loaders raise a RuntimeError before ``iter()``."""
    try:
        return len(data)
    except Exception:
        return None


def batches_of(data: Iterable[Any], desc: str, show_progress: bool) -> Iterator[Any]:
    """The batches of a loader, with an optional progress bar."""
    batches = iter(data)
    return iter(progress(batches, desc=desc, total=length_of(data))) if show_progress else batches


def device_of(model: Any) -> Optional[torch.device]:
    """The device of a module's first parameter or buffer; None if it has neither, and for plain functions."""
    if not isinstance(model, nn.Module):
        return None
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__}"
