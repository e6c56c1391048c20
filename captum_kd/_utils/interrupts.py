"""Protection of changes of state against Ctrl-C.

A signal's handler may raise between any two operations of the main thread, also inside ``__enter__``, ``__exit__`` and
``finally``. While state is changed or restored, signals are therefore held back. They are let through while a model runs,
and during every other long computation::

    with changed_state(torch.no_grad(), without_fast_path()), interruptible():
        forward_func(*inputs)

Both belong in one ``with`` statement of a function: a signal that comes while ``interruptible`` is left raises there, after it
has closed the opening, and ``changed_state`` then restores the state undisturbed. Do not use ``interruptible`` in a function
marked as ``contextmanager``: an interrupt may keep it from ever being resumed.
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

__all__ = ["changed_state", "interruptible", "keeping_grad_mode", "without_gradients"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Those whose handlers may raise: of users, timeouts, schedulers of clusters and PyTorch's loaders. To ask for all 34 takes
# three times as long, ahead of every change.
_NAMES = "SIGINT SIGTERM SIGALRM SIGVTALRM SIGPROF SIGHUP SIGQUIT SIGBREAK SIGUSR1 SIGUSR2 SIGCHLD SIGXCPU".split()
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))


class _Holder:
    """The handler of the signals that have a Python handler, from the outermost change of state to its end.

    Attributes:
        handlers (dict): the handlers that it replaces, by the signal's number.
        waiting (dict): signals that were held back, with the frames that they interrupted.
        is_open (bool): whether signals are let through.
        is_over (bool): whether the handlers are back. A handler that a model installed may still pass signals on to this one.
        depth (int): changes of state in progress.
    """

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[int, Optional[FrameType]], Any]] = {}
        self.waiting: dict[int, Optional[FrameType]] = {}
        self.is_open = False
        self.is_over = False
        self.depth = 1

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        if self.is_over:
            self.handlers[number](number, frame)
            return
        self.waiting[number] = frame
        if self.is_open:
            self.deliver()

    def deliver(self) -> None:
        """Calls the handlers of the signals that wait. If one raises, signals are held back from then on."""
        while self.waiting:
            self.is_open = False
            while self.waiting:
                number, frame = self.waiting.popitem()
                self.handlers[number](number, frame)
            self.is_open = True

    def take_over(self) -> None:
        try:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self.handlers[number] = handler
                    signal.signal(number, self)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Puts the handlers back, except where the model installed one of its own, then delivers what waits."""
        try:
            self._put_back()
        except BaseException:  # of a handler that was back already
            self._put_back()
            raise
        finally:
            self.is_over = True
            self._deliver_all()

    def _put_back(self) -> None:
        for number, handler in reversed(self.handlers.items()):
            if signal.getsignal(number) is self:
                signal.signal(number, handler)

    def _deliver_all(self) -> None:
        if self.waiting:
            number, frame = self.waiting.popitem()
            try:
                self.handlers[number](number, frame)
            finally:
                self._deliver_all()


_holder: Optional[_Holder] = None  # of the main thread, the only one in which Python calls handlers


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class changed_state:
    """Enters contexts that change state and leaves them again, with signals held back all the time.

    Signals that came meanwhile are delivered once the state is as it was. Other threads never run handlers: there the
    contexts are entered and left as they are, and so is a ``nullcontext`` alone.

    Args:
        contexts (context managers): they must change nothing before they are entered, so ``torch.no_grad()`` and not
            ``torch.set_grad_enabled(False)``.
    """

    def __init__(self, *contexts: ContextManager[Any]) -> None:
        self._contexts = contexts
        self._changes = not contexts or any(type(context) is not nullcontext for context in contexts)
        self._stack = ExitStack()
        self._holder: Optional[_Holder] = None
        self._was_open = False

    def __enter__(self) -> None:
        if self._changes and _in_main_thread():
            self._hold()
        try:
            for context in self._contexts:
                self._stack.enter_context(context)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, *error: Any) -> None:
        try:
            self._stack.__exit__(*error)
        finally:
            if self._holder is not None:
                self._let_go(self._holder)

    def _hold(self) -> None:
        global _holder
        if _holder is None:
            holder = _Holder()
            holder.take_over()
            _holder = self._holder = holder
            return
        self._was_open = _holder.is_open
        _holder.is_open = False
        _holder.depth += 1
        self._holder = _holder

    def _let_go(self, holder: _Holder) -> None:
        global _holder
        holder.depth -= 1
        if holder.depth == 0:
            _holder = None
            holder.give_back()
        elif self._was_open:
            holder.is_open = True
            holder.deliver()


class interruptible:
    """Lets signals through inside :class:`changed_state`. A handler that raises closes the opening first."""

    def __init__(self) -> None:
        self._holder: Optional[_Holder] = None
        self._was_open = False

    def __enter__(self) -> None:
        if _holder is not None and _in_main_thread():
            self._holder, self._was_open = _holder, _holder.is_open
            _holder.is_open = True
            _holder.deliver()

    def __exit__(self, *error: Any) -> None:
        if self._holder is not None:
            self._holder.is_open = self._was_open


def without_gradients(function: _Function) -> _Function:
    """As ``torch.no_grad`` for a function, with signals held back while the mode changes."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with changed_state(torch.no_grad()), interruptible():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def keeping_grad_mode(function: _Function) -> _Function:
    """Restores the grad mode after a function, whatever other packages make of it there.

    Changes of state inside the function cost a fifth: they find signals' handlers replaced already.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        as_it_is = torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad()
        with changed_state(as_it_is), interruptible():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]
