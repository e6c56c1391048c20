"""Temporary changes of process-wide settings that several threads may need at once."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Callable, ContextManager, Iterator, Optional


class Overlapping:
    """A change of the process's state that overlapping threads share: the first to come makes it, the last to go
    undoes it. If each did so by itself, one would undo it under the others, and the others would bring it back for good.

    Args:
        make (callable): gives the context whose entry is the change and whose exit undoes it.
    """

    def __init__(self, make: Callable[[], ContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._holders = 0
        self._made: Optional[ContextManager[object]] = None

    @property
    def is_made(self) -> bool:
        """Whether the state is changed now, or is about to be, or is being changed back: meanwhile it cannot be read."""
        return self._holders > 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._begin()
        try:
            yield
        finally:
            with self._lock:
                try:
                    if self._holders == 1 and self._made is not None:
                        made, self._made = self._made, None
                        made.__exit__(None, None, None)
                finally:
                    self._holders -= 1

    def _begin(self) -> None:
        try:
            made = self._make()
            made.__enter__()
        except BaseException:
            self._holders -= 1
            raise
        self._made = made
