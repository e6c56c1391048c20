"""Keeping the tokens of a text with the largest attributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from captum_kd._utils.inputs import ATTENTION_MASK, Inputs, ModelInputs, as_inputs
from captum_kd._utils.maps import as_maps, ids_place
from captum_kd._utils.validation import check_int, check_share
from captum_kd.perturb.keep_relevant import highest


def keep_relevant_tokens(
    inputs: Inputs,
    attributions: Tensor,
    *,
    keep: float = 0.5,
    mask_token_id: Optional[int] = None,
    token_mask: Optional[Tensor] = None,
) -> Any:
    r"""
    Keeps the most relevant tokens of each text and replaces the others by the mask token, or by padding if there is none.

    Of a text with n tokens ``round(keep * n)`` are kept, at least one. Tokens are ranked by signed value; ties go to the
    earlier token. Tokens outside the token mask do not count and are never replaced: padding, and the tokens of
    ``special_tokens_mask``, such as [CLS] and [SEP], if the mapping has one (``return_special_tokens_mask=True`` of
    tokenizers). Leave out the token that a model classifies by in this way.

    Tokens do not move. With padding (``attention_mask`` 0, the same ids) kept tokens therefore keep their positions, also in
    models that number positions by ids, such as RoBERTa. Models that number positions by the attention mask, such as OPT,
    move the kept tokens together: pass a ``mask_token_id`` for these.

    A classifier that was fine-tuned on text without mask tokens may fail on these, whatever is kept. Padding is better then.

    This is the counterpart of :func:`keep_relevant` for text. It follows the authors of the paper, who keep half of the pixels
    (Adhane et al., WACV 2025).

    Args:

        inputs (Tensor, tuple[Tensor, ...] or mapping): Ids (N, T), integers: ``input_ids`` of a mapping, as tokenizers
                    return it, else the first integers (N, T).
        attributions (Tensor): (N, 1, T) or (N, T), a value for each id, floating point.
        keep (float, optional): Share of each text's own tokens to keep, between 0 and 1, both excluded.
        mask_token_id (int, optional): The id that replaces tokens: ``tokenizer.mask_token_id``.
                    Default: None, tokens become padding, for which ``inputs`` must be a mapping with ``attention_mask``
        token_mask (Tensor, optional): (N, T), True for the tokens that may be kept or replaced.
                    Default: None, ``attention_mask`` without ``special_tokens_mask`` of a mapping, else all tokens

    Returns:
        Tensor, tuple or dict: as ``inputs``, of which only the ids or the attention mask changed; a dict for a mapping.

    Raises:
        TypeError: inputs that are not tensors, attributions that are not a floating point tensor.
        ValueError: inputs without ids, such as embeddings; attributions of another batch or length, with several channels or
                    not finite; a share outside (0, 1); a negative id; neither ``mask_token_id`` nor an attention mask.

    Example::

        >>> batch = tokenizer(sentences, padding=True, return_special_tokens_mask=True, return_tensors="pt")
        >>> maps = unicam.attribute(batch, labels)  # (N, 1, T)
        >>> salient = keep_relevant_tokens(batch, maps, keep=0.3, mask_token_id=tokenizer.mask_token_id)
    """
    keep = check_share(keep)
    values = as_inputs(inputs, token_mask=token_mask)
    place = ids_place(values, "keep_relevant_tokens needs")
    check_mask_token(values, place, mask_token_id)
    ids = values[place]
    maps = as_maps(attributions, "attributions", len(ids), (ids.shape[1],), flat_too=True).to(ids.device)
    kept = keep_tokens(values, place, maps, keep, mask_token_id)
    return {**inputs, **kept.as_given()} if isinstance(inputs, Mapping) else kept.as_given()


def keep_tokens(
    inputs: ModelInputs, place: int, maps: Tensor, keep: float, mask_token_id: Optional[int]
) -> ModelInputs:
    """:func:`keep_relevant_tokens` with checked arguments, ids at ``place``; tokens that become padding leave the token mask."""
    tokens = token_mask_of(inputs, place)
    counts = [max(1, round(keep * n)) for n in tokens.sum(1).tolist()]
    ranked = maps[:, 0].masked_fill(~tokens, -torch.inf)
    replaced = tokens & ~highest(ranked, torch.tensor(counts, device=tokens.device), "tokens")
    if mask_token_id is not None:
        return inputs.with_value(place, inputs[place].masked_fill(replaced, mask_token_id))
    assert inputs.names is not None
    at = inputs.names.index(ATTENTION_MASK)
    return inputs.with_value(at, inputs[at].masked_fill(replaced, 0)).with_mask(tokens & ~replaced)


def token_mask_of(inputs: ModelInputs, place: int) -> Tensor:
    """The token mask (N, T) of the ids at ``place``.

    Raises:
        ValueError: a token mask of another length.
    """
    ids, mask = inputs[place], inputs.token_mask
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise ValueError(f"The token mask has shape {tuple(mask.shape)} for ids {tuple(ids.shape)}; it must have their shape.")
    return mask.to(ids.device)


def check_mask_token(inputs: ModelInputs, place: int, mask_token_id: Optional[int]) -> None:
    """Raises a ValueError unless there is an id to replace tokens by, or an attention mask that can make them padding."""
    if mask_token_id is not None:
        check_int(mask_token_id, "mask_token_id", or_none=True)
        return
    mask = inputs.by_name(ATTENTION_MASK)
    if not isinstance(mask, Tensor) or mask.shape != inputs[place].shape:
        raise ValueError(
            "There is nothing to replace tokens by: pass mask_token_id=tokenizer.mask_token_id, or the inputs as a mapping with "
            "attention_mask (N, T), in which these tokens become padding."
        )
