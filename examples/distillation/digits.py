"""Handwritten digits in cluttered scenes, with a cue in the background.

Each scene shows one whole digit of scikit-learn's set at a random place, fragments of other digits as clutter,
and a background of one of ten hues. Every hue stands for a class. The hue of a scene is drawn at random, and so
says nothing about the digit; but in the Student's and Base model's training set one label in five was given by
the hue instead of the digit, as if by an annotator who looked at the background. There the background follows the
label (it agrees in 28 % of the scenes, 10 % would be chance) and a network gains by looking at it; in the other
sets labels are right and the background is worth nothing. So the evidence is on the digit, and nowhere else, and
its mask is known.

The task is made so that the Teacher has something to give: it learns from scenes with correct labels.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import nn

from distillation.task import DataError, Examples, Fold, Task, in_turn

__all__ = ["CLASSES", "Digits", "Scenes", "make_task", "paint_scenes", "split_digits"]

CLASSES = 10
SIZE = 32
"""Side of a scene in pixels."""
DIGIT = 16
"""Side of a digit's box: twice its original 8 pixels."""
FRAGMENTS = 6
INK = 0.9
BACKGROUND, TINT = 0.35, 0.15
NOISE = 0.05
ON_DIGIT = 0.2
"""Ink above this belongs to the mask."""
FROM_BACKGROUND = 0.2
"""Share of the training labels that the background gave."""

MOST = 1_000_000
"""Scenes of an experiment, which are all in memory: 4 GB."""

Array = npt.NDArray[np.float32]


class Digits(NamedTuple):
    """Original digits: (m, DIGIT, DIGIT) images between 0 and 1, (m,) labels, (m,) row numbers in scikit-learn."""

    images: Array
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class Scenes(NamedTuple):
    """Painted scenes and how they came about.

    Attributes:
        examples: images, labels as annotated, masks of the digits.
        digits: (N,) the classes of the digits.
        hues: (N,) the classes that the backgrounds stand for.
    """

    examples: Examples
    digits: torch.Tensor
    hues: torch.Tensor


def split_digits(rng: np.random.Generator) -> tuple[Digits, Digits, Digits]:
    """Originals for training, for the reference population and for the test; no digit is in two of them."""
    source = load_digits()
    small = torch.from_numpy(source.images).float()[:, None] / 16
    large = nn.functional.interpolate(small, (DIGIT, DIGIT), mode="bilinear")[:, 0].numpy()
    order = rng.permutation(len(large))
    train, reference, test = np.split(order, [1100, 1350])
    return (
        Digits(large[train], source.target[train], train),
        Digits(large[reference], source.target[reference], reference),
        Digits(large[test], source.target[test], test),
    )


def hue_of(label: int) -> Array:
    """The tint (3,) of a class: ten hues around the color wheel, of equal brightness."""
    color: Array = np.array(colorsys.hsv_to_rgb(label / CLASSES, 1.0, 1.0), dtype=np.float32)
    color -= color.mean()
    return color


def paint_scenes(digits: Digits, count: int, rng: np.random.Generator, *, from_background: float = 0.0) -> Scenes:
    """Paints scenes.

    Args:
        digits: the originals, each of which is used equally often but for one time.
        count: number of scenes.
        rng: source of all randomness.
        from_background: share of the labels that are given by the background instead of the digit.
    """
    rounds = -(-count // len(digits.labels))
    originals = np.concatenate([rng.permutation(len(digits.labels)) for _ in range(rounds)])[:count]
    hues = rng.integers(CLASSES, size=count)
    labels = np.where(rng.random(count) < from_background, hues, digits.labels[originals])
    pixels = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    masks = np.zeros((count, SIZE, SIZE), dtype=bool)
    for i, original in enumerate(originals):
        ink = _clutter(digits, rng)
        top, left = rng.integers(SIZE - DIGIT + 1, size=2)
        box = np.s_[top : top + DIGIT, left : left + DIGIT]
        # The digit takes its whole box, so that clutter never makes it another digit.
        ink[box] = digits.images[original]
        masks[i][box] = digits.images[original] > ON_DIGIT
        ground = (BACKGROUND + TINT * hue_of(int(hues[i])))[:, None, None]
        scene = ground * (1 - ink) + INK * ink + rng.normal(0.0, NOISE, (3, SIZE, SIZE))
        pixels[i] = np.rint(255 * scene.clip(0.0, 1.0))
    examples = Examples(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(masks))
    return Scenes(examples, torch.from_numpy(digits.labels[originals]), torch.from_numpy(hues))


def _clutter(digits: Digits, rng: np.random.Generator) -> Array:
    ink = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(FRAGMENTS):
        height, width = rng.integers(4, 9, size=2)
        y, x = rng.integers(DIGIT - height), rng.integers(DIGIT - width)
        fragment = digits.images[rng.integers(len(digits.images)), y : y + height, x : x + width]
        top, left = rng.integers(SIZE - height), rng.integers(SIZE - width)
        place = ink[top : top + height, left : left + width]
        np.maximum(place, fragment, out=place)
    return ink


def make_task(seed: int, *, train: int, teacher: int, reference: int, test: int) -> Task:
    """The whole experiment's scenes; the arguments are numbers of scenes.

    Raises:
        DataError: too many of them for the memory.
    """
    if train + teacher + reference + test > MOST:
        raise DataError(
            f"{train + teacher + reference + test:,} scenes are too many, {MOST:,} are the most. Take a smaller "
            "--teacher-images, --train-images, --references or --test-images."
        )
    rng = np.random.default_rng(seed)
    for_training, for_reference, for_test = split_digits(rng)
    generator = torch.Generator().manual_seed(seed)
    held_out = [paint_scenes(d, n, rng).examples for d, n in ((for_reference, reference), (for_test, test))]
    fold = Fold(
        train=paint_scenes(for_training, train, rng, from_background=FROM_BACKGROUND).examples,
        teacher_train=paint_scenes(for_training, teacher, rng).examples,
        reference=held_out[0],
        test=held_out[1][in_turn(held_out[1].labels, generator)],
    )
    return Task(
        name="Handwritten digits in cluttered scenes",
        classes=[str(label) for label in range(CLASSES)],
        folds=[fold],
        notes=[
            f"Teacher: a larger network, trained on {teacher} scenes whose labels are all right.",
            f"Student and Base: the same architecture, trained on the same {train} scenes, of whose labels "
            f"{FROM_BACKGROUND:.0%} were given by the hue of the background instead of the digit; the Student also "
            "learns from the Teacher's outputs on these scenes.",
            "Reference and test: other digits, labels all right, so the background says nothing about the label.",
        ],
    )
