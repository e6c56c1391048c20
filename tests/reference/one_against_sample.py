"""The t test of one value against a sample, whose spread both have; older versions of scipy do not test single values."""

from statistics import mean, stdev
from typing import NamedTuple, Sequence

from scipy import stats


class TTest(NamedTuple):
    statistic: float
    pvalue: float
    df: int


def t_test(value: float, sample: Sequence[float]) -> TTest:
    """One-sided: is the value larger?"""
    k = len(sample)
    statistic = (value - mean(sample)) / (stdev(sample) * (1 + 1 / k) ** 0.5)
    return TTest(statistic, float(stats.t.sf(statistic, k - 1)), k - 1)
