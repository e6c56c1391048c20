"""Models of text, audio and time series, with random weights, and the layer to look at."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Mapping, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from captum_kd.command.last_layers import LAST_LAYERS

__all__ = ["FAMILIES", "SequenceFamily", "build"]

COUNT, LENGTH, WORDS = 5, 12, 60


class SequenceFamily(NamedTuple):
    """A family of architectures and how one member of it is built and looked at."""

    library: str
    name: str
    make: Callable[[], nn.Module]
    layer: str
    """As one would write it behind ``model.``; ``[-1]`` is the last of a sequence."""
    inputs: Callable[[], dict[str, Tensor]]
    """Five inputs by name: a sequence, and the same with one of its quarters changed, the first to the last."""
    hints: Mapping[str, Any] = {}
    """Arguments of UniCAM about the layout."""
    note: str = ""
    skips_padding: bool = True
    """Whether the model's own outputs do not depend on padding."""


def build(family: SequenceFamily, seed: int = 0) -> nn.Module:
    """The family's small model, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = family.make()
    return model.eval()


def _changed_quarters(values: Tensor, others: Tensor) -> Tensor:
    """Five sequences (5, T, ...) from two of them, (T, ...)."""
    found, step = values.repeat(COUNT, *[1] * values.dim()), len(values) // 4
    for quarter in range(4):
        found[1 + quarter, quarter * step : (quarter + 1) * step] = others[quarter * step : (quarter + 1) * step]
    return found


def sentences() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = _changed_quarters(*torch.randint(3, WORDS, (2, LENGTH), generator=generator))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _signals(name: str, *shape: int) -> dict[str, Tensor]:
    return {name: _changed_quarters(*torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))}


SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": WORDS,
    "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
    "sep_token_id": 2,
}  # fmt: skip


def _of(architecture: str, name: str = "", task: str = "ForSequenceClassification", **more: Any) -> SequenceFamily:
    """``<architecture><task>`` with the given ``settings`` in its configuration."""
    make = partial(_make, architecture, task, more.pop("settings", {}))
    inputs, layer = more.pop("inputs", sentences), LAST_LAYERS["transformers"][architecture]
    return SequenceFamily("transformers", f"{architecture} ({name})" if name else architecture, make, layer, inputs, **more)


def _make(architecture: str, task: str, settings: dict[str, Any]) -> nn.Module:
    config = getattr(transformers, f"{architecture}Config")(**{**SIZES, **settings})
    model: nn.Module = getattr(transformers, f"{architecture}{task}")(config)
    return model


class Encoder(nn.Module):
    """PyTorch's own layers over embedded words, and the mean of the unmasked ones."""

    def __init__(self, body: Callable[[], nn.Module], batch_first: bool = True, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24, padding_idx=0)
        self.body = body()
        self.head = nn.Linear(width, 3)
        self.batch_first = batch_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.embedding(input_ids)
        tokens = self.run(tokens if self.batch_first else tokens.transpose(0, 1), attention_mask == 0)
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return self.head((tokens * weights).sum(1))

    def run(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
        found: Tensor = self.body(tokens, src_key_padding_mask=is_padding)
        return found


class Recurrent(Encoder):
    def run(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
        found: Tensor = self.body(tokens)[0]
        return found


class Convolutional(Encoder):
    def run(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
        found: Tensor = self.body(tokens.mT).mT
        return found


def _attention(batch_first: bool) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 2, 32, batch_first=batch_first), 2, enable_nested_tensor=False)


def _convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv1d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 24, 3, padding=1))


def _own(
    name: str, kind: type[Encoder], body: Callable[[], nn.Module], layer: str, batch_first: bool = True, **more: Any
) -> SequenceFamily:
    return SequenceFamily("torch", name, partial(kind, body, batch_first), layer, sentences, **more)


DECODER = {"num_key_value_heads": 1}
DISTILBERT = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
DEBERTA = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 8, "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}  # fmt: skip
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
T5 = {"d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2}
AST = {"max_length": 64, "num_mel_bins": 32}
WAV2VEC2 = {
    "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16,
}  # fmt: skip
PATCHTST = {
    "num_input_channels": 3, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 24, "ffn_dim": 32,
    "num_targets": 3,
}  # fmt: skip

LAST = "For sentences, `feature_transform=last_token`."

FAMILIES = [
    _of("Albert", settings={"embedding_size": 16}, note="One block runs several times; its last run counts."),
    _of("Bert"),
    _of("Bert", "MiniLM", settings={"num_hidden_layers": 6, "hidden_size": 12}),
    _of("DebertaV2", settings=DEBERTA),
    _of("DistilBert", settings=DISTILBERT),
    _of("Electra", settings={"embedding_size": 16}),
    _of("GPT2", settings=GPT2, note=LAST),
    _of("Llama", settings=DECODER, note=LAST),
    _of("ModernBert"),
    _of("MPNet", settings={"pad_token_id": 1}),
    _of("Qwen2", settings=DECODER, note=LAST),
    _of("Qwen3", settings={**DECODER, "head_dim": 12}, note=LAST),
    _of("Roberta", settings={"pad_token_id": 1}),
    _of(
        "T5", "encoder", "ForTokenClassification", settings=T5,
        note="The block's position bias is left out.",
    ),
    _own("TransformerEncoder", Encoder, partial(_attention, True), "body.layers[-1]"),
    _own("TransformerEncoder (time first)", Encoder, partial(_attention, False), "body.layers[-1]", batch_first=False),
    _own("LSTM", Recurrent, partial(nn.LSTM, 24, 24, batch_first=True), "body", note="Its hidden states are left out."),
    _own(
        "LSTM (time first)", Recurrent, partial(nn.LSTM, 24, 24), "body", batch_first=False,
        note="Its hidden states are left out.",
    ),
    _own(
        "Conv1d", Convolutional, _convolutions, "body", skips_padding=False,
        note="Convolutions read padding, so that maps change with it; set padding to 0 before each one.",
    ),
    _of(
        "AST", task="ForAudioClassification", settings=AST,
        inputs=partial(_signals, "input_values", 64, 32), hints={"grid": (2, 5)},
        note="With `grid=(2, 5)`, frequencies and times of the patches; without it, tokens in a row, and `prefix_tokens=2`.",
    ),
    _of(
        "Wav2Vec2", settings=WAV2VEC2, inputs=partial(_signals, "input_values", 320),
        note="A mask of samples does not fit its frames: pass `token_mask=`, one value for each frame.",
    ),
    _of(
        "PatchTST", task="ForClassification", settings=PATCHTST,
        inputs=partial(_signals, "past_values", 32, 3), note="Rows are series, columns patches of time.",
    ),
]
