"""Progress of an experiment on the screen: one bar for all trainings, a line for each finished network, then the measuring."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, Mapping, Optional

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """A line for each finished network and for each later stage and, on a terminal, a bar below the lines.

    The bar is on standard error, as are Lightning's and Captum's; a terminal that cannot go back to the start of a line
    (``TERM=dumb``) and a file get no bar. The lines are on standard output.

    Args:
        work: by name of each network in the order of the trainings, the work of its training, in any unit.
        shown: false for no output at all.
    """

    def __init__(self, work: Mapping[str, float], shown: bool) -> None:
        self._work, self._shown = dict(work), shown
        self._name, self._number, self._share = "", 0, 0.0
        # Work and time of this process: what is loaded from a checkpoint says nothing about the speed.
        self._measured, self._seconds = 0.0, 0.0
        self._last: Optional[float] = None
        self._bar: Any = None
        if shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = tqdm(
                total=sum(self._work.values()), bar_format="{desc} {percentage:3.0f}%|{bar}|", dynamic_ncols=True,
                leave=False, mininterval=0.2, miniters=0,
            )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, name: str) -> None:
        """The training of a network begins, or its checkpoint is loaded."""
        self._name, self._share, self._last = name, 0.0, None
        self._number += 1
        self._draw()

    def moved(self, share: float) -> None:
        """The training of this network has come so far, between 0 and 1."""
        now = time.monotonic()
        if self._last is not None:
            self._measured += (share - self._share) * self._work[self._name]
            self._seconds += now - self._last
        self._share, self._last = share, now
        self._draw()

    def finished(self, accuracy: float) -> None:
        """The network is trained and has this accuracy on held-out examples."""
        self._share = 1.0
        number = f"{self._number:{len(str(len(self._work)))}}/{len(self._work)}"
        self._print(f"{number} {self._name}: accuracy {accuracy:.3f}")
        self._draw()

    def stage(self, what: str) -> None:
        """This is done next, after all trainings."""
        if self._bar is None:
            self._print(what)
            return
        self._bar.bar_format = "{desc}"
        self._bar.set_description_str(what)

    def _print(self, line: str) -> None:
        if self._shown:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _draw(self) -> None:
        if self._bar is None:
            return
        names = list(self._work)
        done = sum(self._work[name] for name in names[: self._number - 1]) + self._share * self._work[self._name]
        left = ""
        if self._measured:
            left = f", {_words((self._bar.total - done) * self._seconds / self._measured)} left"
        self._bar.set_description_str(f"Training {self._number} of {len(names)}{left}", refresh=False)
        self._bar.update(done - self._bar.n)


def _words(seconds: float) -> str:
    """A time as a reader needs it, rounded up."""
    if seconds < 60:
        return "<1 min"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
