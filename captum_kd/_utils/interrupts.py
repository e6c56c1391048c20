"""Changes of state that a Ctrl-C cannot leave half done.

A signal's handler may raise between any two operations of the main thread, also inside ``__enter__``, ``__exit__`` and
``finally``. Signals are therefore held back while state is changed or restored, and let through while a model runs or during
another long computation::

    with changed_state(torch.no_grad(), without_fast_path()), interruptible():
        forward_func(*inputs)

Both belong in one ``with`` statement of a function: a signal that comes while ``interruptible`` is left raises there, after
signals are held back again, and ``changed_state`` then restores the state undisturbed. Do not use ``interruptible`` in a
function marked as ``contextmanager``: an interrupt may keep it from ever being resumed.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from contextlib import ExitStack, nullcontext
from types import FrameType
from typing import Any, Callable, ContextManager, Optional, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Signals whose handlers may raise: from users, timeouts, cluster schedulers and PyTorch's loaders. Reading the handlers of
# all 34 signals takes three times as long.
_NAMES = "SIGINT SIGTERM SIGALRM SIGVTALRM SIGPROF SIGHUP SIGQUIT SIGBREAK SIGUSR1 SIGUSR2 SIGCHLD SIGXCPU".split()
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))


class _HeldSignals:
    """A handler that replaces the signals' Python handlers and calls them later.

    Attributes:
        is_open (bool): True if signals are let through.
        is_over (bool): True if the old handlers are restored. A handler that a model installed may still call this one.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, Optional[FrameType]], Any]] = {}
        self._waiting: dict[int, Optional[FrameType]] = {}
        self.is_open = False
        self.is_over = False
        try:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self)
        except BaseException:
            self.end()
            raise

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        if self.is_over:
            self._handlers[number](number, frame)
            return
        self._waiting[number] = frame
        if self.is_open:
            self.open()

    def open(self) -> None:
        """Calls the handlers of waiting signals, then lets signals through unless a handler raises."""
        self.is_open = True
        while self._waiting:
            self.is_open = False
            while self._waiting:
                self._call_one()
            self.is_open = True

    def end(self) -> None:
        """Restores the old handlers, except where the model installed its own, then calls the handlers of waiting signals."""
        try:
            self._put_back()
        except BaseException:  # raised by a handler that is restored already
            self._put_back()
            raise
        finally:
            self.is_over = True
            self._call_all()

    def _put_back(self) -> None:
        for number, handler in reversed(self._handlers.items()):
            if signal.getsignal(number) is self:
                signal.signal(number, handler)

    def _call_all(self) -> None:
        if self._waiting:
            try:
                self._call_one()
            finally:
                self._call_all()

    def _call_one(self) -> None:
        number, frame = self._waiting.popitem()
        self._handlers[number](number, frame)


# The handler in use, None outside of changed_state. Python calls signal handlers in the main thread only.
_held: Optional[_HeldSignals] = None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class changed_state:
    """Enters contexts that change state and leaves them again, with signals held back meanwhile.

    Signals that arrive meanwhile are delivered after the state is restored. No signals are held back in other threads, which
    never run handlers, or for a ``nullcontext`` alone.

    Args:
        contexts (context managers): they must change nothing before they are entered, so ``torch.no_grad()`` and not
            ``torch.set_grad_enabled(False)``.
    """

    def __init__(self, *contexts: ContextManager[Any]) -> None:
        self._contexts = contexts
        self._stack = ExitStack()
        self._held: Optional[_HeldSignals] = None
        self._is_outermost = False
        self._was_open = False

    def __enter__(self) -> None:
        global _held
        changes = not self._contexts or any(type(context) is not nullcontext for context in self._contexts)
        if changes and _in_main_thread():
            if _held is None:
                _held = self._held = _HeldSignals()
                self._is_outermost = True
            else:
                self._was_open, _held.is_open = _held.is_open, False
                self._held = _held
        try:
            for context in self._contexts:
                self._stack.enter_context(context)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, *error: Any) -> None:
        global _held
        try:
            self._stack.__exit__(*error)
        finally:
            if self._held is not None:
                if self._is_outermost:
                    _held = None
                    self._held.end()
                elif self._was_open:
                    self._held.open()


class interruptible:
    """Lets signals through inside :class:`changed_state`. A handler that raises holds back the next signals first."""

    def __init__(self) -> None:
        self._held: Optional[_HeldSignals] = None
        self._was_open = False

    def __enter__(self) -> None:
        if _held is not None and _in_main_thread():
            self._held, self._was_open = _held, _held.is_open
            _held.open()

    def __exit__(self, *error: Any) -> None:
        if self._held is not None:
            self._held.is_open = self._was_open


def without_gradients(function: _Function) -> _Function:
    """Runs a function without gradients, like ``torch.no_grad``, with signals held back while the mode changes."""
    return _with(torch.no_grad, function)


def keeping_grad_mode(function: _Function) -> _Function:
    """Restores the grad mode after a function, even if other packages change it there.

    Changes of state inside the function take a fifth of the time, since the signal handlers are replaced already.
    """
    return _with(lambda: torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad(), function)


def _with(make: Callable[[], ContextManager[Any]], function: _Function) -> _Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with changed_state(make()), interruptible():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]
