"""Maps and scores of a trained pair, with Captum and captum_kd."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_kd import UniCAM
from captum_kd.metrics import feature_similarity_score, relevance_score
from distillation.task import Examples

__all__ = ["EnergyShare", "energy_share", "layer_rows", "maps_of"]

BATCH = 128
"""Images in one forward pass; no result depends on it."""


def maps_of(
    student: nn.Module, base: nn.Module, layer: str, examples: Examples, reference: Examples, progress: bool
) -> dict[str, Tensor]:
    """Four kinds of maps of the same images at one layer, each (N, 1, h, w) and positive, on the CPU.

    Grad-CAM explains each network's output for the true class. UniCAM's maps are of what one network has and the
    other lacks, measured against the reference population one image at a time.

    Args:
        student, base: the two networks, in evaluation mode.
        layer: dotted name of a layer of both.
        examples: the images that are explained.
        reference: labelled images that none of ``examples`` is among.
        progress: whether to draw a bar.
    """
    device = next(student.parameters()).device
    images, labels = examples.inputs().to(device), examples.labels.to(device)
    maps = {
        f"Grad-CAM\n{name}": torch.cat(
            [
                LayerGradCam(network, network.get_submodule(layer)).attribute(batch, target, relu_attributions=True)
                for batch, target in zip(images.split(BATCH), labels.split(BATCH))
            ]
        )
        for name, network in (("Student", student), ("Base", base))
    }
    unicam = UniCAM(student, layer, base)
    population = unicam.reference(
        reference.inputs().to(device), reference.labels.to(device), internal_batch_size=BATCH
    )
    distilled, residual = unicam.attribute_transfer(
        images,
        labels,
        relu_attributions=True,
        reference=population,
        internal_batch_size=BATCH,
        show_progress=progress,
    )
    maps |= {"UniCAM\ndistilled": distilled, "UniCAM\nresidual": residual}
    return {name: values.detach().cpu() for name, values in maps.items()}


def layer_rows(
    student: nn.Module, base: nn.Module, layers: Sequence[str], examples: Examples, progress: bool
) -> list[dict[str, Any]]:
    """FSS and RS at several layers as tidy records, one a score, in the form of captum_kd's reports.

    The records of distilled and residual relevance also hold ``unique_share``, 1 - FSS^2: how much of the geometry
    is left after the other network's is removed.
    """
    device = next(student.parameters()).device
    images, labels = examples.inputs().to(device), examples.labels.to(device)
    rows = []
    for layer in tqdm(layers, desc="Scores of layers", disable=not progress):
        s, b = (student, layer), (base, layer)
        similarity = float(feature_similarity_score(*s, *b, images, max_examples_per_batch=BATCH))
        relevances = {
            "rs_student": relevance_score(*s, images, labels, max_examples_per_batch=BATCH),
            "rs_base": relevance_score(*b, images, labels, max_examples_per_batch=BATCH),
            "rs_distilled": relevance_score(*s, images, labels, given=b, max_examples_per_batch=BATCH),
            "rs_residual": relevance_score(*b, images, labels, given=s, max_examples_per_batch=BATCH),
        }
        for score, value in {"fss": similarity, **relevances}.items():
            removed = score in ("rs_distilled", "rs_residual")
            rows.append(
                {
                    "student": "Student",
                    "base": "Base",
                    "layer": layer,
                    "score": score,
                    "value": float(value),
                    "low": None,
                    "high": None,
                    "p_value": None,
                    "n": examples.count,
                    "unique_share": 1 - similarity**2 if removed else None,
                }
            )
    return rows


class EnergyShare(NamedTuple):
    """How much of the maps' positive energy falls on the masks.

    Attributes:
        mean: over the maps that have any; None where none has.
        standard_error: of that mean.
        empty_maps: maps without positive values, which have no share.
    """

    mean: float | None
    standard_error: float | None
    empty_maps: int


def energy_share(maps: Tensor, masks: Tensor) -> EnergyShare:
    """Sum of a map's positive values on its mask over the sum of all its positive values.

    A map that ignores the image has the mask's share of the area on average.

    Args:
        maps: (N, 1, h, w), enlarged bilinearly to the masks' size.
        masks: (N, H, W), bool.
    """
    large = LayerAttribution.interpolate(maps, tuple(masks.shape[1:]), "bilinear")[:, 0].clamp(min=0).double()
    total = large.sum((1, 2))
    full = total > 0
    shares = (large * masks).sum((1, 2))[full] / total[full]
    empty = int((~full).sum())
    if len(shares) == 0:
        return EnergyShare(None, None, empty)
    error = float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else None
    return EnergyShare(float(shares.mean()), error, empty)
