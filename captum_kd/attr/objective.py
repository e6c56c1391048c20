r"""UniCAM's objectives and their gradients with respect to the distances, in closed form.

Batch mode, the paper's: the inputs are the population. With a target T, the labels' geometry or
the Teacher's,

.. math:: J = R(P_{S|B}, T)

and without :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. Reference mode adds each input on its own to
a fixed population (:mod:`captum_kd.attr.reference_population`). The Base model's geometry and the target are
constants. A target that is nothing but the removed geometry, up to scale, cannot correlate with
what is left: J is 0 then, not the correlation of rounding errors.

What is left, :math:`Q = P_S - s P_B` with :math:`s = \langle P_S, P_B\rangle / \langle P_B, P_B\rangle`, is orthogonal to
:math:`P_B`. With :math:`T' = T - t P_B` what is left of the target,

.. math:: \frac{\partial J}{\partial P_S} = \frac{1}{\|Q\| \|T\|}
          \Bigl( T' - \frac{\langle Q, T\rangle}{\langle Q, Q\rangle}\, Q \Bigr)

and, centering being an orthogonal projection, the gradient at the distances is the same matrix. Both directions are
taken at once, and a device is asked once: the fewest kernels, which on a GPU are what small populations cost. The gradient's
norm is a multiple of :math:`\sqrt{1 - J^2}`: where that is rounding, J being 1 or -1, so is its direction, and it is 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._utils.warnings import warn_user
from captum_kd.attr.reference_population import AddedRows, Pairing
from captum_kd.distance.centering import Geometry, u_centered

__all__ = ["Objectives", "population_objectives", "reference_objectives"]


class Objectives(NamedTuple):
    """Objectives of one direction of removal or of both, and their gradients.

    Attributes:
        values (Tensor): (k,) of a batch, (k, N) of inputs that are added to a population.
        slopes (Tensor): at the explained model's distances, (k, N, N) or, of added inputs, (k, N, m).
    """

    values: Tensor
    slopes: Tensor


def population_objectives(
    sides: Geometry, target: Optional[Geometry], level: float, both: bool = True, whose_target: str = "labels"
) -> Objectives:
    """The objectives of a batch that is its own population.

    Args:
        sides (Geometry): of both models: U-centered (2, N, N) and the norms (2,) of the raw distances; first the model that
            is explained, then the one whose features are removed.
        target (Geometry, optional): (N, N), that of the labels or of the Teacher; None for the objective without either.
        level (float): norms at most this share of the raw distances' are rounding.
        both (bool): also those with the models in each other's place.
        whose_target (str): "labels" or "Teacher", for the warning.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, where nothing is left after removal, be it of the features or of
        the target.
    """
    own, other = _paired(sides.matrix, both)
    squares = _products(sides.matrix, sides.matrix)
    # What is removed takes nothing away where it has no geometry: constant features.
    is_there = squares > (level * sides.raw_norm).square()
    per_square = torch.where(is_there, squares, torch.inf).reciprocal()
    (_, per_square), (raw_norms, _) = _paired(per_square, both), _paired(sides.raw_norm, both)
    rest = _less(own, _products(own, other) * per_square, other)
    left = _products(rest, rest)
    if target is None:
        numbers = torch.stack([left, raw_norms]).tolist()
        is_left = [_counts(square, raw, level) for square, raw in zip(*numbers)]
        _warn_of_batch(is_left, [True] * len(is_left), whose_target)
        strongest = rest.amax(2, keepdim=True)
        chosen = (rest == strongest).to(rest.dtype)
        chosen = chosen / chosen.sum(2, keepdim=True)
        chosen.diagonal(dim1=1, dim2=2).zero_()
        chosen = u_centered(_less((chosen + chosen.mT) / 2, _products(chosen, other) * per_square, other))
        counts = rest.new_tensor(is_left)
        return Objectives(strongest.sum((1, 2)) * counts, chosen * counts[:, None, None])
    aim = target.matrix
    aim_left = _less(aim, _products(aim, other) * per_square, other)
    columns = [left, raw_norms, _products(rest, aim), _products(aim_left, aim_left)]
    whole = torch.stack([_products(aim, aim), target.raw_norm]).expand(len(own), 2)
    numbers = torch.cat([torch.stack(columns, 1), whole], 1).tolist()
    values, of_aim, of_rest = [], [], []
    is_left = [_counts(row[0], row[1], level) for row in numbers]
    has_aim = [_counts(row[3], row[5], level) for row in numbers]
    _warn_of_batch(is_left, has_aim, whose_target)
    for defined, (square, _, product, _, aim_square, _) in zip(map(all, zip(is_left, has_aim)), numbers):
        norms = math.sqrt(square) * math.sqrt(aim_square) if defined else math.inf
        value = max(-1.0, min(1.0, product / norms))
        has_room = defined and 1 - value**2 > level**2
        values.append(value)
        of_aim.append(1 / norms if has_room else 0.0)
        of_rest.append(-product / norms / square if has_room else 0.0)
    value, aims, rests = rest.new_tensor([values, of_aim, of_rest])
    slopes = torch.addcmul(aim_left * aims[:, None, None], rest, rests[:, None, None])
    # They are centered but for the rounding of distances that are all about as large, which would add up over a row.
    return Objectives(value, u_centered(slopes))


def reference_objectives(
    pairings: Pairing, sides: AddedRows, target: Optional[AddedRows], both: bool = True, whose_target: str = "labels"
) -> Objectives:
    r"""The objectives of inputs that are added, each on its own, to a reference population.

    Without a target an input's objective is its own row's term alone, :math:`\max_j (P_{S|B})_{0j}`.

    Args:
        pairings (Pairing): inner products (2,) of the reference population itself, in the order of the sides.
        sides (AddedRows): distances of the inputs to the references in both models, (2, N, m): first the model that is
            explained.
        target (AddedRows, optional): the same (N, m) among the labels or in the Teacher.
        both (bool): also those with the models in each other's place.
        whose_target (str): "labels" or "Teacher", for the warning.

    Returns:
        Objectives: 0, with a gradient of 0 and a warning, for inputs where nothing is left, be it of the features or of the
        target. Slopes are those at the centered rows' distances.
    """
    known = pairings if both else Pairing(*(each[:1] for each in pairings))
    known = Pairing(*(each[:, None] for each in known))
    (own, removed), (own_floor, other_floor) = _paired(sides.rows, both), _paired(sides.floor, both)
    weight = sides.weight
    # Removal is linear: what the reference population alone already explains is taken out of the
    # added rows first, so that no digits are lost where the two models are nearly alike.
    rest = _less(own, known.slope, removed)
    rest_other = weight * _row_products(rest, removed)
    other_other = known.other_other + weight * _row_products(removed, removed)
    per_other = torch.where(other_other > other_floor, other_other, torch.inf).reciprocal()
    slope = rest_other * per_other
    left = known.rest_rest + weight * _row_products(rest, rest) - slope * rest_other
    is_left = left > own_floor
    if target is None:
        rest = _less(rest, slope, removed)
        strongest = rest.amax(2, keepdim=True)
        chosen = (rest == strongest).to(rest.dtype)
        chosen = chosen / chosen.sum(2, keepdim=True)
        chosen = _less(chosen, weight * _row_products(chosen, removed) * per_other, removed)
        scale = sides.row_weight * is_left.to(rest.dtype)
        found = Objectives(strongest[..., 0] * scale, chosen * scale[..., None])
        defined = is_left
    else:
        # What is left of the features is orthogonal to what was removed: it makes no difference to the
        # product that the target's share of that is taken away as well, and the digits stay here too.
        aim = _less(target.rows, known.target_slope, removed)
        rest_aim = known.rest_target_rest + weight * _row_products(rest, aim)
        other_aim = known.other_target_rest + weight * _row_products(removed, aim)
        aim_slope = other_aim * per_other
        aim_left = known.target_rest_target_rest + weight * _row_products(aim, aim) - aim_slope * other_aim
        whole = known.target_target + weight * _row_products(target.rows, target.rows)
        product = rest_aim - slope * other_aim
        defined = is_left & (aim_left > target.floor)
        # Square roots first: the product of the two squares may overflow.
        per_norms = torch.where(defined, left.sqrt() * whole.sqrt(), torch.inf).reciprocal()
        per_left = torch.where(is_left, left, torch.inf).reciprocal()
        share = product * per_left
        values = (product * per_norms).clamp(-1, 1)
        has_room = 1 - values.square() > target.floor / target.raw_squares
        scale = weight * per_norms * has_room
        slopes = _less(_less(aim, share, rest), aim_slope - share * slope, removed) * scale[..., None]
        found = Objectives(values, slopes)
    for lost, undefined in torch.stack([(~is_left).sum(1), (~defined).sum(1)], 1).tolist():
        if lost:
            _warn_nothing_left(f"{lost} of {is_left.shape[1]} inputs")
        # An input of which nothing is left is counted with those only.
        if undefined > lost:
            _warn_no_target(f"{undefined - lost} of {is_left.shape[1]} inputs", whose_target)
    return Objectives(found.values, found.slopes - found.slopes.mean(2, keepdim=True))


def _paired(sides: Tensor, both: bool) -> tuple[Tensor, Tensor]:
    """What belongs to the explained models, and to those whose features are removed from them."""
    return (sides, sides.flip(0)) if both else (sides[:1], sides[1:])


def _products(p: Tensor, q: Tensor) -> Tensor:
    """Sums over the products of all entries of matrices (k, n, n), or of (n, n) and them."""
    return (p * q).sum((-2, -1))


def _row_products(p: Tensor, q: Tensor) -> Tensor:
    return (p * q).sum(-1)


def _less(p: Tensor, slope: Tensor, q: Tensor) -> Tensor:
    """p - slope q, with a slope for each matrix or row."""
    return torch.addcmul(p, slope.reshape(*slope.shape, *(1,) * (q.dim() - slope.dim())), q, value=-1)


def _counts(square: float, raw_norm: float, level: float) -> bool:
    """Whether a squared norm is more than rounding."""
    return math.sqrt(max(square, 0.0)) > level * raw_norm


def _warn_of_batch(is_left: list[bool], has_target: list[bool], whose_target: str) -> None:
    for left, aimed in zip(is_left, has_target):
        if not left:
            _warn_nothing_left("the batch")
        elif not aimed:
            _warn_no_target("the batch", whose_target)


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
