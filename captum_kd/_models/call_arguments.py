"""The arguments of a model's call: their names, and the token mask among them."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from torch import Tensor, nn

from captum_kd._models.reachable import is_wrapper
from captum_kd._utils.inputs import ATTENTION_MASK, ModelInputs, as_token_mask, is_ids
from captum_kd._utils.warnings import warn_user


def with_named_mask(forward_func: Callable[..., Any], inputs: ModelInputs, args: tuple[Any, ...]) -> ModelInputs:
    """The inputs with the mask that the model receives as ``attention_mask``, if they have no token mask.

    Raises:
        ValueError: an attention mask with other axes than (N, T).
    """
    if inputs.token_mask is not None:
        return inputs
    if isinstance(forward_func, nn.Module) and len(inputs) == 1 and not args:  # reading a signature takes time
        return inputs
    if inputs.names is not None:
        mask = inputs.by_name(ATTENTION_MASK)
    else:
        try:
            bound = signature_of(forward_func).bind(*inputs, *args)
        except (TypeError, ValueError):  # the call itself raises a better error
            return inputs
        bound.apply_defaults()  # a partial holds its mask there
        mask = bound.arguments.get(ATTENTION_MASK)
        if mask is None:
            _warn_of_unnamed_mask((*inputs, *args))
    if not isinstance(mask, Tensor):
        return inputs
    if mask.dim() != 2:
        raise ValueError(
            f"{ATTENTION_MASK} has shape {tuple(mask.shape)} and does not show which tokens are padding. Pass token_mask=, "
            "(N, T) with True for tokens and False for padding."
        )
    return inputs.with_mask(as_token_mask(mask, len(inputs[0]), ATTENTION_MASK))


def _warn_of_unnamed_mask(values: tuple[Any, ...]) -> None:
    """Warns if a value looks like a mask of sentences that are padded at their end."""
    for place, value in enumerate(values):
        others = [each for each in (*values[:place], *values[place + 1 :]) if isinstance(each, Tensor)]
        if not is_ids(value) or all(each.shape[:2] != value.shape for each in others):
            continue
        kept = value != 0
        is_mask = kept[:, 0].all() & (kept == value).all() & ~kept.all() & (kept[:, 1:] <= kept[:, :-1]).all()
        if bool(is_mask):
            warn_user(
                f"An input of shape {tuple(value.shape)} holds ones followed by zeros, as masks of padded sentences do. It is "
                f"not called {ATTENTION_MASK}, so padding counts as tokens. If it is a mask, pass it as token_mask= too."
            )


def signature_of(forward_func: Callable[..., Any]) -> inspect.Signature:
    """The arguments of a function, or of a module's forward method."""
    return inspect.signature(_unwrapped(forward_func))


def _unwrapped(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the names of the arguments, inside of compiling and data-parallel wrappers and partials."""
    if isinstance(forward_func, functools.partial):
        return functools.partial(_unwrapped(forward_func.func), *forward_func.args, **forward_func.keywords)
    if not isinstance(forward_func, nn.Module):
        return forward_func
    return _unwrapped(next(forward_func.children())) if is_wrapper(forward_func) else forward_func.forward


def check_names(forward_func: Callable[..., Any], inputs: ModelInputs, args: tuple[Any, ...]) -> None:
    """Raises a ValueError for a mapping with keys that are no arguments of the model, or that it also gets by position."""
    if inputs.names is None:
        return
    try:
        signature = signature_of(forward_func)
    except (TypeError, ValueError):  # callables without a signature
        return
    name, parameters = getattr(forward_func, "__name__", type(forward_func).__name__), signature.parameters
    unknown = [name for name in inputs.names if name not in parameters]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        raise ValueError(
            f"inputs has the key {unknown[0]!r}, but {name} takes {', '.join(map(repr, parameters))}. Leave the key out of the "
            "mapping, or give each model its own inputs: {'student': {...}, 'base': {...}, 'teacher': {...}}."
        )
    try:
        signature.bind(*args, **dict(zip(inputs.names, inputs)))
    except TypeError as error:
        raise ValueError(
            f"inputs is a mapping with the keys {', '.join(map(repr, inputs.names))}, with which {name} cannot be called: "
            f"{error}. Put all arguments of the model into the mapping, those of additional_forward_args too."
        ) from None
