"""Agreement of two maps, position by position, in plain Python floats."""

from __future__ import annotations

import math
from typing import Sequence

Map = Sequence[float]


def cosine(first: Map, second: Map) -> float:
    lengths = [math.sqrt(math.fsum(value * value for value in each)) for each in (first, second)]
    return math.fsum(a * b for a, b in zip(first, second)) / (lengths[0] * lengths[1])


def ranks(values: Map) -> list[float]:
    """1 for the lowest; tied positions share the mean of their ranks."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(first: Map, second: Map) -> float:
    """Pearson's correlation of the ranks."""
    centered = []
    for each in map(ranks, (first, second)):
        mean = math.fsum(each) / len(each)
        centered.append([rank - mean for rank in each])
    return cosine(*centered)


def most_salient(values: Map, keep: float) -> set[int]:
    """The largest set of at most round(keep p) highest positions that splits no tie; else the positions of the maximum."""
    count = max(1, min(round(keep * len(values)), len(values) - 1))
    found: set[int] = set()
    for level in sorted(set(values), reverse=True):
        tied = {place for place, value in enumerate(values) if value == level}
        if len(found) + len(tied) > count:
            return found or tied
        found |= tied
    return found


def iou(first: Map, second: Map, keep: float) -> float:
    one, other = most_salient(first, keep), most_salient(second, keep)
    return len(one & other) / len(one | other)
