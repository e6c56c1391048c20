r"""Test of one Teacher's share, or gain in agreement, against those of placebo Teachers.

Placebo Teachers are networks of the Teacher's recipe, trained from other seeds, that taught no Student. Under the null
hypothesis the Teacher is one more draw of such networks, so that its share comes from the distribution of theirs. The same
holds for a gain in agreement, the Student's minus the Base's.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import NamedTuple, Optional, Sequence

from captum_kd._utils.validation import check_float, short_repr

__all__ = ["PlaceboTest", "placebo_test"]

LEAST_PLACEBOS = 4
"""Fewer placebos say too little about the spread of Teachers: with 3 the t distribution has two degrees of freedom."""

_SAME = 1e-12
"""Shares of copies of one network differ by rounding."""


class PlaceboTest(NamedTuple):
    """Outcome of a test of the Teacher's share against those of placebo Teachers.

    Attributes:
        statistic (float): t; None if all placebos have the same share.
        p_value (float): one-sided p-value; None without a statistic.
        mean (float): mean share of the placebos.
        standard_deviation (float): standard deviation of the placebos' shares.
        degrees_of_freedom (int): number of placebos minus 1.
    """

    statistic: Optional[float]
    p_value: Optional[float]
    mean: float
    standard_deviation: float
    degrees_of_freedom: int


def placebo_test(share: float, placebo_shares: Sequence[float]) -> PlaceboTest:
    r"""One-sided t test that a Teacher's share is larger than a further placebo Teacher's would be.

    .. math:: t = \frac{R_T - \bar R}{s \sqrt{1 + 1/k}}, \qquad k - 1 \text{ degrees of freedom}

    for k placebos whose shares have mean :math:`\bar R` and standard deviation s. The square root makes it a test of one new
    draw (a prediction interval), not of the placebos' mean. It assumes that shares of Teachers of one recipe are about
    normally distributed.

    Args:
        share (float): the Teacher's share, R(S|B, T), or another score of Student and Base with the Teacher, such as
            agreement_over_base.
        placebo_shares (sequence of float): the same score with each placebo in the Teacher's place, at least 4.

    Returns:
        PlaceboTest: the test.

    Raises:
        ValueError: fewer than 4 placebos, a value outside [-2, 2], where all these scores lie.
        TypeError: shares that are not numbers.

    Source: docs/inference.md (placebo Teachers); Hahn & Meeker 1991 for the prediction of one new observation.

    Example::

        >>> placebo_test(0.61, [0.44, 0.47, 0.42, 0.46])
        PlaceboTest(statistic=6.6..., p_value=0.0035..., mean=0.4475, standard_deviation=0.0221..., degrees_of_freedom=3)
    """
    if not isinstance(placebo_shares, (list, tuple)):
        raise TypeError(f"placebo_shares must be a list of numbers, got {short_repr(placebo_shares)}.")
    k = len(placebo_shares)
    if k < LEAST_PLACEBOS:
        raise ValueError(f"placebo_shares must be of at least {LEAST_PLACEBOS} placebo Teachers, got {k}. Train further ones.")
    named = [("share", share), *((f"placebo_shares[{place}]", each) for place, each in enumerate(placebo_shares))]
    own, *others = (check_float(each, name, "between -2 and 2", -2, 2, closed=True) for name, each in named)
    center, spread = mean(others), stdev(others)
    if spread <= _SAME:
        return PlaceboTest(None, None, center, spread, k - 1)
    from scipy.special import stdtr  # imported here so that import captum_kd stays fast

    statistic = (own - center) / (spread * (1 + 1 / k) ** 0.5)
    return PlaceboTest(statistic, float(stdtr(k - 1, -statistic)), center, spread, k - 1)
