"""What an experiment is about: images or texts with labels, and who gets which of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor, nn

__all__ = [
    "Batches", "DataError", "Examples", "Fold", "Inputs", "Task", "answer", "as_inputs", "first_of_each_class", "in_turn",
    "on_device",
]  # fmt: skip

Inputs = Union[Tensor, dict[str, Tensor]]
"""What networks take: images (N, 3, H, W), or ``input_ids`` and ``attention_mask`` (N, T) by name."""


SCORED_BATCH = 64
"""Examples in one forward pass when networks are scored."""


class DataError(ValueError):
    """Data that is missing or not laid out as expected; the message says how to mend it."""


class Examples:
    """Labeled images, some or all of those in a store.

    A choice of them shares the store: parts of a data set cost no memory, and a store may be a file on disk that is
    mapped into memory.

    Attributes:
        store (Tensor): (M, 3, H, W), uint8: a quarter of the memory of float32.
        rows (Tensor): (N,), int64, places in the store.
        labels (Tensor): (N,), int64.
        masks (Tensor, optional): (N, H, W), bool, true where the evidence is known to be.
    """

    def __init__(
        self, store: Tensor, labels: Tensor, masks: Optional[Tensor] = None, *, rows: Optional[Tensor] = None
    ) -> None:
        self.store = store
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.labels = labels
        self.masks = masks

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "Examples":
        masks = None if self.masks is None else self.masks[rows]
        return Examples(self.store, self.labels[rows], masks, rows=self.rows[rows])

    def __getitems__(self, rows: Sequence[int]) -> tuple[Inputs, Tensor]:
        """A batch, as torch's loaders ask for it: pixels and labels."""
        places = torch.as_tensor(rows)
        return self.store[self.rows[places]], self.labels[places]

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def stored(self) -> Inputs:
        """The examples as ``as_inputs`` takes them."""
        return self.pixels

    @property
    def pixels(self) -> Tensor:
        """(N, 3, H, W), uint8, copied out of the store."""
        return self.store[self.rows]

    def inputs(self, size: Optional[int] = None) -> Any:
        """What the networks take: float32 between 0 and 1, (N, 3, size, size). Normalization is their own first step."""
        return as_inputs(self.stored, size)

    def batches(self, count: int, size: Optional[int] = None) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and labels of ``count`` images at a time, in order."""
        for rows in torch.arange(len(self)).split(count):
            yield self[rows].inputs(size), self.labels[rows]


@dataclass(frozen=True)
class Batches:
    """A loader of examples in order, for the scores; no score depends on the size of the batches.

    Attributes:
        examples: what it yields.
        size: of the images.
    """

    examples: Examples
    size: Optional[int]

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self.examples.batches(SCORED_BATCH, self.size):
            yield {**inputs, "labels": labels} if isinstance(inputs, dict) else (inputs, labels)

    def __len__(self) -> int:
        return -(-len(self.examples) // SCORED_BATCH)


def as_inputs(stored: Inputs, size: Optional[int] = None) -> Any:
    """Stored pixels (N, 3, H, W), uint8, as the networks take them, enlarged or reduced to ``size``; texts as they are."""
    if isinstance(stored, Mapping):
        return stored
    images = stored.float() / 255
    if size is None or images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def answer(network: nn.Module, inputs: Inputs) -> Tensor:
    """(N, classes), the network's outputs."""
    logits: Tensor = network(**inputs) if isinstance(inputs, Mapping) else network(inputs)
    return logits


def on_device(inputs: Inputs, device: torch.device) -> Any:
    """The inputs, moved to a device."""
    if isinstance(inputs, Mapping):
        return {name: values.to(device) for name, values in inputs.items()}
    return inputs.to(device)


@dataclass(frozen=True)
class Fold:
    """Who gets which examples.

    Attributes:
        train: what Students and Bases learn from.
        teacher_train: what Teachers learn from.
        reference: held out; the population that UniCAM compares each image with.
        test: held out, without the reference.
    """

    train: Examples
    teacher_train: Examples
    reference: Examples
    test: Examples


@dataclass(frozen=True)
class Task:
    """Data of one experiment.

    Attributes:
        name: for headings.
        classes: their names, in the order of the labels.
        folds: one, or several that take turns at being held out.
        notes: what a reader must know to judge the results, first of all what the Teacher got.
        unit: what the examples are, in the plural.
        evidence: what masks are of.
    """

    name: str
    classes: Sequence[str]
    folds: Sequence[Fold]
    notes: Sequence[str]
    unit: str = "images"
    evidence: str = "the object"


def in_turn(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order in which the classes take turns, so that any first part holds them in equal shares."""
    order = torch.randperm(len(labels), generator=generator)
    return order[torch.argsort(_turns(labels[order]), stable=True)]


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Positions of the first ``count`` examples with the classes in turn: the first example of each class, then the second of
    each, and so on. Nobody picks them."""
    by_class = torch.argsort(labels, stable=True)
    return by_class[torch.argsort(_turns(labels[by_class]), stable=True)][:count]


def _turns(labels: Tensor) -> Tensor:
    """For each example, the number of examples of its class before it."""
    turns = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        is_class = labels == label
        turns[is_class] = torch.arange(int(is_class.sum()))
    return turns
