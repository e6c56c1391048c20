"""Timing two things against each other in one run.

Machines are noisy and absolute times mean little; the two are run in turn, so that a slow moment meets both, and the ratio
of their medians is what counts. At one thread it is that of the processor's time, which what else the machine does changes
less than the time on the wall; with more threads, some of which may wait for others, it is that of the time on the wall.
So it is with a GPU, which is waited for before a clock is read.
"""

import time
from statistics import median
from typing import Callable, NamedTuple, Optional

import torch


class Ratio(NamedTuple):
    name: str
    value: float
    goal: str
    met: bool
    wall: Optional[float] = None

    def __str__(self) -> str:
        wall = "" if self.wall is None else f"   on the wall {self.wall:.2f}"
        return f"{self.name:<84} {self.value:8.3f}   {self.goal:<10} {'met' if self.met else 'MISSED'}{wall}"


class Quotient(float):
    """A ratio of processor times at one thread, of wall times with more; knows that of wall times too."""

    wall: float

    @classmethod
    def of(cls, numerators: list["Seconds"], denominators: list["Seconds"]) -> "Quotient":
        busy, wall = (
            median(each[clock] for each in numerators) / median(each[clock] for each in denominators) for clock in (0, 1)
        )
        found = cls(busy if _is_alone() else wall)
        found.wall = wall
        return found


class Seconds(NamedTuple):
    busy: float
    wall: float


def measured(call: Callable[[], object]) -> Seconds:
    """What a call takes of the processor, in all threads, and on the wall."""
    _wait()
    busy, wall = time.process_time(), time.perf_counter()
    call()
    _wait()
    return Seconds(time.process_time() - busy, time.perf_counter() - wall)


def seconds(call: Callable[[], object]) -> float:
    """What a call takes of the processor at one thread, on the wall with more."""
    found = measured(call)
    return found.busy if _is_alone() else found.wall


def _is_alone() -> bool:
    return torch.get_num_threads() == 1 and not torch.cuda.is_initialized()


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio(numerator: Callable[[], object], denominator: Callable[[], object], repeats: int) -> Quotient:
    numerator(), denominator()  # the first call of either pays for memory and threads
    pairs = [(measured(numerator), measured(denominator)) for _ in range(repeats)]
    return Quotient.of([a for a, _ in pairs], [b for _, b in pairs])


def at_least(name: str, value: float, goal: float) -> Ratio:
    return Ratio(name, float(value), f">= {goal:g}", value >= goal, getattr(value, "wall", None))


def at_most(name: str, value: float, goal: float) -> Ratio:
    return Ratio(name, float(value), f"<= {goal:g}", value <= goal, getattr(value, "wall", None))
