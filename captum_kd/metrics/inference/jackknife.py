r"""Jackknife intervals and tests from scores with each input left out.

They hold for the given trained models and for inputs like the given ones. They do not tell whether another training run
would give the same result; seed control tests that (:mod:`captum_kd.metrics.inference.seed_tests`).
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import check_float, short_repr
from captum_kd.metrics.inference.gram_matrices import Products, Score, check_products, check_scores

__all__ = ["JackknifeEstimate", "jackknife"]


class JackknifeEstimate(NamedTuple):
    """A score, its uncertainty over inputs, and the test against 0.

    Attributes:
        value (float): the score over all inputs.
        standard_error (float): jackknife standard error; None if not defined.
        low, high (float): the interval's ends, within [-1, 1] ([-2, 2] for a difference); None if not defined.
        p_value (float): two-sided, for the null hypothesis that the score is 0; None if not defined. Do not use it for
            FSS, for which 0 is not a null hypothesis since both networks see the same inputs. For the RS of a whole
            model, use :func:`~captum_kd.metrics.inference.label_permutation_p_value` instead.
    """

    value: float
    standard_error: Optional[float]
    low: Optional[float]
    high: Optional[float]
    p_value: Optional[float]


def jackknife(
    products: Products,
    score: Score,
    confidence: float = 0.95,
    *,
    minus: Sequence[Score] = (),
    groups: Optional[Tensor] = None,
) -> JackknifeEstimate:
    r"""Delete-one jackknife interval and t test of a score, or of its difference from the mean of others.

    .. math::
        SE^2 = \frac{n-1}{n} \sum_k \bigl(\theta_{(k)} - \bar\theta\bigr)^2, \qquad
        \theta \mp t_{n-1}\, SE

    With groups of dependent inputs, for example the tokens of each of G sentences, the differences are added up within groups:

    .. math::
        SE^2 = \frac{(n-1)^2}{n^2} \frac{G}{G-1} \sum_g \Bigl(\sum_{k \in g} \theta_{(k)} - \bar\theta\Bigr)^2, \qquad
        \theta \mp t_{G-1}\, SE

    The interval is not defined if the score or any leave-one-out score is not. Examples: constant features, a Student that is
    a copy of the Base, labels that have no geometry without one of the inputs. With few inputs, removal leaves a single
    dimension in which features determine only the sign of a leave-one-out score: removal of one geometry needs 6 inputs, of
    four geometries 7.

    Args:
        products (Products): products with leave-one-out values, n >= 5.
        score (Score): the score.
        confidence (float): nominal coverage of the interval, in (0, 1).
        minus (sequence of Score): scores whose mean is subtracted, for example those of placebo Teachers.
        groups (Tensor, optional): (n,) integers, the group of each input; inputs of one group may depend on each other.
            Default: None, all inputs are independent

    Returns:
        JackknifeEstimate: Python floats.

    Raises:
        ValueError: confidence outside (0, 1), no leave-one-out products, an unknown geometry, groups of another shape.

    Source: docs/inference.md (intervals); coverage measured by
    ``docs/scripts/simulate_intervals.py``.

    Example::

        >>> jackknife(products, transfer_scores()["rs_distilled"])
        JackknifeEstimate(value=0.109, standard_error=0.013, low=0.083, high=0.135, p_value=2e-16)
    """
    check_products(products)
    check_scores(products, score, minus)
    n = products.without.shape[0]
    if groups is not None and (not isinstance(groups, Tensor) or groups.shape != (n,) or groups.is_floating_point()):
        raise ValueError(f"groups must be an integer tensor ({n},), the group of each input, got {short_repr(groups)}.")
    confidence = check_float(confidence, "confidence", "between 0 and 1 (say 0.95)", 0, 1)
    if n == 0:
        raise ValueError("products has no leave-one-out values; make it by geometry_products(..., leave_one_out=True).")
    value, defined = difference(products, score, minus)
    of_scores, each_defined = zip(*(products.leave_one_out(each) for each in (score, *minus)))
    # The mean of differences, not the difference of means: equal scores then differ by exactly 0.
    values = torch.stack([of_scores[0] - each for each in of_scores[1:]]).mean(0) if minus else of_scores[0]
    all_defined = all(each_defined)
    bound = 2.0 if minus else 1.0
    if not (defined and all_defined and leaves_room(n, score, *minus)):
        return JackknifeEstimate(value, None, None, None, None)
    return estimate_of(value, values, confidence, bound, groups)


def leaves_room(n: int, *scores: Score) -> bool:
    """Whether U-centered matrices of n - 1 inputs have more than one dimension after removal."""
    removed = max(0 if isinstance(side, str) else len(side) - 1 for each in scores for side in each)
    return (n - 1) * (n - 4) // 2 - removed >= 2


def estimate_of(
    value: float, values: Tensor, confidence: float, bound: float, groups: Optional[Tensor] = None
) -> JackknifeEstimate:
    """The interval and test of a value within -bound to bound from its values without each input, (n,)."""
    n, moved = len(values), values - values.mean()
    if groups is not None:
        places = groups.unique(return_inverse=True)[1].to(moved.device)
        moved = moved.new_zeros(int(places.max()) + 1).index_add(0, places, moved)
    units = len(moved)
    if units < 2:
        return JackknifeEstimate(value, None, None, None, None)
    # Imported here so that import captum_kd stays fast.
    from scipy.special import stdtr, stdtrit

    error = float(moved.square().sum().mul((n - 1) ** 2 / n**2 * units / (units - 1)).sqrt())
    reach = float(stdtrit(units - 1, (1 + confidence) / 2)) * error
    low, high = max(-bound, value - reach), min(bound, value + reach)
    # Without a standard error there is no test, for example for the FSS of a model with itself.
    p_value = 2 * float(stdtr(units - 1, -abs(value) / error)) if error > 0 else None
    return JackknifeEstimate(value, error, low, high, p_value)


def difference(products: Products, score: Score, minus: Sequence[Score] = ()) -> tuple[float, bool]:
    """A score minus the mean of others, and whether all of them are defined; 0 if not."""
    (value, *others), defined = zip(*(products.score(each) for each in (score, *minus)))
    if not all(defined):
        return 0.0, False
    return (sum(value - other for other in others) / len(others) if others else value), True
