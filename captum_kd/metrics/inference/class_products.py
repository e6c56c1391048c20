r"""Geometries of single classes: one class against the rest.

Let the distance of two inputs be :math:`\sqrt 2` if exactly one of them is in class c, else 0. Its U-centered matrix
:math:`G_c` has three values. The rows of a U-centered matrix P add up to 0, so within a row

.. math:: \sum_j P_{ij} (G_c)_{ij} = \bigl(u_{out} - u_{in} \mp \sqrt 2\bigr) s_i, \qquad s_i = \sum_{j \in c} P_{ij},

with minus for an input inside the class and plus outside; u is the vector that U-centers the distances. So sums over the
class's columns give all inner products with :math:`G_c`, and with them scores, leave-one-out values and intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kd.distance.centering import noise_level
from captum_kd.metrics.inference.gram_matrices import Products

__all__ = ["ONE_CLASS", "one_hot", "with_class"]

ONE_CLASS = "\0class"
"""The name of the class's geometry in the products of :func:`with_class`."""


def one_hot(labels: Tensor, classes: Tensor) -> Tensor:
    """(n, C) float64, 1 for the members of each class."""
    return (labels[:, None] == classes).double()


def with_class(products: Products, sums: Tensor, members: Tensor) -> Products:
    """Products with one more geometry, :data:`ONE_CLASS`: one class against the rest.

    Args:
        products (Products): products of k geometries with leave-one-out values.
        sums (Tensor): (k, n), sums of the U-centered rows over the class's members
            (:attr:`~captum_kd.distance.block_sums.PairSums.by_class`).
        members (Tensor): (n,) booleans.

    Returns:
        Products: of k + 1 geometries. A class of one input, or of all but one, has no geometry.
    """
    n, inside = len(members), int(members.sum())
    outside, step, pairs = n - inside, 2**0.5, n * (n - 3)
    middle = step * inside * outside / ((n - 1) * (n - 2))
    u_in, u_out = step * outside / (n - 2) - middle, step * inside / (n - 2) - middle
    across, tilt = step - u_in - u_out, u_out - u_in
    is_in = members.to(products.full)
    of_inside = (inside - 1) * (2 * u_in) ** 2 + outside * across**2
    of_outside = (outside - 1) * (2 * u_out) ** 2 + inside * across**2
    own = of_outside + (of_inside - of_outside) * is_in
    with_others = ((tilt + step - 2 * step * is_in) * sums).T  # (n, k)
    by_row = torch.cat([with_others, own[:, None]], 1)
    total = by_row.sum(0)
    left = (total - by_row * (2 * (n - 2) / (n - 3))) / ((n - 1) * (n - 4))
    raw = 2 * step**2 * inside * outside
    noise = products.noise.new_tensor([raw * noise_level(torch.float64) ** 2 / pairs])
    return Products(
        (*products.names, ONE_CLASS),
        _bordered(products.full, total / pairs),
        _bordered(products.without, left),
        torch.cat([products.noise, noise]),
    )


def _bordered(gram: Tensor, last: Tensor) -> Tensor:
    """(..., k + 1, k + 1): Gram matrices with one more row and column."""
    return torch.cat([torch.cat([gram, last[..., None, :-1]], -2), last[..., None]], -1)
