"""Explains and measures, with Captum, what a neural network learned through knowledge distillation.

:class:`UniCAM` maps the features that a Student has and its Base model lacks. :mod:`captum_kd.metrics` scores them.
"""

from captum_kd._models.feature_transforms import (
    first_token,
    flatten,
    flatten_to_unit_length,
    global_average_pool,
    last_token,
)
from captum_kd.attr import ReferencePopulation, TransferAttributions, UniCAM

__version__ = "1.1.0"

__all__ = [
    "ReferencePopulation",
    "TransferAttributions",
    "UniCAM",
    "first_token",
    "flatten",
    "flatten_to_unit_length",
    "global_average_pool",
    "last_token",
]
