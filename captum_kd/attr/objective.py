r"""UniCAM's objectives and their gradients with respect to the distances.

The geometries are those of the models and, last, the target: the labels' or the Teacher's. With a target T,
:math:`J = R(P_{S|B}, T)`. Without one, :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. In batch mode the inputs are the
population. In reference mode each input is added alone to a fixed population
(:mod:`captum_kd.attr.layer_reference`), and J without a target is the maximum of the input's own row.

The formula is that of :mod:`captum_kd.distance.gram`: gradients are linear combinations of the centered distances, or
of the added rows, with coefficients from their Gram matrix. The removed geometries and the target are constants. If the
removed geometries span the target, nothing can correlate with it; J is then 0 and not a correlation of rounding errors.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import u_centered
from captum_kd.distance.gram import correlation_slope, remainder

Direction = tuple[int, tuple[int, ...]]
"""Index of the explained geometry, and indices of the geometries that are removed from it."""


def directions_of(models: int) -> tuple[Direction, ...]:
    """The directions of a Student and its Bases: all Bases are removed from the Student, the Student from each Base."""
    return ((0, tuple(range(1, models))), *((base, (0,)) for base in range(1, models)))


class Objectives(NamedTuple):
    """Objectives of the directions of removal, and their gradients.

    Attributes:
        values (Tensor): (directions,) in batch mode, (directions, N) in reference mode, (directions, N, s) on a path.
        slopes (Tensor): gradients with respect to the explained model's distances, (directions, N, N) in batch mode,
            (directions, N, m) in reference mode, (directions, N, s, m) on a path.
        is_left (Tensor): booleans with the shape of ``values``: False if removal leaves nothing of the features.
        has_target (Tensor): booleans: False if removal leaves nothing of the target; True without a target.
    """

    values: Tensor
    slopes: Tensor
    is_left: Tensor
    has_target: Tensor


class Order(NamedTuple):
    """The geometries of each direction in one order: the explained one, the removed ones, the target.

    Attributes:
        indices (Tensor): (directions, j), on the CPU, of these geometries among all k.
        given (range): places of the removed geometries in this order.
        target (int or None): place of the target.
    """

    indices: Tensor
    given: range
    target: Optional[int]

    @classmethod
    def of(cls, directions: Sequence[Direction], target: Optional[int]) -> "Order":
        """Shorter lists of removed geometries repeat their last one; removing it again has no effect."""
        most = max(len(given) for _, given in directions)
        last = () if target is None else (target,)
        indices = [[x, *given, *given[-1:] * (most - len(given)), *last] for x, given in directions]
        return cls(torch.tensor(indices, device="cpu"), range(1, 1 + most), None if target is None else 1 + most)


class PopulationGram(NamedTuple):
    """Inner products of a population's geometries, for each direction of removal.

    The removed geometries are subtracted from the explained one first, which changes no objective. If models are nearly
    alike, products of the whole geometries would lose the digits of their difference.

    Attributes:
        order (Order): order of the geometries.
        basis (Tensor): (directions, j, k) coefficients of the k geometries.
        gram (Tensor): (directions, j, j) inner products; (N, directions, j, j) if each input has its own population.
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
        coefficients = remainder(sides @ sides.mT, noise[order.indices], 0, order.given).coefficients
        basis, sides = (_explained_replaced(each, coefficients) for each in (basis, sides))
        return cls(order, basis, sides @ sides.mT)

    def part(self, directions: Sequence[int], geometries: Sequence[int]) -> "PopulationGram":
        """Some directions, and the geometries that they use; without the target if it is not among these."""
        indices = self.order.indices[[*directions]]
        basis, gram = self.basis[[*directions]], self.gram[..., [*directions], :, :]
        target = self.order.target
        if target is not None and int(indices[0, target]) not in geometries:
            indices, basis, gram, target = indices[:, :-1], basis[:, :-1], gram[..., :-1, :-1], None
        places = torch.tensor([[geometries.index(index) for index in row] for row in indices.tolist()], device="cpu")
        return PopulationGram(Order(places, self.order.given, target), basis[:, :, [*geometries]], gram)

    def to(self, device: torch.device) -> "PopulationGram":
        return PopulationGram(self.order, self.basis.to(device), self.gram.to(device))


