r"""Jackknife intervals and tests from scores with each input left out.

They speak about these trained models on inputs like the ones they were given, and about
nothing else: whether another training run would show the same is a question for seeds
(:mod:`captum_kd.metrics.inference.seed_tests`).
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from captum_kd._utils.validation import check_float
from captum_kd.distance.centering import LEAST_WITH_REMOVAL
from captum_kd.metrics.inference.gram_matrices import Products, Score, check_products, check_score

__all__ = ["JackknifeEstimate", "jackknife"]


class JackknifeEstimate(NamedTuple):
    """A score, its uncertainty over inputs, and the test against 0.

    Attributes:
        value (float): the score over all inputs.
        standard_error (float): jackknife standard error; None where it is not defined.
        low, high (float): the interval's ends, within [-1, 1]; None where not defined.
        p_value (float): two-sided, of the score being 0; None where not defined. Not to be
            used for FSS (two networks see the same inputs, 0 is no null) nor for the RS of a
            whole model, for which labels can be permuted.
    """

    value: float
    standard_error: Optional[float]
    low: Optional[float]
    high: Optional[float]
    p_value: Optional[float]


def jackknife(products: Products, score: Score, confidence: float = 0.95) -> JackknifeEstimate:
    r"""Delete-one jackknife interval and t test of a score.

    .. math::
        SE^2 = \frac{n-1}{n} \sum_k \bigl(\theta_{(k)} - \bar\theta\bigr)^2, \qquad
        \theta \mp t_{n-1}\, SE

    Not defined, and so None, where the score or any of its leave-one-out values is not: a class
    whose only geometry is one input, constant features, a Student that is a copy of the Base. Nor are
    scores with removal of 5 inputs: of the 4 that remain such a score says +1 or -1 at random.

    Args:
        products (Products): with leave-one-out products, n >= 5.
        score (Score): which score.
        confidence (float): the interval's nominal coverage, in (0, 1).

    Returns:
        JackknifeEstimate: Python floats.

    Raises:
        ValueError: confidence outside (0, 1), no leave-one-out products, an unknown geometry.

    Source: docs/inference.md (intervals); coverage measured by
    ``docs/scripts/simulate_intervals.py``.

    Example::

        >>> jackknife(products, transfer_scores()["rs_distilled"])
        JackknifeEstimate(value=0.109, standard_error=0.013, low=0.083, high=0.135, p_value=2e-16)
    """
    check_products(products)
    check_score(products, score)
    score = Score(*score)
    confidence = check_float(confidence, "confidence", "between 0 and 1 (say 0.95)", 0, 1)
    n = products.without.shape[0]
    if n == 0:
        raise ValueError("products holds no leave-one-out values; make it with leave_one_out=True.")
    value, defined = products.score(score)
    values, all_defined = products.leave_one_out(score)
    has_removal = any(not isinstance(side, str) for side in score)
    if not (defined and all_defined) or (has_removal and n - 1 < LEAST_WITH_REMOVAL):
        return JackknifeEstimate(value, None, None, None, None)
    # Imported here so that import captum_kd stays fast.
    from scipy.special import stdtr, stdtrit

    error = float((values - values.mean()).square().sum().mul((n - 1) / n).sqrt())
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    low, high = max(-1.0, value - reach), min(1.0, value + reach)
    # A score that no input changes (FSS of a model with itself) leaves nothing to test.
    p_value = 2 * float(stdtr(n - 1, -abs(value) / error)) if error > 0 else None
    return JackknifeEstimate(value, error, low, high, p_value)
