r"""What UniCAM differentiates, as functions of the features alone.

Batch mode, the paper's: the inputs are the population. With labels

.. math:: J = R(P_{S|B}, G)

and without :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. Reference mode adds each input on its own to
a fixed population (:mod:`captum_kd.attr.reference`). The Base model's geometry and the target are
constants.
"""

from __future__ import annotations

import warnings
from typing import Optional

import torch
from torch import Tensor

from captum_kd.attr.reference import AddedRows, Pairing
from captum_kd.distance import Geometry, correlation, remove

__all__ = ["population_objective", "reference_objective"]


def population_objective(own: Geometry, other: Geometry, target: Optional[Geometry]) -> Tensor:
    """The objective of a batch that is its own population.

    Args:
        own (Geometry): U-centred geometry of the model that is explained, differentiable.
        other (Geometry): that of the model whose features are removed.
        target (Geometry, optional): that of the labels; None for the objective without labels.

    Returns:
        Tensor: scalar. 0, with a gradient of 0 and a warning, where nothing is left after removal.
    """
    rest = remove(own, other.detach())
    if bool(rest.is_negligible()):
        _warn_nothing_left("the batch")
        return rest.matrix.sum() * 0
    if target is None:
        return rest.matrix.amax(1).sum()
    return correlation(rest, target)


def reference_objective(pairing: Pairing, own: AddedRows, other: AddedRows, target: Optional[AddedRows]) -> Tensor:
    r"""The objectives of inputs that are added, each on its own, to a reference population.

    Without labels an input's objective is its own row's term alone, :math:`\max_j (P_{S|B})_{0j}`.

    Args:
        pairing (Pairing): inner products of the reference population itself.
        own (AddedRows): distances of the inputs to the references, differentiable.
        other (AddedRows): the same in the other model.
        target (AddedRows, optional): the same among the labels.

    Returns:
        Tensor: (N,). 0, with a gradient of 0 and a warning, for inputs where nothing is left.
    """
    # Removal is linear: what the reference population alone already explains is taken out of the
    # added rows first, so that no digits are lost where the two models are nearly alike.
    rest = own.rows - pairing.slope * other.rows.detach()
    rest_other = own.weight * (rest * other.rows).sum(1)
    other_other = pairing.other_other + own.weight * other.rows.square().sum(1)
    rest_rest = pairing.rest_rest + own.weight * rest.square().sum(1)
    has_other = other_other > other.floor
    slope = torch.where(has_other, rest_other / torch.where(has_other, other_other, 1.0), 0.0)
    left = rest_rest - slope * rest_other
    is_left = left.detach() > own.floor.detach()
    if not bool(is_left.all()):
        _warn_nothing_left(f"{int((~is_left).sum())} of {is_left.numel()} inputs")
    if target is None:
        strongest = own.row_weight * (rest - slope[:, None] * other.rows).amax(1)
        return torch.where(is_left, strongest, strongest * 0)
    rest_target = pairing.rest_target + own.weight * (rest * target.rows).sum(1)
    other_target = pairing.other_target + own.weight * (other.rows * target.rows).sum(1)
    target_target = pairing.target_target + own.weight * target.rows.square().sum(1)
    product = rest_target - slope * other_target
    norms = torch.where(is_left, left, 1.0).sqrt() * target_target.sqrt()
    return torch.where(is_left, (product / norms).clamp(-1, 1), product * 0)


def _warn_nothing_left(which: str) -> None:
    warnings.warn(
        f"Nothing of the features is left for {which} after the other model's were removed (they are constant, or "
        "the same up to rotation and scale); these maps are zero.",
        UserWarning,
        stacklevel=4,
    )
