r"""Intervals and tests of means over inputs."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

__all__ = ["MeanEstimate", "mean_estimate"]


class MeanEstimate(NamedTuple):
    """A mean over inputs with its interval.

    Attributes:
        value (float): the mean; None without a defined value.
        low, high (float): the interval's ends; None if not requested, or if the mean is no proportion and all values are equal,
            since equal values show no spread.
        p_value (float): two-sided p-value of the t test of a mean difference against 0; None for other means.
        n (int): number of inputs with a defined value.
    """

    value: Optional[float]
    low: Optional[float]
    high: Optional[float]
    p_value: Optional[float]
    n: int


def mean_estimate(
    values: Tensor, confidence: Optional[float], bounds: tuple[float, float], tested: bool = False
) -> MeanEstimate:
    r"""The mean of values (n,), NaN where undefined, with its interval.

    A proportion, the mean of zeros and ones, has Wilson's interval. All other means have the t interval
    :math:`\bar x \mp t_{n-1} s / \sqrt n`, which is the delete-one jackknife of a mean. That interval is too narrow for
    proportions near 0 or 1, and it is missing if all values are equal (docs/inference.md).

    Source: Wilson, Journal of the American Statistical Association 22(158), 1927.

    Args:
        values (Tensor): (n,) values of single inputs.
        confidence (float, optional): nominal coverage.
        bounds (tuple of float): the smallest and the largest possible mean; (0, 1) for a proportion.
        tested (bool): test the mean against 0.
    """
    values = values[torch.isfinite(values)].double()
    n = len(values)
    if n == 0:
        return MeanEstimate(None, None, None, None, 0)
    value = float(values.mean())
    if confidence is None or n < 2:
        return MeanEstimate(value, None, None, None, n)
    from scipy.special import ndtri, stdtr, stdtrit  # imported here so that import captum_kd stays fast

    if bounds == (0.0, 1.0):
        z = float(ndtri((1 + confidence) / 2))
        center = (value + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z * (value * (1 - value) / n + (z / (2 * n)) ** 2) ** 0.5 / (1 + z**2 / n)
        # Rounding must not move an end past a value of 0 or 1.
        return MeanEstimate(value, max(0.0, min(value, center - reach)), min(1.0, max(value, center + reach)), None, n)
    if bool((values == values[0]).all()):
        return MeanEstimate(value, None, None, None, n)
    error = float(values.std()) / n**0.5
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    p_value = 2 * float(stdtr(n - 1, -abs(value) / error)) if tested else None
    return MeanEstimate(value, max(bounds[0], value - reach), min(bounds[1], value + reach), p_value, n)
