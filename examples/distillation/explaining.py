"""Maps of a trained pair and what can be measured on them, with Captum and captum_kd."""

from __future__ import annotations

import warnings
from typing import Any, Mapping

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import KeepCurve, keep_curve, localization_score, random_attributions
from distillation.task import Examples

__all__ = ["DISTILLED", "RESIDUAL", "keep_curves", "localization", "maps_of", "mean_and_error"]

BATCH = 128
"""Images in one forward pass; no result depends on it."""

DISTILLED, RESIDUAL = "UniCAM distilled", "UniCAM residual"


def maps_of(
    student: nn.Module,
    base: nn.Module,
    teacher: nn.Module,
    layer: str,
    examples: Examples,
    reference: Examples,
    progress: bool,
) -> dict[str, Tensor]:
    """Five kinds of maps of the same images at one layer, each (N, 1, h, w) and signed, on the CPU.

    Grad-CAM explains each network's output for the true class. UniCAM's maps are of what one network has and the
    other lacks, measured against the reference population one image at a time: as far as it follows the labels, and
    as far as it is the Teacher's.

    Args:
        student, base, teacher: the networks, in evaluation mode.
        layer: dotted name of a layer of all three.
        examples: the images that are explained.
        reference: labelled images that none of ``examples`` is among.
        progress: whether to draw bars.
    """
    device = next(student.parameters()).device
    images, labels = examples.inputs().to(device), examples.labels.to(device)
    known = reference.inputs().to(device), reference.labels.to(device)
    maps = {
        f"Grad-CAM {name}": torch.cat(
            [
                LayerGradCam(network, network.get_submodule(layer)).attribute(batch, target)
                for batch, target in zip(images.split(BATCH), labels.split(BATCH))
            ]
        )
        for name, network in (("Student", student), ("Base", base))
    }
    for_labels = UniCAM(student, layer, base)
    distilled, residual = for_labels.attribute_transfer(
        images,
        labels,
        reference=for_labels.reference(*known, internal_batch_size=BATCH),
        internal_batch_size=BATCH,
        show_progress=progress,
    )
    for_teacher = UniCAM(student, layer, base, teacher_func=teacher)
    taught = for_teacher.attribute(
        images,
        reference=for_teacher.reference(known[0], internal_batch_size=BATCH),
        internal_batch_size=BATCH,
        show_progress=progress,
    )
    maps |= {DISTILLED: distilled, RESIDUAL: residual, "UniCAM from the Teacher": taught}
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


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Mean over images and its standard error; None for a single image."""
    n = len(values)
    return float(values.mean()), float(values.std()) / n**0.5 if n > 1 else None


def keep_curves(student: nn.Module, examples: Examples, maps: Mapping[str, Tensor], progress: bool) -> dict[str, KeepCurve]:
    """Accuracy of the Student on images of which only the most salient part is kept, by each map and by chance."""
    device = next(student.parameters()).device
    names = ("Grad-CAM Student", DISTILLED, RESIDUAL, "UniCAM from the Teacher")
    chosen = {name: maps[name].to(device) for name in names}
    chosen["random"] = random_attributions(chosen[DISTILLED])
    images, labels = examples.inputs().to(device), examples.labels.to(device)
    return keep_curve(student, images, labels, chosen, max_examples_per_batch=BATCH, show_progress=progress)
