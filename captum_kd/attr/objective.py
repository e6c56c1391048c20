r"""UniCAM's objectives and their gradients with respect to the distances.

The geometries are those of the models and, last, the target: the labels' or the Teacher's. With a target T,
:math:`J = R(P_{S|B}, T)`. Without one, :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. In batch mode the inputs are the
population. In reference mode each input is added alone to a fixed population
(:mod:`captum_kd.attr.reference_population`), and J without a target is the maximum of its own row.

The formula is that of :mod:`captum_kd.distance.gram`: gradients are linear combinations of the centered distances, or
of the added rows, with coefficients from their Gram matrix. What is removed and the target are constants. A target
that what is removed spans cannot correlate with what is left: J is 0 then, not the correlation of rounding errors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import u_centered
from captum_kd.distance.gram import correlation_slope, remainder

Direction = tuple[int, tuple[int, ...]]
"""Index of the explained geometry, and indices of those that are removed from it."""

PAIR: tuple[Direction, Direction] = ((0, (1,)), (1, (0,)))
"""Of two models: the first is explained and the second removed, and the reverse."""


class Objectives(NamedTuple):
    """Objectives of the directions of removal, and their gradients.

    Attributes:
        values (Tensor): (directions,) of a batch, (directions, N) of inputs that are added to a population.
        slopes (Tensor): with respect to the explained model's distances, (directions, N, N) or, of added inputs,
            (directions, N, m).
    """

    values: Tensor
    slopes: Tensor


def population_objectives(
    geometries: Tensor,
    noise: Tensor,
    directions: Sequence[Direction] = PAIR,
    target: Optional[int] = None,
    whose_target: str = "labels",
) -> Objectives:
    """The objectives of a batch that is its own population.

    Args:
        geometries (Tensor): (k, N, N) U-centered distances.
        noise (Tensor): (k,) squared norms that are rounding.
        directions (sequence of tuple): what is explained and what is removed, by index.
        target (int, optional): index of the target; None for the objective without one.
        whose_target (str): "labels" or "Teacher", for the warning.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, where nothing of the features or of the target is left after
        removal.
    """
    flat = geometries.flatten(1)
    # One transfer, after which all algebra on these few numbers runs on the CPU.
    numbers = torch.cat([flat @ flat.T, noise[:, None]], 1).cpu()
    order = Order.of(tuple(directions), target, numbers.device)
    gram, noise = numbers[order.rows, order.columns], numbers[order.indices, -1]
    shape = (-1, *geometries.shape[1:])
    if target is None:
        side = remainder(gram, noise, 0, order.given)
        _warn_of_losses(side.defined, None, "the batch", whose_target)
        rest = (order.of_all(side.rest.coefficients, len(flat)).to(flat) @ flat).reshape(shape)
        strongest = rest.amax(2, keepdim=True)
        chosen = _share_of_largest(rest, strongest)
        chosen.diagonal(dim1=1, dim2=2).zero_()
        slopes = chosen = (chosen + chosen.mT) / 2
        for direction, per_square in side.directions:
            removed = (order.of_all(direction.coefficients, len(flat)).to(flat) @ flat).reshape(shape)
            share = (chosen * removed).sum((1, 2)) * per_square.to(removed)
            slopes = torch.addcmul(slopes, share[:, None, None], removed, value=-1)
        is_left = side.defined.to(rest)
        return Objectives(strongest.sum((1, 2)) * is_left, u_centered(slopes) * is_left[:, None, None])
    found = correlation_slope(gram, noise, 0, -1, order.given)
    _warn_of_losses(found.is_left, found.has_target, "the batch", whose_target)
    slopes = (order.of_all(found.coefficients, len(flat)).to(flat) @ flat).reshape(shape)
    # The combinations are centered but for the rounding of distances of about the same size, which would add up over a row.
    return Objectives(found.values.to(flat), u_centered(slopes))


def reference_objectives(
    population: Tensor,
    rows: Tensor,
    noise: Tensor,
    directions: Sequence[Direction] = PAIR,
    target: Optional[int] = None,
    whose_target: str = "labels",
) -> Objectives:
    r"""The objectives of inputs that are added, each alone, to a reference population.

    Args:
        population (Tensor): (k, k) Gram matrix of the reference population alone.
        rows (Tensor): (N, k, m) centered distances of the inputs to the references.
        noise (Tensor): (N, k) squared norms that are rounding.
        directions, target, whose_target: as for :func:`population_objectives`.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, for inputs where nothing of the features or of the target is
        left. The slopes are those with respect to the rows of distances.
    """
    m = rows.shape[-1]
    row_weight = (m - 2) / (m - 1)  # from a centered row to the row of the U-centered matrix
    weight = 2 * row_weight  # what the product of two rows adds to an inner product
    order = Order.of(tuple(directions), target, rows.device)
    gram = torch.baddbmm(population, rows, rows.mT, alpha=weight)[:, order.rows, order.columns]
    noise, k, which = noise[:, order.indices], rows.shape[1], f"of {len(rows)} inputs"
    if target is None:
        side = remainder(gram, noise, 0, order.given)
        _warn_of_losses(side.defined.T, None, which, whose_target)
        rest = order.of_all(side.rest.coefficients, k) @ rows
        strongest = rest.amax(2, keepdim=True)
        slopes = chosen = _share_of_largest(rest, strongest)
        for direction, per_square in side.directions:
            removed = order.of_all(direction.coefficients, k) @ rows
            # The directions are orthogonal over the population with the row, not over the row alone: each takes its share
            # of the chosen entry, not of what earlier directions left.
            share = weight * (chosen * removed).sum(2) * per_square
            slopes = torch.addcmul(slopes, share[..., None], removed, value=-1)
        scale = row_weight * side.defined.to(rest)
        values, slopes = strongest[..., 0] * scale, slopes * scale[..., None]
    else:
        found = correlation_slope(gram, noise, 0, -1, order.given)
        _warn_of_losses(found.is_left.T, found.has_target.T, which, whose_target)
        values, slopes = found.values, (order.of_all(found.coefficients, k) * weight) @ rows
    return Objectives(values.T, (slopes - slopes.mean(2, keepdim=True)).transpose(0, 1))


class Order(NamedTuple):
    """The geometries of each direction in one order: what is explained, what is removed, the target.

    Attributes:
        indices (Tensor): (directions, p), of these geometries among all k.
        rows, columns (Tensor): (directions, p, 1) and (directions, 1, p), to take their Gram matrices.
        given (range): places of the removed ones in this order.
    """

    indices: Tensor
    rows: Tensor
    columns: Tensor
    given: range

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, directions: tuple[Direction, ...], target: Optional[int], device: torch.device) -> "Order":
        """A geometry that is named twice among the removed ones counts once: shorter lists repeat their last one."""
        most = max(len(given) for _, given in directions)
        last = () if target is None else (target,)
        listed = [[x, *given, *given[-1:] * (most - len(given)), *last] for x, given in directions]
        indices = torch.tensor(listed, device=device)
        return cls(indices, indices[:, :, None], indices[:, None], range(1, 1 + most))

    def of_all(self, coefficients: Tensor, k: int) -> Tensor:
        """Coefficients (..., directions, p) of the geometries in this order, as those (..., directions, k) of all."""
        indices = self.indices.expand(*coefficients.shape[:-2], -1, -1) if coefficients.dim() > 1 else self.indices
        coefficients = coefficients.expand(indices.shape)
        return coefficients.new_zeros(*indices.shape[:-1], k).scatter_add_(-1, indices, coefficients)


def _share_of_largest(values: Tensor, largest: Tensor) -> Tensor:
    """The gradient of each row's maximum: shared equally by entries that are equally large."""
    chosen = (values == largest).to(values.dtype)
    return chosen / chosen.sum(-1, keepdim=True)


def _warn_of_losses(is_left: Tensor, has_target: Optional[Tensor], which: str, whose_target: str) -> None:
    """Warns of directions (directions,) or of their inputs (directions, N) without features or target after removal."""
    defined = is_left if has_target is None else is_left & has_target
    # One transfer from the device.
    counts = (~torch.stack([is_left, defined])).reshape(2, len(is_left), -1).sum(2)
    for lost, undefined in zip(*counts.tolist()):
        if lost:
            _warn_nothing_left(which if is_left.dim() == 1 else f"{lost} {which}")
        # An input without features counts as one of those only.
        if undefined > lost:
            _warn_no_target(which if is_left.dim() == 1 else f"{undefined - lost} {which}", whose_target)


def _warn_nothing_left(which: str) -> None:
    warn_user(
        f"Nothing of the features is left for {which} after the other model's were removed (they are constant, or "
        "the same up to rotation and scale); these maps are zero."
    )


def _warn_no_target(which: str, whose: str) -> None:
    warn_user(
        f"Nothing of the geometry of the {whose} is left for {which} once the other model's is removed (it is "
        "constant, or the same up to scale), so nothing can follow it; these maps are zero."
    )
