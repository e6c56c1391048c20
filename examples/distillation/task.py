"""What an experiment is about: images with labels, and who gets which of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import torch
from torch import Tensor

__all__ = ["DataError", "Examples", "Task", "first_of_each_class", "in_turn"]


class DataError(ValueError):
    """Data that is missing or not laid out as expected; the message says how to mend it."""


@dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes:
        pixels (Tensor): (N, 3, H, W), uint8: a quarter of the memory of float32.
        labels (Tensor): (N,), int64.
        masks (Tensor, optional): (N, H, W), bool, true where the evidence is known to be.
    """

    pixels: Tensor
    labels: Tensor
    masks: Optional[Tensor] = None

    def __getitem__(self, rows: slice | Tensor) -> "Examples":
        return Examples(self.pixels[rows], self.labels[rows], None if self.masks is None else self.masks[rows])

    @property
    def count(self) -> int:
        return len(self.labels)

    def inputs(self) -> Tensor:
        """What the networks take: float32 between 0 and 1. Normalisation is their own first step."""
        return self.pixels.float() / 255


@dataclass(frozen=True)
class Task:
    """Data of one experiment.

    Attributes:
        name: for headings.
        classes: their names, in the order of the labels.
        train: what Student and Base learn from.
        teacher_train: what the Teacher learns from.
        reference: held out; the population that UniCAM compares each image with.
        test: held out, without the reference.
        augment: whether training images are flipped and shifted at random.
        notes: what a reader must know to judge the results, first of all what the Teacher got.
    """

    name: str
    classes: Sequence[str]
    train: Examples
    teacher_train: Examples
    reference: Examples
    test: Examples
    augment: bool
    notes: Sequence[str]


def in_turn(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order in which the classes take turns, so that any first part holds them in equal shares."""
    order = torch.randperm(len(labels), generator=generator)
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        places = (labels[order] == label).nonzero()[:, 0]
        turn[places] = torch.arange(len(places))
    return order[torch.argsort(turn, stable=True)]


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Positions of the first example of each of the first ``count`` classes: a choice nobody made."""
    return torch.tensor([int((labels == label).nonzero()[0]) for label in labels.unique()[:count]])
