r"""What UniCAM differentiates, as functions of the features alone.

Batch mode, the paper's: the inputs are the population. With a target T, the labels' geometry or
the Teacher's,

.. math:: J = R(P_{S|B}, T)

and without :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. Reference mode adds each input on its own to
a fixed population (:mod:`captum_kd.attr.reference`). The Base model's geometry and the target are
constants. A target that is nothing but the removed geometry, up to scale, cannot correlate with
what is left: J is 0 then, not the correlation of rounding errors.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._warnings import warn_user
from captum_kd.attr.reference import AddedRows, Pairing
from captum_kd.distance import Geometry, correlation, remove

__all__ = ["population_objective", "reference_objective"]


def population_objective(
    own: Geometry, other: Geometry, target: Optional[Geometry], whose_target: str = "labels"
) -> Tensor:
    """The objective of a batch that is its own population.

    Args:
        own (Geometry): U-centred geometry of the model that is explained, differentiable.
        other (Geometry): that of the model whose features are removed.
        target (Geometry, optional): that of the labels or of the Teacher; None for the objective
            without either.
        whose_target (str): "labels" or "Teacher", for the warning.

    Returns:
        Tensor: scalar. 0, with a gradient of 0 and a warning, where nothing is left after removal,
        be it of the features or of the target.
    """
    other = other.detach()
    rest = remove(own, other)
    if bool(rest.is_negligible()):
        _warn_nothing_left("the batch")
        return rest.matrix.sum() * 0
    if target is None:
        return rest.matrix.amax(1).sum()
    if bool(remove(target, other).is_negligible()):
        _warn_no_target("the batch", whose_target)
        return rest.matrix.sum() * 0
    return correlation(rest, target)


def reference_objective(
    pairing: Pairing,
    own: AddedRows,
    other: AddedRows,
    target: Optional[AddedRows],
    whose_target: str = "labels",
) -> Tensor:
    r"""The objectives of inputs that are added, each on its own, to a reference population.

    Without a target an input's objective is its own row's term alone, :math:`\max_j (P_{S|B})_{0j}`.

    Args:
        pairing (Pairing): inner products of the reference population itself.
        own (AddedRows): distances of the inputs to the references, differentiable.
        other (AddedRows): the same in the other model.
        target (AddedRows, optional): the same among the labels or in the Teacher.
        whose_target (str): "labels" or "Teacher", for the warning.

    Returns:
        Tensor: (N,). 0, with a gradient of 0 and a warning, for inputs where nothing is left, be it
        of the features or of the target.
    """
    weight, removed = own.weight, other.rows.detach()
    # Removal is linear: what the reference population alone already explains is taken out of the
    # added rows first, so that no digits are lost where the two models are nearly alike.
    rest = own.rows - pairing.slope * removed
    rest_other = weight * (rest * removed).sum(1)
    other_other = pairing.other_other + weight * removed.square().sum(1)
    rest_rest = pairing.rest_rest + weight * rest.square().sum(1)
    has_other = other_other > other.floor
    other_other = torch.where(has_other, other_other, 1.0)
    slope = torch.where(has_other, rest_other / other_other, 0.0)
    left = rest_rest - slope * rest_other
    is_left = left.detach() > own.floor.detach()
    if not bool(is_left.all()):
        _warn_nothing_left(_share_of(~is_left))
    if target is None:
        strongest = own.row_weight * (rest - slope[:, None] * removed).amax(1)
        return torch.where(is_left, strongest, strongest * 0)
    # What is left of the features is orthogonal to what was removed: it makes no difference to the
    # product that the target's share of that is taken away as well, and the digits stay here too.
    target_rest = target.rows - pairing.target_slope * removed
    rest_target = pairing.rest_target_rest + weight * (rest * target_rest).sum(1)
    other_target = pairing.other_target_rest + weight * (removed * target_rest).sum(1)
    target_left = pairing.target_rest_target_rest + weight * target_rest.square().sum(1)
    target_left = target_left - torch.where(has_other, other_target.square() / other_other, 0.0)
    target_target = pairing.target_target + weight * target.rows.square().sum(1)
    has_target = target_left > target.floor
    if not bool(has_target.all()):
        _warn_no_target(_share_of(~has_target), whose_target)
    product = rest_target - slope * other_target
    norms = torch.where(is_left, left, 1.0).sqrt() * torch.where(has_target, target_target, 1.0).sqrt()
    return torch.where(is_left & has_target, (product / norms).clamp(-1, 1), product * 0)


def _share_of(concerned: Tensor) -> str:
    return f"{int(concerned.sum())} of {concerned.numel()} inputs"


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
