"""Timing two things against each other in one run.

Machines are noisy and absolute times mean little; the two are run in turn, so that a slow moment
meets both, and the ratio of their medians is what counts.
"""

import time
from statistics import median
from typing import Callable, NamedTuple


class Ratio(NamedTuple):
    name: str
    value: float
    goal: str
    met: bool

    def __str__(self) -> str:
        return f"{self.name:<72} {self.value:8.2f}   {self.goal:<10} {'met' if self.met else 'MISSED'}"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(numerator: Callable[[], object], denominator: Callable[[], object], repeats: int) -> float:
    numerator(), denominator()  # the first call of either pays for memory and threads
    pairs = [(seconds(numerator), seconds(denominator)) for _ in range(repeats)]
    return median(a for a, _ in pairs) / median(b for _, b in pairs)


def at_least(name: str, value: float, goal: float) -> Ratio:
    return Ratio(name, value, f">= {goal:g}", value >= goal)


def at_most(name: str, value: float, goal: float) -> Ratio:
    return Ratio(name, value, f"<= {goal:g}", value <= goal)
