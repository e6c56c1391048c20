"""Maps of a trained pair and what can be measured on them, with Captum and captum_kd."""

from __future__ import annotations

import warnings
from typing import Any, Mapping, Optional

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import KeepCurve, keep_curve, localization_score, random_attributions
from distillation.task import Examples

__all__ = [
    "BASE",
    "DISTILLED",
    "FROM_TEACHER",
    "RANDOM",
    "RESIDUAL",
    "STUDENT",
    "keep_curves",
    "localization",
    "maps_of",
    "mean_and_error",
]

BATCH = 64
"""Images in one forward pass; no result depends on it."""

STUDENT, BASE = "Grad-CAM Student", "Grad-CAM Base"
DISTILLED, RESIDUAL, FROM_TEACHER = "UniCAM distilled", "UniCAM residual", "UniCAM from the Teacher"
RANDOM = "random"


def maps_of(
    student: nn.Module,
    base: nn.Module,
    teacher: nn.Module,
    layer: str,
    images: Tensor,
    answers: tuple[Tensor, Tensor],
    reference: Examples,
    progress: bool,
) -> dict[str, Tensor]:
    """Five kinds of maps of the same images at one layer, each (N, 1, h, w) and signed, on the CPU.

    All explain what each network itself predicts: a map of the true label would tell the label to whoever looks at
    the pixels that it keeps. UniCAM's maps are of what one network has and the other lacks, measured against the
    reference population one image at a time: as far as it follows the labels, and as far as it is the Teacher's.

    Args:
        student, base, teacher: the networks, in evaluation mode.
        layer: dotted name of a layer of all three.
        images: (N, 3, H, W), the images that are explained.
        answers: (N,) labels that the Student and the Base predict for them.
        reference: labeled images that are none of these.
        progress: whether to draw bars.
    """
    device = next(student.parameters()).device
    images = images.to(device)
    known = reference.inputs(images.shape[-1]).to(device), reference.labels.to(device)
    of_student, of_base = (labels.to(device) for labels in answers)
    maps = {
        name: torch.cat(
            [
                LayerGradCam(network, network.get_submodule(layer)).attribute(batch, target)
                for batch, target in zip(images.split(BATCH), labels.split(BATCH))
            ]
        )
        for name, network, labels in ((STUDENT, student, of_student), (BASE, base, of_base))
    }
    options: dict[str, Any] = {"internal_batch_size": BATCH, "show_progress": progress}
    distilling = UniCAM(student, layer, base)
    population = distilling.reference(*known, internal_batch_size=BATCH)
    maps[DISTILLED] = distilling.attribute(images, of_student, reference=population, **options)
    maps[RESIDUAL] = distilling.residual().attribute(images, of_base, reference=population, **options)
    for_teacher = UniCAM(student, layer, base, teacher_func=teacher)
    population = for_teacher.reference(known[0], internal_batch_size=BATCH)
    maps[FROM_TEACHER] = for_teacher.attribute(images, reference=population, **options)
    return {name: values.detach().cpu() for name, values in maps.items()}


def localization(maps: Mapping[str, Tensor], masks: Tensor) -> dict[str, Any]:
    """How far the maps lie on the objects: means over images with standard errors, what chance would give, and the
    difference of distilled and residual maps, image by image."""
    found: dict[str, Any] = {"mask_area": float(masks.float().mean()), "maps": {}}
    shares = {}
    for name, values in maps.items():
        with warnings.catch_warnings(record=True):  # empty maps count as 0; the record says how many there are
            scores = localization_score(values, masks)
        shares[name] = scores.energy_share
        found["maps"][name] = {
            "energy_share": mean_and_error(scores.energy_share),
            "pointing_game": mean_and_error(scores.pointing_game),
            "empty_maps": int((values.flatten(1).amax(1) <= 0).sum()),
        }
    found["distilled_minus_residual"] = mean_and_error(shares[DISTILLED] - shares[RESIDUAL])
    return found


def mean_and_error(values: Tensor) -> tuple[float, Optional[float]]:
    """Mean and its standard error; None for a single value."""
    n = len(values)
    return float(values.mean()), float(values.std()) / n**0.5 if n > 1 else None


def keep_curves(
    student: nn.Module, images: Tensor, labels: Tensor, maps: Mapping[str, Tensor], progress: bool
) -> dict[str, KeepCurve]:
    """Accuracy of the Student on images of which only the most salient part is kept, by each map and by chance."""
    device = next(student.parameters()).device
    chosen = {name: values.to(device) for name, values in maps.items() if name != BASE}
    chosen[RANDOM] = random_attributions(chosen[DISTILLED])
    return keep_curve(
        student, images.to(device), labels.to(device), chosen, max_examples_per_batch=BATCH, show_progress=progress
    )
