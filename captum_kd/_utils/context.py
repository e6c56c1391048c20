"""Temporary changes of process-wide settings that several threads may need at once."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import Callable, ContextManager, Iterator


class Overlapping:
    """A change of the process's state that overlapping threads share: the first one makes it, the last one undoes it.

    If each thread made and undid it, one would undo it while others need it, and the last one could restore the changed state.

    Args:
        make (callable): returns the context whose entry makes the change and whose exit undoes it.
    """

    def __init__(self, make: Callable[[], ContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._holders = 0
        self._stack = ExitStack()

    @property
    def is_made(self) -> bool:
        """Whether the state is changed now or is just being changed or restored, so that it cannot be read."""
        return self._holders > 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            try:
                if self._holders == 1:
                    self._stack.enter_context(self._make())
            except BaseException:
                self._holders -= 1
                raise
        try:
            yield
        finally:
            with self._lock:
                try:
                    if self._holders == 1:
                        self._stack.close()
                finally:
                    self._holders -= 1
