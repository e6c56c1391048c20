"""The t test of one value against a sample, by scipy's two-sample test from means and standard deviations.

With scipy 1.10, the test of the values themselves gives NaN for a single value.
"""

from statistics import mean, stdev
from typing import NamedTuple, Sequence

from scipy import stats


class TTest(NamedTuple):
    statistic: float
    pvalue: float
    df: int


def t_test(value: float, sample: Sequence[float]) -> TTest:
    """One-sided, with equal variances, which are that of the sample: is the value larger?"""
    found = stats.ttest_ind_from_stats(value, 0.0, 1, mean(sample), stdev(sample), len(sample), alternative="greater")
    return TTest(float(found.statistic), float(found.pvalue), 1 + len(sample) - 2)
