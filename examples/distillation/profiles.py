"""The one table of settings: what each example starts from; the command line changes any of it.

``quick`` runs in minutes on two cores. ``paper`` is the protocol of Adhane et al. 2025 as far as the paper tells it:
ResNets of torchvision on images of 224 pixels, stochastic gradient descent, 20 epochs for the Teacher and 25 for
Students and Bases, five folds. ``authors`` is what their code does (https://github.com/gadhane/UniCAM, commits 0f3d33e
and 9968d57): other losses, weights of ImageNet at the start, and settings of their own for each data set.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from distillation.settings import TECHNIQUES, TEXT_TECHNIQUES, Settings

__all__ = ["ONE_PROFILE", "PROFILES", "profile", "profiles_of"]

ONE_PROFILE = ("quickstart", "questions")
"""Examples that the paper has no protocol for."""

ALL = 10_000_000
"""More images than there are."""

QUICK = Settings(
    output=Path("outputs"),
    seed=0,
    seeds=3,
    folds=1,
    techniques=TECHNIQUES,
    controls=(),
    placebos=0,
    random_placebos=0,
    teacher="resnet-l",
    student="resnet-s",
    weights="none",
    image_size=32,
    test_share=0.2,
    teacher_images=10_000,
    train_images=10_000,
    test_images=1000,
    map_images=200,
    map_pairs=1000,
    references=256,
    rows=6,
    teacher_epochs=8,
    epochs=8,
    batch_size=64,
    optimizer="adamw",
    learning_rate=1e-2,
    teacher_learning_rate=0.0,
    augmentation="shift",
    temperature=4.0,
    alpha=0.1,
    attention_weight=1000.0,
    hint_weight=1.0,
    hidden_weight=10.0,
    threads=0,
    accelerator="cpu",
    devices="1",
    strategy="auto",
    precision="32-true",
)

PAPER = replace(
    QUICK,
    seeds=1,
    folds=5,
    teacher="resnet50",
    student="resnet18",
    image_size=224,
    teacher_images=ALL,
    train_images=ALL,
    teacher_epochs=20,
    epochs=25,
    batch_size=32,
    optimizer="sgd",
    learning_rate=1e-3,
    augmentation="paper",
    accelerator="auto",
)

PROFILES: dict[str, Settings] = {
    "quick": QUICK,
    "paper": PAPER,
    # Their code trains by responses and by an attention loss that teaches nothing; it has no feature-based training.
    "authors": replace(
        PAPER,
        techniques=("response",),
        controls=("published-attention",),
        student="resnet50",
        weights="imagenet",
        augmentation="asirra",
        temperature=20.0,
        alpha=0.7,
        response_loss="mse",
    ),
}

DIFFERENCES: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        # One technique, and one thread: networks this small gain little from more, lose much on a busy machine, and so
        # repeat on any number of cores.
        "quickstart": {
            "seeds": 5, "techniques": ("response",), "teacher": "resnet-m", "student": "resnet-xs", "teacher_images": 3000,
            "train_images": 1000, "test_images": 500, "map_pairs": 2, "teacher_epochs": 4, "epochs": 12, "augmentation": "none",
            "threads": 1,
        },
        "asirra": {"image_size": 48, "references": 64, "teacher_epochs": 16, "epochs": 16, "batch_size": 32},
        # Some classes have a few dozen images, in the whole data set as well: half of them are held out.
        "plant_disease": {
            "image_size": 64, "test_share": 0.5, "references": 30, "teacher_epochs": 40, "epochs": 40, "batch_size": 16,
        },
        "own_images": {"image_size": 48, "references": 64, "teacher_epochs": 16, "epochs": 16, "batch_size": 32},
        "capacity_gap": {"techniques": ("response",), "teacher_images": 5000, "train_images": 5000},
        # The Teacher is a folder, which the command line names; two epochs fine-tune it.
        "questions": {
            "seeds": 2, "techniques": TEXT_TECHNIQUES, "teacher": "", "student": "transformer-s", "weights": "pretrained",
            "map_images": 400, "teacher_epochs": 2, "epochs": 6, "batch_size": 32, "learning_rate": 1e-3,
            "teacher_learning_rate": 1e-4, "augmentation": "none",
        },
    },
    "paper": {
        "capacity_gap": {"techniques": ("response",)},
    },
    # Outside ASIRRA they train once and have no folds. One training decides nothing, so five seeds are trained here.
    "authors": {
        # Their Teacher is a file of weights. Where its training started is not known.
        "cifar10": {
            "seeds": 5, "folds": 1, "student": "resnet18", "teacher_weights": "none", "batch_size": 16, "augmentation": "mirror",
        },
        "plant_disease": {
            "seeds": 5, "folds": 1, "epochs": 20, "batch_size": 16, "learning_rate": 1e-2, "momentum": 0.0,
            "augmentation": "crop",
        },
    },
}
"""Where an example departs from its profile."""


def profiles_of(example: str) -> tuple[str, ...]:
    """Names of the profiles that an example has."""
    if example in ONE_PROFILE:
        return ("quick",)
    # The authors' code has no training with Teachers of growing size.
    return tuple(name for name in PROFILES if name != "authors" or example != "capacity_gap")


def profile(example: str, name: str) -> Settings:
    """The settings that an example starts from, with a folder of its own to write to."""
    changes = DIFFERENCES[name].get(example, {})
    return replace(PROFILES[name], output=Path("outputs") / example, **changes)
