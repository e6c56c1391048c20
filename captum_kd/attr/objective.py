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


class Order(NamedTuple):
    """The geometries of each direction in one order: what is explained, what is removed, the target.

    Attributes:
        indices (Tensor): (directions, j), on the CPU, of these geometries among all k.
        given (range): places of the removed ones in this order.
        target (int or None): place of the target.
    """

    indices: Tensor
    given: range
    target: Optional[int]

    @classmethod
    def of(cls, directions: Sequence[Direction], target: Optional[int]) -> "Order":
        """A geometry that is removed twice is removed once: shorter lists repeat their last one."""
        most = max(len(given) for _, given in directions)
        last = () if target is None else (target,)
        indices = [[x, *given, *given[-1:] * (most - len(given)), *last] for x, given in directions]
        return cls(torch.tensor(indices, device="cpu"), range(1, 1 + most), None if target is None else 1 + most)


class PopulationGram(NamedTuple):
    """Inner products of a population's geometries, for each direction of removal.

    The explained geometry is replaced by what the removed ones leave of it, which changes no objective: where models are
    nearly alike, products of the whole geometries would lose the digits of the difference.

    Attributes:
        order (Order): of the geometries.
        basis (Tensor): (directions, j, k) coefficients of the k geometries.
        gram (Tensor): (directions, j, j).
    """

    order: Order
    basis: Tensor
    gram: Tensor

    @classmethod
    def of(cls, geometries: Tensor, noise: Tensor, directions: Sequence[Direction], target: Optional[int]) -> "PopulationGram":
        """From (k, m, m) centered distances and the squared norms (k,) that are rounding."""
        order, flat = Order.of(directions, target), geometries.flatten(1)
        basis = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)[order.indices]
        sides = basis @ flat
        coefficients = remainder(sides @ sides.mT, noise[order.indices], 0, order.given).coefficients[:, None]
        basis, sides = (torch.cat([coefficients @ each, each[:, 1:]], 1) for each in (basis, sides))
        return cls(order, basis, sides @ sides.mT)

    def part(self, directions: list[int], with_target: bool) -> "PopulationGram":
        """Some directions only, or without the target."""
        indices, basis, gram = self.order.indices[directions], self.basis[directions], self.gram[directions]
        if self.order.target is None or with_target:
            return PopulationGram(self.order._replace(indices=indices), basis, gram)
        order = self.order._replace(indices=indices[:, :-1], target=None)
        return PopulationGram(order, basis[:, :-1, :-1], gram[:, :-1, :-1])

    def to(self, device: torch.device) -> "PopulationGram":
        return PopulationGram(self.order, self.basis.to(device), self.gram.to(device))


def population_objectives(
    geometries: Tensor,
    noise: Tensor,
    directions: Sequence[Direction] = PAIR,
    target: Optional[int] = None,
    whose_target: str = "labels",
    all_digits: bool = True,
) -> Objectives:
    """The objectives of a batch that is its own population.

    Args:
        geometries (Tensor): (k, N, N) U-centered distances.
        noise (Tensor): (k,) squared norms that are rounding.
        directions (sequence of tuple): what is explained and what is removed, by index.
        target (int, optional): index of the target; None for the objective without one.
        whose_target (str): "labels" or "Teacher", for the warning.
        all_digits (bool): False where features have half the digits of the geometries: inner products of the whole
            geometries then hold all that the features tell of a small difference between models.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, where nothing of the features or of the target is left after
        removal.
    """
    order, n = Order.of(directions, target), geometries.shape[1]
    sides = geometries.flatten(1)[order.indices]
    # One transfer, after which all algebra on these few numbers runs on the CPU.
    numbers = torch.cat([sides @ sides.mT, noise[order.indices][..., None]], 2).cpu()
    gram, noise = numbers[..., :-1], numbers[..., -1]
    if all_digits:
        coefficients = remainder(gram, noise, 0, order.given).coefficients
        sides = torch.cat([coefficients.to(sides)[:, None] @ sides, sides[:, 1:]], 1)
        gram = (sides @ sides.mT).cpu()
    if order.target is not None:
        found = correlation_slope(gram, noise, 0, order.target, order.given)
        _warn_of_losses(found.is_left, found.has_target, "the batch", whose_target)
        slopes = found.coefficients.to(sides)[:, None] @ sides
        # The combinations are centered but for the rounding of distances of about the same size, which would add up over a row.
        return Objectives(found.values.to(sides), u_centered(slopes.reshape(-1, n, n)))
    side = remainder(gram, noise, 0, order.given)
    _warn_of_losses(side.defined, None, "the batch", whose_target)
    rest = (side.coefficients.to(sides)[:, None] @ sides).reshape(-1, n, n)
    strongest = rest.amax(2, keepdim=True)
    chosen = _share_of_largest(rest, strongest)
    chosen.diagonal(dim1=1, dim2=2).zero_()
    chosen = ((chosen + chosen.mT) / 2).flatten(1)[:, None]
    slopes = torch.baddbmm(chosen, chosen @ sides.mT @ side.removal.to(sides), sides).reshape(-1, n, n)
    is_left = side.defined.to(rest)
    return Objectives(strongest.sum((1, 2)) * is_left, u_centered(slopes) * is_left[:, None, None])


def reference_objectives(
    population: PopulationGram, rows: Tensor, noise: Tensor, whose_target: str = "labels"
) -> Objectives:
    r"""The objectives of inputs that are added, each alone, to a reference population.

    Args:
        population (PopulationGram): of the reference population alone.
        rows (Tensor): (N, k, m) centered distances of the inputs to the references.
        noise (Tensor): (N, k) squared norms that are rounding.
        whose_target: as for :func:`population_objectives`.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, for inputs where nothing of the features or of the target is
        left. The slopes are those with respect to the rows of distances.
    """
    m = rows.shape[-1]
    row_weight = (m - 2) / (m - 1)  # from a centered row to the row of the U-centered matrix
    weight = 2 * row_weight  # what the product of two rows adds to an inner product
    order, which = population.order, f"of {len(rows)} inputs"
    sides = (population.basis.flatten(0, 1) @ rows).reshape(len(rows), *population.gram.shape[:2], m)
    gram = torch.add(population.gram, sides @ sides.mT, alpha=weight)  # (N, directions, j, j)
    noise = noise[:, order.indices]
    if order.target is not None:
        found = correlation_slope(gram, noise, 0, order.target, order.given)
        _warn_of_losses(found.is_left.T, found.has_target.T, which, whose_target)
        values, slopes = found.values, (weight * found.coefficients)[:, :, None] @ sides
    else:
        side = remainder(gram, noise, 0, order.given)
        _warn_of_losses(side.defined.T, None, which, whose_target)
        rest = side.coefficients[:, :, None] @ sides
        strongest = rest.amax(3, keepdim=True)
        chosen = _share_of_largest(rest, strongest)
        scale = row_weight * side.defined.to(rest)[..., None, None]
        values = (strongest * scale)[..., 0, 0]
        slopes = (chosen + weight * (chosen @ sides.mT @ side.removal) @ sides) * scale
    slopes = slopes[:, :, 0].transpose(0, 1)
    return Objectives(values.T, slopes - slopes.mean(2, keepdim=True))


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
