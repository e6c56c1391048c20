"""A folder of questions and a tiny random encoder with its tokenizer, for the tests of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = {
    "human": "who wrote painted found kills loves".split(),
    "location": "where lies rises sleeps grows stands".split(),
    "number": "how many years cost miles people".split(),
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def questions(count: int, seed: int) -> list[tuple[str, str]]:
    """Labels and texts of 3 to 9 words; each class has words of its own, and no text occurs twice."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, str] = {}
    classes = list(WORDS)
    while len(found) < count:
        label = classes[len(found) % len(classes)]
        length = int(torch.randint(2, 9, (), generator=generator))
        rest = torch.randint(len(WORDS[label]), (length,), generator=generator).tolist()
        found.setdefault(" ".join([WORDS[label][0], *(WORDS[label][i] for i in rest)]), label)
    return [(label, text) for text, label in found.items()]


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(f"{label}\t{text}\n" for label, text in [("label", "text"), *rows]), encoding="utf-8")


def write_data(folder: Path, train: int = 60, test: int = 24) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = questions(train + test, seed=0)
    write_table(folder / "train.tsv", rows[:train])
    write_table(folder / "test.tsv", rows[train:])
    return folder


def write_encoder(folder: Path, **changes: Any) -> Path:
    """A BERT of two layers with random weights, as save_pretrained writes it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL, *sorted({word for each in WORDS.values() for word in each})]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    config = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 32, **changes,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(**config)).save_pretrained(folder)
    return folder
