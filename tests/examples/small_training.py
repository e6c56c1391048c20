"""A task and networks so small that a training takes a moment, for the tests of training."""

from pathlib import Path
from typing import Any

import torch
from distillation.settings import Settings
from distillation.task import Examples
from torch import Tensor, nn

CLASSES = 3
SIZE = 8


def settings(output: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "output": output,
        "seed": 0,
        "seeds": 1,
        "folds": 1,
        "techniques": ("response",),
        "controls": (),
        "placebos": 0,
        "random_placebos": 0,
        "teacher": "resnet-m",
        "student": "resnet-s",
        "weights": "none",
        "image_size": SIZE,
        "test_share": 0.2,
        "teacher_images": 100,
        "train_images": 100,
        "test_images": 100,
        "map_images": 20,
        "map_pairs": 1000,
        "references": 10,
        "rows": 1,
        "teacher_epochs": 3,
        "epochs": 3,
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "teacher_learning_rate": 0.0,
        "augmentation": "shift",
        "temperature": 4.0,
        "alpha": 0.5,
        "attention_weight": 1000.0,
        "hint_weight": 1.0,
        "hidden_weight": 1.0,
        "threads": 1,
        "accelerator": "cpu",
        "devices": "1",
        "strategy": "auto",
        "precision": "32-true",
    }
    return Settings(**{**values, **changes})


def examples(count: int = 44, seed: int = 0, size: int = SIZE) -> Examples:
    """Noise in which the brightest color is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 150, (count, 3, size, size), generator=generator)
    pixels[torch.arange(count), labels] += 60
    return Examples(pixels.to(torch.uint8), labels)


class Small(nn.Module):
    """Three stages, batch normalization and dropout."""

    def __init__(self, width: int = 4, seed: int = 0, strides: tuple[int, int, int] = (1, 2, 1)) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = (3, width, 2 * width, 2 * width)
            for i in range(3):
                stage = nn.Sequential(
                    nn.Conv2d(widths[i], widths[i + 1], 3, strides[i], 1), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()
                )
                self.add_module(f"stage{i + 1}", stage)
            self.dropout = nn.Dropout(0.2)
            self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(images)))
        logits: Tensor = self.head(self.dropout(x.mean((2, 3))))
        return logits


STAGES = ("stage1", "stage2", "stage3")
