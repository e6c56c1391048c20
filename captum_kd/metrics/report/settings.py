"""The settings that a report records."""

from __future__ import annotations

import platform
from typing import Any, Callable, Optional, Union

import captum
import numpy
import torch

from captum_kd.metrics.report.aggregation import PooledScores, BatchMeanScores
from captum_kd.metrics.report.projection import relative_error

__all__ = ["name_of", "storage_settings", "versions"]


def name_of(function: Callable[..., Any]) -> str:
    """A function's own name, or its class'."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def storage_settings(
    aggregator: Union[PooledScores, BatchMeanScores], half: bool, projection: Optional[int]
) -> Optional[dict[str, Any]]:
    """How features were kept and distances taken; None for mini-batches."""
    if not isinstance(aggregator, PooledScores) or aggregator.placement is None:
        return None
    return {
        "in_file": aggregator.placement.in_file,
        "half_precision": half,
        "random_projection": projection,
        "distances_standard_error": None if projection is None else relative_error(projection),
        "block_size": None if aggregator.placement.held else aggregator.placement.block_size,
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that the numbers depend on."""
    import captum_kd  # not at the top: the package imports this file

    modules = {"captum": captum, "captum_kd": captum_kd, "numpy": numpy, "torch": torch}
    return {"python": platform.python_version(), **{name: str(each.__version__) for name, each in modules.items()}}
