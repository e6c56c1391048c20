"""How much memory a report will need, and what to do where that is too much."""

from __future__ import annotations

from typing import Any, Iterable, Optional

from captum_kd._values import as_count
from captum_kd.metrics.report.scoring import MOST_WIDENED_INPUTS, MOST_WIDENED_NUMBERS

__all__ = ["MemoryLimit"]

GIB = 2**30
LABEL_BYTES = 24
"""A number of the labels' distances and of two matrices that come and go with them, all in float64."""


class MemoryLimit:
    """Refuses a report that would not fit, as soon as the first batch has shown what it needs.

    Counted are the features of all layers and models, while one layer is scored the copies of one model's features
    (joined, centred, in float64 where they are not too many), the distances of all models at that layer, and those of
    the labels.

    Args:
        limit (int, optional): bytes; None for no limit.
        data (iterable): the loader, whose length tells how many inputs are to come.
        views (int): number of (n, n) distance matrices that are held at a time.
        progression (bool): whether the last layer's distances are held beside them.

    Raises:
        ValueError: a limit that is no positive integer.
    """

    def __init__(self, limit: Optional[int], data: Iterable[Any], views: int, progression: bool = False) -> None:
        self._limit = None if limit is None else as_count(limit, "memory_limit (in bytes)", 1, or_none=True)
        self._data = data
        self._matrices = views * (2 if progression else 1) + 2  # two in work while distances are taken
        self._expected: Optional[int] = None

    def check(self, feature_bytes: int, widest: int, inputs: int) -> None:
        """Called after each batch.

        Args:
            feature_bytes (int): what all features so far take.
            widest (int): numbers of an input at the widest layer.
            inputs (int): inputs so far.

        Raises:
            ValueError: all inputs together will need more than the limit; the message names the ways out.
        """
        if self._limit is None:
            return
        if self._expected is None:
            self._expected = _expected_inputs(self._data, inputs)
        n = max(inputs, self._expected)
        joined = widest * n
        wide = n <= MOST_WIDENED_INPUTS and joined <= MOST_WIDENED_NUMBERS
        features = feature_bytes * n // inputs + joined * (4 + (16 if wide else 4))
        distances = (self._matrices * (8 if n <= MOST_WIDENED_INPUTS else 4) + LABEL_BYTES) * n * n
        if features + distances > self._limit:
            raise ValueError(
                f"{n} inputs need about {features / GIB:.2f} GiB for features and {distances / GIB:.2f} GiB for distances, "
                f"more than memory_limit={self._limit} ({self._limit / GIB:.2f} GiB). Ways out: fewer layers or models a "
                "call, feature_transform=global_average_pool, fewer inputs (torch.utils.data.Subset), "
                'population="batch" (noisy, and another quantity), or a larger memory_limit.'
            )


def _expected_inputs(data: Iterable[Any], batch_size: int) -> int:
    """Inputs that a loader will give, as far as it says so; 0 where it does not."""
    batches = _length(data)
    by_batches = None if batches is None else batches * batch_size
    by_sampler = _length(getattr(data, "sampler", None))
    known = [number for number in (by_batches, by_sampler) if number is not None]
    return min(known) if known else 0


def _length(value: Any) -> Optional[int]:
    try:
        return len(value)
    except (TypeError, NotImplementedError):
        return None
