"""A check of the ids that the embeddings of a model receive.

Ids of another tokenizer may be out of range, which PyTorch reports without a name on a CPU and by a crash of the device on a GPU.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn

from captum_kd._models.reachable import modules_of
from captum_kd._utils.inputs import ModelInputs, is_ids
from captum_kd._utils.warnings import warn_user


@contextmanager
def checked_ids(forward_func: Callable[..., Any], inputs: tuple[Any, ...]) -> Iterator[None]:
    """Checks all ids that embeddings receive in this context.

    Raises:
        ValueError: ids out of range, or ids that are no integers.

    Warns:
        UserWarning: ids with the padding index of their embedding, but no token mask.
    """
    # Ids, or ids to which a tool has added noise.
    may_be_ids = any(isinstance(value, Tensor) and value.dim() <= 2 for value in inputs)
    found = [module for module in modules_of(forward_func) if isinstance(module, nn.Embedding)] if may_be_ids else []
    named = forward_func.named_modules() if found and isinstance(forward_func, nn.Module) else ()
    names = {module: name for name, module in named}
    own = [value for value in inputs if is_ids(value)]
    has_mask = isinstance(inputs, ModelInputs) and inputs.token_mask is not None

    def check(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(module, nn.Embedding) and isinstance(args[0], Tensor) and args[0].numel():
            where = f"the embedding {names.get(module, '')!r}" if names.get(module) else "an embedding"
            _check(args[0], module, where, any(args[0] is value or _equal(args[0], value) for value in own), has_mask)

    handles = [module.register_forward_pre_hook(check) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _equal(ids: Tensor, value: Tensor) -> bool:
    return ids.shape == value.shape and ids.dtype == value.dtype and torch.equal(ids, value.to(ids.device))


def _check(ids: Tensor, module: nn.Embedding, where: str, is_input: bool, has_mask: bool) -> None:
    if ids.is_floating_point():
        raise ValueError(
            f"{where[0].upper()}{where[1:]} receives floating point numbers instead of ids. Noise cannot be added to ids, as "
            "NoiseTunnel does: add it behind the embedding layer. Pass noise as the input of a model that adds it to its own "
            "embeddings of the ids in additional_forward_args."
        )
    low, high = map(int, torch.aminmax(ids))
    if low < 0 or high >= module.num_embeddings:
        number = low if low < 0 else high
        way_out = (
            "The ids may come from the tokenizer of another model: pass each model its own inputs, {'student': ..., 'base': ..., "
            "'teacher': ...}."
            if is_input
            else "If it numbers positions, the sequences are longer than the model allows: truncate them."
        )
        raise ValueError(
            f"{where[0].upper()}{where[1:]} has {module.num_embeddings} rows, but receives the id {number}. {way_out}"
        )
    if is_input and not has_mask and module.padding_idx is not None and bool((ids == module.padding_idx).any()):
        warn_user(
            f"The inputs hold the padding id of {where}, {module.padding_idx}, but there is no token mask, so padding counts as "
            f"tokens. Pass token_mask=(ids != {module.padding_idx})."
        )
