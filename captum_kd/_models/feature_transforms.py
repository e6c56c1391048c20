"""Transforms of a layer's output into the features between which distances are taken.

A feature transform receives a layer's output in canonical layout, (N, C, ...), and
returns (N, d). Any callable will do; these are provided.

If the inputs have a token mask, activations are 0 where it is False. A transform with a parameter ``token_mask`` receives the
mask (N, T) of activations (N, C, T).
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
from torch import Tensor

from captum_kd._models.call_arguments import signature_of
from captum_kd._models.cam import masked_mean
from captum_kd._utils.validation import check_dense, short_repr
from captum_kd._utils.warnings import warn_user

FeatureTransform = Callable[..., Tensor]


def global_average_pool(activations: Tensor, token_mask: Optional[Tensor] = None) -> Tensor:
    """Mean of each channel over all positions, or over the tokens of a mask.

    This is the default of UniCAM, as in the authors' maps, and of scores of text.

    Args:
        activations (Tensor): (N, C, ...) or (N, C).
        token_mask (Tensor, optional): (N, T) booleans, True for the tokens of (N, C, T) to average.
            Default: None, all positions

    Returns:
        Tensor: (N, C).

    Raises:
        TypeError, ValueError: not a dense floating point tensor of two dimensions or more.

    Example::

        >>> global_average_pool(torch.rand(8, 512, 7, 7)).shape
        torch.Size([8, 512])
    """
    _check_activations(activations)
    if token_mask is not None:
        _check_mask(token_mask, activations)
        return masked_mean(activations, token_mask)
    # Flattening first would copy activations in channels-last memory.
    return activations.mean(tuple(range(2, activations.dim()))) if activations.dim() > 2 else activations


def flatten(activations: Tensor) -> Tensor:
    """All channels at all positions.

    This is the default of the metrics for images, as in the authors' scores. Flattened sentences differ mostly by their lengths,
    so that the metrics average the tokens of text.

    Args:
        activations (Tensor): (N, C, ...).

    Returns:
        Tensor: (N, C * ...).

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`.

    Example::

        >>> flatten(torch.rand(8, 512, 7, 7)).shape
        torch.Size([8, 25088])
    """
    _check_activations(activations)
    return activations.flatten(1)


def flatten_to_unit_length(activations: Tensor) -> Tensor:
    """Flattened features scaled to unit length, as in the authors' FSS.

    An input whose activations are all zero stays at zero.

    Args:
        activations (Tensor): (N, C, ...).

    Returns:
        Tensor: (N, C * ...), rows of length 1.

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`.

    Example::

        >>> flatten_to_unit_length(torch.rand(8, 512, 7, 7)).norm(dim=1)  # eight times 1
    """
    return torch.nn.functional.normalize(flatten(activations), dim=1)


def first_token(activations: Tensor, token_mask: Optional[Tensor] = None) -> Tensor:
    """The first token: the class token of BERT and its kind.

    Args:
        activations (Tensor): (N, C, T) or (N, C). Tokens left out by ``prefix_tokens`` are not among these.
        token_mask (Tensor, optional): (N, T) booleans; the first token is the first one that is not masked. If the tokenizer's
            ``special_tokens_mask`` is among the inputs, that is the first word and not the class token; a warning says so.

    Returns:
        Tensor: (N, C).

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`; other axes.

    Example::

        >>> first_token(torch.rand(8, 768, 12)).shape
        torch.Size([8, 768])
    """
    return _token(activations, token_mask, "first_token", last=False)


def last_token(activations: Tensor, token_mask: Optional[Tensor] = None) -> Tensor:
    """The last token, which is the only one that has seen all others in a decoder such as GPT-2.

    Args:
        activations (Tensor): (N, C, T) or (N, C).
        token_mask (Tensor, optional): (N, T) booleans; the last token is the last one that is not masked, on whatever side
            padding is.

    Returns:
        Tensor: (N, C).

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`; other axes.

    Example::

        >>> last_token(torch.rand(8, 768, 12)).shape
        torch.Size([8, 768])
    """
    return _token(activations, token_mask, "last_token", last=True)


def _token(activations: Tensor, token_mask: Optional[Tensor], name: str, *, last: bool) -> Tensor:
    _check_activations(activations)
    if activations.dim() == 2:
        return activations
    if activations.dim() != 3:
        raise ValueError(
            f"{name} needs activations of tokens, (N, C, T), got {tuple(activations.shape)}; choose another feature_transform."
        )
    if token_mask is None:
        return activations[:, :, -1 if last else 0]
    _check_mask(token_mask, activations)
    if not last and not bool(token_mask[:, 0].any()):
        warn_user(
            "first_token takes the first token that is not left out, and the token in front of every input is left out. If this "
            "is the class token, leave special_tokens_mask out of the inputs; otherwise first_token takes the first word. If it "
            "is padding, ignore this warning."
        )
    places = token_mask.int()
    place = places.shape[1] - 1 - places.flip(1).argmax(1) if last else places.argmax(1)
    return activations[torch.arange(len(activations), device=activations.device), :, place]


def default_transform(is_text: bool) -> FeatureTransform:
    """The transform of scores."""
    return global_average_pool if is_text else flatten


def takes_mask(feature_transform: FeatureTransform) -> bool:
    """Whether a transform has a parameter ``token_mask``."""
    try:
        return "token_mask" in signature_of(feature_transform).parameters
    except (TypeError, ValueError):  # callables without a signature
        return False


def _check_mask(token_mask: Any, activations: Tensor) -> None:
    expected = (activations.shape[0], *activations.shape[2:])
    if not isinstance(token_mask, Tensor) or token_mask.dtype != torch.bool or tuple(token_mask.shape) != expected:
        raise ValueError(
            f"token_mask must be a tensor of booleans {expected} for activations {tuple(activations.shape)}, (N, T) for "
            f"(N, C, T), got {short_repr(token_mask)}."
        )


def _check_activations(activations: Tensor) -> None:
    if not isinstance(activations, Tensor):
        raise TypeError(f"activations must be a tensor (N, C, ...), got {type(activations).__name__}.")
    check_dense(activations, "activations")
    if activations.dim() < 2 or not (activations.is_floating_point() or activations.is_complex()):
        raise ValueError(
            f"activations must be a floating point tensor (N, C, ...), got one of shape {tuple(activations.shape)} and "
            f"{activations.dtype}."
        )
