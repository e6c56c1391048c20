"""Versions of the packages that numbers depend on."""

from __future__ import annotations

import platform

import captum
import numpy
import torch


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    import captum_kd  # not at the top: the package imports this file

    modules = {"captum": captum, "captum_kd": captum_kd, "numpy": numpy, "torch": torch}
    return {"python": platform.python_version(), **{name: str(each.__version__) for name, each in modules.items()}}
