"""The error that the command shows in one line."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["CommandError", "first_line", "needed"]


class CommandError(Exception):
    """Files, models or data do not fit. The message says what is wrong, where, and how to mend it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def needed(package: str, extra: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        CommandError: it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CommandError(
            f"{purpose} needs {package}, which cannot be imported ({error}). Install it: pip install 'captum_kd[{extra}]'"
        ) from error
