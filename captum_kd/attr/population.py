"""Checks that inputs form a population large enough for an attribution."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._utils.tensors import is_finite
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS, Geometry
from captum_kd.distance.labels import WAYS_OUT_OF_POPULATION, label_geometry

__all__ = ["FEW_INPUTS", "check_population", "check_reference_inputs"]

FEW_INPUTS = 30
"""Populations smaller than this give maps that follow chance."""


def check_population(
    inputs: tuple[Tensor, ...], labels: Optional[Tensor], class_embeddings: Optional[Tensor], has_teacher: bool
) -> Optional[Geometry]:
    """Checks a batch before any model runs; warns of small populations and of repeated inputs.

    Returns:
        Geometry, optional: that of the labels, on the CPU, where many small steps cost least.

    Raises:
        ValueError: fewer than 4 inputs, 5 with labels or a Teacher; labels without geometry.
    """
    n = inputs[0].shape[0]
    least = LEAST_WITH_REMOVAL if has_teacher or labels is not None else MIN_INPUTS
    beside = "with a Teacher" if has_teacher else "with labels" if labels is not None else "without labels"
    if n < least:
        raise ValueError(
            f"UniCAM compares inputs with each other, so {n} input(s) are too few: it needs at least {least} {beside}. "
            "Pass more inputs, or a population made by reference() as reference=, with which even a single input can be "
            "explained."
        )
    of_labels = None if labels is None else label_geometry(labels.cpu(), class_embeddings, torch.float64)
    _warn_of_few(n, "Pass more inputs or a reference population of 64 or more (reference=).")
    if _are_repeated(inputs):
        warn_user(
            "Most inputs are near-copies of others, as NoiseTunnel and sensitivity metrics make them. In batch "
            "mode the copies become the population and the maps lose their meaning; pass a population made by "
            "reference() as reference=, which keeps every input apart."
        )
    return of_labels


def check_reference_inputs(n: int, labels: Optional[Tensor], class_embeddings: Optional[Tensor]) -> None:
    """Checks the inputs of a reference population before any model runs; warns of small populations.

    Raises:
        ValueError: fewer than 4 inputs, or labels without geometry.
    """
    if n < MIN_INPUTS:
        raise ValueError(f"A reference population needs at least {MIN_INPUTS} inputs, got {n}; use 64 or more.")
    if labels is not None:
        label_geometry(labels.cpu(), class_embeddings, torch.float64, ways_out=WAYS_OUT_OF_POPULATION)
    _warn_of_few(n, "Make a reference population of 64 inputs or more.")


def _warn_of_few(n: int, way_out: str) -> None:
    if n < FEW_INPUTS:
        warn_user(f"The population is {n} inputs; below {FEW_INPUTS} UniCAM maps follow chance. {way_out}")


def _are_repeated(inputs: tuple[Tensor, ...]) -> bool:
    """Whether most inputs have a companion much nearer than inputs usually are to each other."""
    n = inputs[0].shape[0]
    sampled = []
    for value in inputs:
        flat = value.detach().reshape(n, -1)
        flat = flat[:, :: max(1, flat.shape[1] // 1024)]
        sampled.append(flat.to("cpu", torch.float32))  # a GPU would take longer to start so many small steps
    values = torch.cat(sampled, dim=1)
    if values.numel() == 0 or not is_finite(values):
        return False  # the models will say what is wrong with such inputs
    values = values - values.mean(0)  # inputs far from the origin would lose digits
    apart = torch.cdist(values, values).fill_diagonal_(torch.inf)
    usual = apart.flatten().kthvalue(n * (n - 1) // 2).values
    return bool((apart.amin(1) < usual / 4).float().mean() > 0.5)