def _explained_replaced(sides: Tensor, coefficients: Tensor) -> Tensor:
    """Sides (directions, j, ...) with the explained one replaced by a combination of all, (directions, j) coefficients."""
    return torch.cat([coefficients.to(sides)[:, None] @ sides, sides[:, 1:]], 1)


def population_objectives(
    geometries: Tensor,
    noise: Tensor,
    directions: Sequence[Direction],
    target: Optional[int] = None,
    all_digits: bool = True,
) -> Objectives:
    """The objectives of a batch that is its own population.

    Args:
        geometries (Tensor): (k, N, N) U-centered distances.
        noise (Tensor): (k,) squared norms that are rounding.
        directions (sequence of tuple): indices of the explained and of the removed geometries.
        target (int, optional): index of the target; None for the objective without a target.
        all_digits (bool): False if the features have half the digits of the geometries. Inner products of the whole
            geometries then keep the digits that the features have of a small difference between models.

    Returns:
        Objectives: 0, with a gradient of 0, if removal leaves nothing of the features or of the target.
    """
    order, n = Order.of(directions, target), geometries.shape[1]
    sides = geometries.flatten(1)[order.indices]
    # One transfer from the device; all algebra on these few numbers then runs on the CPU.
    numbers = torch.cat([sides @ sides.mT, noise[order.indices][..., None]], 2).cpu()
    gram, noise = numbers[..., :-1], numbers[..., -1]
    if all_digits:
        coefficients = remainder(gram, noise, 0, order.given).coefficients
        sides = _explained_replaced(sides, coefficients)
        gram = (sides @ sides.mT).cpu()
    if order.target is not None:
        found = correlation_slope(gram, noise, 0, order.target, order.given)
        slopes = found.coefficients.to(sides)[:, None] @ sides
        # The combinations are centered up to rounding, which would add up over a row if distances are nearly equal.
        return Objectives(
            found.values.to(sides), u_centered(slopes.reshape(-1, n, n)), found.is_left, found.has_target
        )
    side = remainder(gram, noise, 0, order.given)
    rest = (side.coefficients.to(sides)[:, None] @ sides).reshape(-1, n, n)
    strongest = rest.amax(2, keepdim=True)
    chosen = _share_of_largest(rest, strongest)
    chosen.diagonal(dim1=1, dim2=2).zero_()
    chosen = ((chosen + chosen.mT) / 2).flatten(1)[:, None]
    slopes = torch.baddbmm(chosen, chosen @ sides.mT @ side.removal.to(sides), sides).reshape(-1, n, n)
    is_left = side.defined.to(rest)
    slopes = u_centered(slopes) * is_left[:, None, None]
    return Objectives(strongest.sum((1, 2)) * is_left, slopes, side.defined, torch.ones_like(side.defined))


def row_weight(m: int) -> float:
    """The factor from the centered row of an input that is added to m others to its row of the U-centered matrix."""
    return (m - 2) / (m - 1)


