"""A data set that was read: images, classes, and which images are copies of one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from torch import Tensor

from distillation.task import Examples

__all__ = ["Pool"]


@dataclass(frozen=True)
class Pool:
    """All images of a data set.

    Attributes:
        name: for headings.
        examples: all images; row i of the pool lies in row i of the store, which may be mapped from a file.
        classes: their names, in the order of the labels.
        copies: (N,), int64. Images with the same number are copies of one another: rotated, mirrored, recompressed,
            recolored, or photographs of the same thing.
        is_test: (N,), bool: the official test part; None if there is none.
        notes: what was read, left out, and grouped.
        left_out: files that are not in the pool, by reason.
    """

    name: str
    examples: Examples
    classes: list[str]
    copies: Tensor
    is_test: Optional[Tensor]
    notes: list[str]
    left_out: dict[str, list[str]] = field(default_factory=dict)
