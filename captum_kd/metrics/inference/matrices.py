"""Checks of distance matrices from users."""

from __future__ import annotations

from typing import Sequence, Union

import torch
from torch import Tensor

from captum_kd._utils.validation import check_dense, short_repr
from captum_kd.distance.centering import MIN_INPUTS
from captum_kd.distance.sources import DistanceSource, MatrixDistances

__all__ = ["as_sources"]


def as_sources(distances: Sequence[Union[Tensor, DistanceSource]]) -> list[DistanceSource]:
    """Wraps matrices as sources of distances; returns sources unchanged.

    Raises:
        ValueError: no matrix, matrices that are not square or differ in size, or fewer than 4 inputs.
        TypeError: a matrix that is not float32 or float64.
    """
    if not distances:
        raise ValueError("distances is empty; at least one matrix is needed.")
    for each in distances:
        if isinstance(each, Tensor):
            check_dense(each, "distances")
        elif not hasattr(each, "block"):
            raise TypeError(f"distances must be tensors (n, n), got {short_repr(each)}.")
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else (each.n, each.n) for each in distances]
    n = shapes[0][0] if shapes[0] else 0
    if any(shape != (n, n) for shape in shapes):
        raise ValueError(f"distances must be matrices of one population, each of shape (n, n); got shapes {shapes}.")
    for each in distances:
        if isinstance(each, Tensor) and each.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"distances must be float32 or float64, got {each.dtype}.")
    if n < MIN_INPUTS:
        raise ValueError(f"distances must be of at least {MIN_INPUTS} inputs, got {n}.")
    return [MatrixDistances(each) if isinstance(each, Tensor) else each for each in distances]