def reference_objectives(
    population: PopulationGram,
    rows: Tensor,
    noise: Tensor,
    path: Optional[tuple[Tensor, Tensor]] = None,
) -> Objectives:
    r"""The objectives of inputs, each added alone to a population.

    Args:
        population (PopulationGram): of the population alone.
        rows (Tensor): (N, k, m) centered distances of the inputs to the population.
        noise (Tensor): (N, k) squared norms that are rounding.
        path (tuple of Tensor, optional): (N, s, m) and (N, s), the rows of the explained geometry, and their noise, if its
            features move along a path of s points while all others stay. There is one direction then.

    Returns:
        Objectives: as in :func:`population_objectives`, for each input and each point of the path. Slopes are gradients with
        respect to the rows of distances.
    """
    m = rows.shape[-1]
    weight = 2 * row_weight(m)  # of the product of two rows in an inner product
    order, (directions, j, _) = population.order, population.basis.shape
    sides = (population.basis.flatten(0, 1) @ rows).reshape(len(rows), directions, j, m)
    own, rest = sides[:, :, :1], sides[:, :, 1:]
    noise = noise[:, order.indices][:, :, None]
    if path is not None:
        x = int(order.indices[0, 0])
        own = own + (path[0] - rows[:, x, None])[:, None]
        noise = torch.cat([path[1][:, None, :, None], noise[..., 1:].expand(-1, -1, own.shape[2], -1)], 3)
    # The explained geometry alone moves along the path: (N, directions, s, ...).
    products = torch.cat([own.square().sum(3, keepdim=True), own @ rest.mT], 3)
    others = torch.cat([products[..., 1:, None], (rest @ rest.mT)[:, :, None].expand(-1, -1, own.shape[2], -1, -1)], 4)
    gram = torch.cat([products[..., None, :], others], 3).mul_(weight).add_(population.gram[..., None, :, :])
    if order.target is not None:
        of_gram = correlation_slope(gram, noise, 0, order.target, order.given)
        values, is_left, has_target = of_gram.values, of_gram.is_left, of_gram.has_target
        slopes = weight * of_gram.coefficients
        slopes = slopes[..., :1] * own + slopes[..., 1:] @ rest
    else:
        side = remainder(gram, noise, 0, order.given)
        is_left, has_target = side.defined, torch.ones_like(side.defined)
        left = side.coefficients[..., :1] * own + side.coefficients[..., 1:] @ rest
        strongest = left.amax(3, keepdim=True)
        chosen = _share_of_largest(left, strongest)
        scale = row_weight(m) * side.defined.to(left)[..., None]
        values = (strongest * scale)[..., 0]
        onto = torch.cat([(chosen * own).sum(3, keepdim=True), chosen @ rest.mT], 3)
        onto = weight * (onto[..., None, :] @ side.removal)[..., 0, :]
        slopes = (chosen + onto[..., :1] * own + onto[..., 1:] @ rest) * scale
    slopes = slopes - slopes.mean(3, keepdim=True)
    found = [each.transpose(0, 1) for each in (values, slopes, is_left, has_target)]
    return Objectives(*(found if path is not None else (each[:, :, 0] for each in found)))


def _share_of_largest(values: Tensor, largest: Tensor) -> Tensor:
    """The gradient of each row's maximum, shared equally among equally large entries."""
    chosen = (values == largest).to(values.dtype)
    return chosen / chosen.sum(-1, keepdim=True)


def warn_of_losses(found: Objectives, whose_target: str) -> None:
    """Warns if removal leaves nothing of the features or of the target, of ``whose_target``: "labels" or "Teacher"."""
    flags = torch.stack([found.is_left, found.is_left & found.has_target])  # (2, directions, ...)
    flags = flags[..., None] if flags.dim() == 2 else flags
    n = flags.shape[2]
    # One transfer from the device.
    for lost, undefined in zip(*(~flags).sum(2).tolist()):
        if lost:
            _warn_nothing_left("the batch" if found.is_left.dim() == 1 else f"{lost} of {n} inputs")
        # An input without features and target is counted once.
        if undefined > lost:
            _warn_no_target("the batch" if found.is_left.dim() == 1 else f"{undefined - lost} of {n} inputs", whose_target)


def _warn_nothing_left(which: str) -> None:
    warn_user(
        f"Nothing of the features is left for {which} after the other model's were removed: they are constant, or "
        "the same up to rotation and scale. These maps are zero."
    )


def _warn_no_target(which: str, whose: str) -> None:
    warn_user(
        f"Nothing of the geometry of the {whose} is left for {which} after the other model's was removed: it is "
        "constant, or the same up to scale. Nothing can correlate with it; these maps are zero."
    )
