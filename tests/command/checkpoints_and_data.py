"""Folders of images and files of weights, as users have them, for tests of the command."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, width, 3, stride=2, padding=1)
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))

def small():
    return Net()

def wide():
    return Net(8)

def broken():
    raise RuntimeError("no such thing")

def text():
    return "model"
"""
PLAIN = ["--image-size", "12", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


def write_models(folder: Path) -> Path:
    """models.py, and weights of two Students, two Bases and a Teacher beside it."""
    file = folder / "models.py"
    file.write_text(textwrap.dedent(MODELS))
    space: dict[str, object] = {}
    exec(MODELS, space)  # noqa: S102
    for seed, name in enumerate(("kd1", "kd2", "base1", "base2", "teacher")):
        torch.manual_seed(seed)
        made = space["wide" if name == "teacher" else "small"]
        torch.save(made().state_dict(), folder / f"{name}.pt")  # type: ignore[operator]
    return file


def write_images(folder: Path, count: int = 30, classes: tuple[str, ...] = ("cat", "dog", "eel"), side: int = 16) -> Path:
    """Class folders of noise with a bright patch whose place tells the class, and what Windows leaves behind."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (side, side, 3), dtype=np.uint8)
            pixels[4 * label : 4 * label + 6, 4:10, label % 3] = 250
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
        (folder / name / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return folder
