r"""The parts of single inputs in a score.

A score is a sum over pairs of inputs. Half of each pair's term belongs to each of its two inputs, so the parts of all inputs add
up to the score. A part is large if the models arrange the other inputs around this one alike. It describes these inputs in this
population; a part is no score of its own, and it has no null hypothesis by itself.
"""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor

from captum_kd.distance.gram import remainder
from captum_kd.metrics.inference.gram_matrices import Products, Score, check_products, check_scores

__all__ = ["input_parts"]


def input_parts(products: Products, score: Score, *, minus: Sequence[Score] = ()) -> Tensor:
    r"""Each input's part in a score, or in its difference from the mean of others.

    .. math::
        r_i = \frac{\sum_j Q_{ij} T_{ij}}{\|Q\| \|T\|}, \qquad \sum_i r_i = R(Q, T)

    Q and T are the score's two sides after removal, over all inputs. The removal itself depends on all inputs.

    Args:
        products (Products): products with leave-one-out values, n >= 5.
        score (Score): the score.
        minus (sequence of Score): scores whose mean is subtracted, for example those of placebo Teachers.

    Returns:
        Tensor: (n,) float64, on the products' device; 0 if the score, or one of those subtracted, is undefined.

    Raises:
        ValueError: products without leave-one-out values, an unknown geometry.
        TypeError: products that are not :class:`Products`, scores that are not pairs of sides.

    Source: Szekely & Rizzo 2014 for the inner product.

    Example::

        >>> products = geometry_products({"student": d_s, "base": d_b, "labels": d_g})
        >>> parts = input_parts(products, transfer_scores()["rs_distilled"])
        >>> parts.argsort(descending=True)[:10]  # the inputs with the largest parts
    """
    check_products(products)
    check_scores(products, score, minus)
    rows = products.rows()
    found = [score_parts(products, rows, each) for each in (score, *minus)]
    if any(each is None for each in found):
        return products.full.new_zeros(len(rows))
    own, *others = [each for each in found if each is not None]
    return torch.stack([own - each for each in others]).mean(0) if others else own


def score_parts(products: Products, rows: Tensor, score: Score) -> Optional[Tensor]:
    """Each input's part (n,) in a score, from the products' rows; None if the score is undefined."""
    sides = [[products.names.index(name) for name in ((side,) if isinstance(side, str) else side)] for side in score]
    left, right = (remainder(products.full, products.noise, of, removed) for of, *removed in sides)
    if not bool(left.defined & right.defined):
        return None
    return (rows @ right.coefficients) @ left.coefficients / (left.square.sqrt() * right.square.sqrt())
