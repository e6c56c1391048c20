"""A literal rendering of the reduction of text: one sentence and one token at a time."""

from __future__ import annotations

from typing import Optional

from torch import Tensor


def kept_tokens(maps: Tensor, tokens: Tensor, share: float) -> list[list[bool]]:
    """For each sentence and token, whether it stays: among its own tokens by falling value, then by place."""
    kept = []
    for values, own in zip(maps[:, 0].tolist(), tokens.tolist()):
        places = sorted((place for place in range(len(values)) if own[place]), key=lambda place: (-values[place], place))
        stay = places[: max(1, round(share * len(places)))]
        kept.append([not own[place] or place in stay for place in range(len(values))])
    return kept


def reduced(batch: dict[str, Tensor], maps: Tensor, tokens: Tensor, share: float, mask_token: Optional[int]) -> dict[str, Tensor]:
    found = {name: value.clone() for name, value in batch.items()}
    for row, stays in enumerate(kept_tokens(maps, tokens, share)):
        for place, stay in enumerate(stays):
            if not stay and mask_token is not None:
                found["input_ids"][row, place] = mask_token
            elif not stay:
                found["attention_mask"][row, place] = 0
    return found
