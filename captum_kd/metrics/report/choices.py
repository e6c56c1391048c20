"""Checks of the arguments of compare_transfer that are not validated elsewhere."""

from __future__ import annotations

from typing import Optional, Union

import torch

from captum_kd._utils.validation import check_int, check_choice, short_repr
from captum_kd.distance.blockwise import check_block_size
from captum_kd.metrics.report.salient import TARGETS

__all__ = ["as_device", "check_choices", "check_storage"]


def check_choices(
    population: object, localize: object, localize_target: object, localize_layer: object, reference: object
) -> None:
    """Names that are to be chosen among, and arguments that belong to one of them."""
    check_choice(population, "population", ("all", "batch"))
    check_choice(localize_target, "localize_target", TARGETS)
    if localize is None and localize_layer is not None:
        raise ValueError(
            f"localize_layer={short_repr(localize_layer)} was given, but localize=None takes features on whole images; leave it "
            "out, or pass localize."
        )
    if localize_layer is not None and not isinstance(localize_layer, str):
        raise TypeError(f"localize_layer must be one of the layers' names or None, got {short_repr(localize_layer)}.")
    if not (isinstance(localize, str) and localize == "unicam") and reference is not None:
        raise ValueError(
            f'reference belongs to localize="unicam", but localize is {short_repr(localize)}; leave reference out, got '
            f"{short_repr(reference)}."
        )


def check_storage(population: str, block_size: Optional[int], half_precision: bool, projection: Optional[int]) -> None:
    """How features are kept and distances taken."""
    check_block_size(block_size)
    if projection is not None and check_int(projection, "random_projection", 1, or_none=True) >= 2**31:
        raise ValueError(f"random_projection must be a number of features (4096, say) or None, got {projection!r}.")
    if population == "batch" and (block_size is not None or half_precision or projection is not None):
        raise ValueError(
            'block_size, half_precision and random_projection belong to population="all", but population is "batch": '
            "mini-batches are scored as they come and no features are kept."
        )


def as_device(device: Union[str, torch.device]) -> torch.device:
    """Where features are to be kept."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"feature_device={short_repr(device)} is no device that torch can use here; expected 'cpu' or another: {error}"
        ) from None
    if found.type == "meta":
        raise ValueError("feature_device must be a device that holds numbers, got 'meta'.")
    return found
