"""Text networks: a pretrained encoder out of a folder, and small transformers from random weights, with transformers.

All take token ids and their attention mask, and classify by the mean of the last layer's features over the tokens, as sentence
encoders do. Every token then has a part in the prediction, which maps can show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillation.networks import WeightsError

__all__ = ["SMALL", "Encoders", "open_tokenizer"]

SMALL: dict[str, tuple[int, int, int]] = {
    "transformer-xs": (2, 64, 2),
    "transformer-s": (2, 128, 4),
    "transformer-m": (4, 128, 4),
}
"""Layers, width and attention heads of encoders that start from random weights."""

POSITIONS = 512
"""Tokens of the longest text that a small encoder takes."""


class TextClassifier(nn.Module):
    """An encoder of transformers, the mean of its last features over the tokens, dropout, a linear layer.

    Args:
        encoder: takes ``input_ids`` and ``attention_mask``, gives ``last_hidden_state`` (N, T, width).
        classes: number of outputs.
    """

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, classes) of token ids (N, T) and their mask (N, T), 1 for tokens and 0 for padding."""
        features = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(features.dtype)
        return cast(Tensor, self.classifier(self.dropout((features * weights).sum(1) / weights.sum(1))))


@dataclass(frozen=True)
class Encoders:
    """The networks of an experiment on texts.

    Attributes:
        folder: holds the pretrained encoder, as transformers writes it.
        vocabulary: token ids of its tokenizer, which all networks share.
        padding: the id of the padding token.
    """

    folder: Path
    vocabulary: int
    padding: int

    def build(self, name: str, classes: int, weights: str = "none") -> nn.Module:
        """A new network.

        Args:
            name: one of SMALL, or the folder.
            classes: number of outputs.
            weights: "pretrained", the folder's, with a new last layer; or "none", random weights from torch's generator.
                Those of SMALL are always random.

        Raises:
            WeightsError: the folder holds no encoder that transformers can open.
        """
        from transformers import AutoModel, BertConfig, BertModel

        if name in SMALL:
            layers, width, heads = SMALL[name]
            config = BertConfig(
                vocab_size=self.vocabulary, pad_token_id=self.padding, hidden_size=width, num_hidden_layers=layers,
                num_attention_heads=heads, intermediate_size=4 * width, max_position_embeddings=POSITIONS,
            )  # fmt: skip
            return TextClassifier(BertModel(config, add_pooling_layer=False), classes)
        encoder = _opened(AutoModel, self.folder) if weights == "pretrained" else _unopened(self.folder)
        # Unused: the answer is the mean over the tokens.
        encoder.pooler = None
        return TextClassifier(encoder, classes)

    @property
    def description(self) -> str:
        """The pretrained encoder in a few words."""
        config = _config(self.folder)
        return f"{type(config).__name__.removesuffix('Config')}, {config.num_hidden_layers} layers of width {config.hidden_size}"

    def stages(self, name: str) -> tuple[str, ...]:
        """Dotted names of two layers that are compared, the middle and the last one."""
        if name in SMALL:
            path, layers = "encoder.encoder.layer", SMALL[name][0]
        else:
            path, layers = _layers(self.folder)
        return f"{path}.{(layers + 1) // 2 - 1}", f"{path}.{layers - 1}"


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a pretrained encoder.

    Raises:
        WeightsError: there is no such folder, it holds no tokenizer, or transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise WeightsError(
            f"Texts need transformers, which could not be imported ({error}). Install it with: pip install captum_kd[text]"
        ) from error
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder}. Give a folder with a pretrained encoder with --teacher.")
    tokenizer = _opened(AutoTokenizer, folder)
    if tokenizer.pad_token_id is None:
        raise WeightsError(f"The tokenizer in {folder} has no padding token, which batches need. Give another --teacher.")
    return tokenizer


@lru_cache(maxsize=4)
def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return _opened(AutoConfig, folder)


@lru_cache(maxsize=4)
def _layers(folder: Path) -> tuple[str, int]:
    """Dotted name of the list of an encoder's layers, as TextClassifier has it, and its length."""
    count = getattr(_config(folder), "num_hidden_layers", 0)
    with torch.device("meta"):
        encoder = _unopened(folder)
    for name, module in encoder.named_modules(prefix="encoder"):
        if isinstance(module, nn.ModuleList) and len(module) == count > 1:
            return name, count
    raise WeightsError(
        f"{folder} holds a {type(encoder).__name__}, of which no list of two or more layers is known. Give an encoder such as "
        "BERT, DistilBERT or MPNet with --teacher."
    )


def _unopened(folder: Path) -> Any:
    """The folder's encoder with random weights."""
    from transformers import AutoModel

    return AutoModel.from_config(_config(folder))  # type: ignore[no-untyped-call]


def _opened(kind: Any, folder: Path) -> Any:
    """``kind.from_pretrained`` of a folder, without a network and without a progress bar."""
    from transformers.utils import logging

    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"transformers cannot open {folder}: {reason} The folder should hold config.json, model.safetensors and the "
            "tokenizer's files, as save_pretrained writes them."
        ) from error
    finally:
        if shows_progress:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
