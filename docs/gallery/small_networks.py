"""
The networks of this gallery
============================

These are a Teacher, Students and Bases on small scenes with handwritten digits. They are trained when the gallery is built.

A scene of 16 x 16 pixels shows one of scikit-learn's digits, 8 x 8, at a random place among strokes of other digits, on a
background of one of ten hues. In the training data of Students and Bases, one label in five is set by the hue instead of the
digit. The Teacher is trained on more scenes, with correct labels. In the reference and test scenes the background is unrelated
to the label, so a network that uses it has no advantage.
"""

import colorsys
from functools import cache
from typing import Callable, NamedTuple, Optional

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIDE, DIGIT, CLASSES = 16, 8, 10
HUES = np.array([colorsys.hsv_to_rgb(label / CLASSES, 0.7, 0.5) for label in range(CLASSES)])


class Scenes(NamedTuple):
    """Images (N, 3, 16, 16) between 0 and 1, labels (N,), and masks (N, 16, 16) of the digits."""

    images: Tensor
    labels: Tensor
    masks: Tensor


def paint(originals: slice, count: int, seed: int, by_hue: float = 0.0) -> Scenes:
    """``count`` scenes of the given originals; a share ``by_hue`` of the labels is set by the background."""
    rng = np.random.default_rng(seed)
    digits, classes = load_digits(return_X_y=True)
    digits, classes = digits[originals].reshape(-1, DIGIT, DIGIT) / 16, classes[originals]
    chosen, hues = rng.integers(len(digits), size=count), rng.integers(CLASSES, size=count)
    ink, masks = np.zeros((count, SIDE, SIDE)), np.zeros((count, SIDE, SIDE), dtype=bool)
    for scene, mask, digit in zip(ink, masks, digits[chosen]):
        for stroke in digits[rng.integers(len(digits), size=4), 2:5, 2:5]:
            y, x = rng.integers(SIDE - 3, size=2)
            scene[y : y + 3, x : x + 3] = stroke
        y, x = rng.integers(SIDE - DIGIT + 1, size=2)
        scene[y : y + DIGIT, x : x + DIGIT] = digit
        mask[y : y + DIGIT, x : x + DIGIT] = digit > 0.2
    ground = HUES[hues][:, :, None, None]
    images = (ground + (0.95 - ground) * ink[:, None] + rng.normal(0, 0.03, (count, 3, SIDE, SIDE))).clip(0, 1)
    labels = np.where(rng.random(count) < by_hue, hues, classes[chosen])
    return Scenes(torch.from_numpy(images).float(), torch.from_numpy(labels), torch.from_numpy(masks))


ORIGINALS = {"train": slice(0, 1100), "reference": slice(1100, 1350), "test": slice(1350, None)}
lesson = paint(ORIGINALS["train"], 1000, seed=1, by_hue=0.2)
teachers_lesson = paint(ORIGINALS["train"], 4000, seed=2)
reference = paint(ORIGINALS["reference"], 128, seed=3)
test = paint(ORIGINALS["test"], 400, seed=4)


class Convolutions(nn.Module):
    """Three layers, all with maps of 8 x 8 positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = self._layer(3, width, stride=2)
        self.layer2 = self._layer(width, 2 * width, stride=1)
        self.layer3 = self._layer(2 * width, 2 * width, stride=1)
        self.fc = nn.Linear(2 * width, CLASSES)

    @staticmethod
    def _layer(channels_in: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(images - 0.5))).mean((2, 3)))


def train(network: nn.Module, scenes: Scenes, epochs: int, teacher: Optional[nn.Module] = None, rate: float = 0.02) -> nn.Module:
    """Trains by cross-entropy, and with a Teacher also by its softened outputs (Hinton et al., 2015)."""
    batches = epochs * -(-len(scenes.labels) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, batches)
    with torch.no_grad():
        softened = None if teacher is None else (teacher(scenes.images) / 4).softmax(1)
    for _ in range(epochs):
        for rows in torch.randperm(len(scenes.labels)).split(64):
            logits = network(scenes.images[rows])
            loss = nn.functional.cross_entropy(logits, scenes.labels[rows])
            if softened is not None:
                answers = (logits / 4).log_softmax(1)
                loss = 0.1 * loss + 0.9 * 16 * nn.functional.kl_div(answers, softened[rows], reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@cache
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return train(Convolutions(20), teachers_lesson, epochs=3)


@cache
def student(seed: int, make: Callable[[], nn.Module] = lambda: Convolutions(12), rate: float = 0.02) -> nn.Module:
    torch.manual_seed(seed)
    return train(make(), lesson, epochs=12, teacher=teacher(), rate=rate)


@cache
def base(seed: int, make: Callable[[], nn.Module] = lambda: Convolutions(12), rate: float = 0.02) -> nn.Module:
    torch.manual_seed(seed)
    return train(make(), lesson, epochs=12, rate=rate)


def accuracy(network: nn.Module) -> float:
    with torch.no_grad():
        return float((network(test.images).argmax(1) == test.labels).float().mean())


# %%
# Twelve test scenes with their labels:

if __name__ == "__main__":
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    for axes, image, label in zip(figure.subplots(2, 6).flat, test.images, test.labels):
        axes.imshow(image.permute(1, 2, 0))
        axes.set_title(int(label), fontsize=9)
        axes.set_axis_off()
