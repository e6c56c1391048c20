"""A small encoder of sentences, called by name as Hugging Face's are, and sentences of different lengths."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

VOCABULARY, LONGEST = 30, 10


class Encoder(nn.Module):
    """Attention over unmasked tokens, with positions; returns logits of the first token."""

    def __init__(self, seed: int, width: int = 16, depth: int = 2, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.words = nn.Embedding(vocabulary, width)
            self.places = nn.Embedding(64, width)
            layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
            self.head = nn.Linear(width, 3)
            for parameter in self.parameters():  # copies of one layer start alike
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.2)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Optional[Tensor] = None) -> Tensor:
        embedded = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        padding = None if attention_mask is None else attention_mask == 0
        return self.head(self.encoder(embedded, src_key_padding_mask=padding)[:, 0])


def sentences(n: int, *, longest: int = LONGEST, padded_to: Optional[int] = None, seed: int = 0) -> dict[str, Tensor]:
    """Ids from 2 on, of 2 to ``longest`` tokens, padded by 0; the first token is 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (n, longest), generator=generator)
    ids[:, 0] = 1
    lengths = torch.randint(2, longest + 1, (n,), generator=generator)
    lengths[0] = longest
    mask = torch.arange(longest) < lengths[:, None]
    ids = ids * mask
    extra = (padded_to or longest) - longest
    return {"input_ids": nn.functional.pad(ids, (0, extra)), "attention_mask": nn.functional.pad(mask.long(), (0, extra))}


def labels(n: int) -> Tensor:
    return torch.arange(n) % 3


def rows(inputs: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
    return {name: value[part] for name, value in inputs.items()}
