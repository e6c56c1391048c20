"""Warnings that point to the line of the user's code."""

from __future__ import annotations

import sys
import warnings

from captum_kd._utils.text import printable

# Captum calls this package and wraps its methods; torch wraps functions that run without gradients.
_NOT_THE_USER = ("captum_kd", "captum", "torch")


def warn_user(message: str) -> None:
    """Issues a UserWarning at the innermost line outside this package, Captum and torch."""
    # From Python 3.12 on, warnings.warn can skip files by itself.
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_THE_USER:
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), UserWarning, stacklevel=level)
