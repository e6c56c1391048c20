"""A table of maps: the paper's gradient, integrated and net maps, Grad-CAM and random maps, on trained networks.

Reads the output folders of examples and writes ``docs/tables/maps.md`` and ``docs/tables/maps.csv``::

    python examples/quickstart.py --seeds 10 --output outputs/quickstart10
    python docs/scripts/compare_maps.py --quickstart outputs/quickstart10 --cifar10 outputs/cifar10 --asirra outputs/asirra

Student i is compared with Base i. The null of a map puts Base i in the Student's place and the next Base in the Base's.
Every map of a pair explains the classes that its first network predicts, and keep and deletion curves are those of
Student i, so that rows can be compared.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Iterator, NamedTuple, Sequence

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from trained_runs import DOCS, EXAMPLES, TrainedRun, read_run

from captum_kd import UniCAM
from captum_kd.metrics import keep_curve, localization_score, random_attributions
from distillation.randomness import own_randomness
from distillation.task import Examples
from distillation.training import predict

STEPS = 16
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
GRADIENT, INTEGRATED, NET, GRAD_CAM, RANDOM = "paper's gradient", "integrated", "net", "Grad-CAM", "random"
DISTILLED, RESIDUAL, NULL, STUDENT, BASE = "distilled", "residual", "null", "Student", "Base"

MEASURES = {
    "energy": "energy on the object",
    "pointing": "pointing game",
    "auc": "AUC of the object",
    "keep": "keep",
    "deletion": "deletion",
    "agreement": "r over pairs",
    "randomized": "r after randomization",
}
COLUMNS = ("data", "map", "objective", "of", "measure", "mean", "sd", "pairs", "images")


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        map: kind of map.
        objective: what UniCAM's map is about, the labels or the Teacher.
        of: the network that is explained, or the null.
    """

    map: str
    objective: str
    of: str


Maps = dict[Row, Tensor]


class Scenes(NamedTuple):
    """Images to explain (N, 3, H, W), the reference population and the layer."""

    images: Tensor
    reference: tuple[Tensor, Tensor]
    layer: str


# ----------------------------------------------------------------------------- maps


def transfer_maps(first: nn.Module, second: nn.Module, teacher: nn.Module, scenes: Scenes, target: Tensor) -> Maps:
    """UniCAM's maps of the first network given the second, and the other way round; (N, 1, h, w) each."""
    maps: Maps = {}
    for objective, teacher_func in (("labels", None), ("Teacher", teacher)):
        unicam = UniCAM(first, scenes.layer, second, teacher_func=teacher_func)
        population = unicam.reference(*scenes.reference)
        for kind, n_steps in ((GRADIENT, None), (INTEGRATED, STEPS)):
            found = unicam.attribute_transfer(scenes.images, target, reference=population, n_steps=n_steps)
            maps[Row(kind, objective, DISTILLED)] = found.distilled
            maps[Row(kind, objective, RESIDUAL)] = found.residual
        maps[Row(NET, objective, DISTILLED)] = found.net
    return maps


def maps_of_pair(
    pair: tuple[nn.Module, nn.Module], bases: tuple[nn.Module, nn.Module], teacher: nn.Module, scenes: Scenes,
    targets: dict[str, Tensor],
) -> Maps:  # fmt: skip
    """All maps of a Student and a Base.

    Args:
        pair: Student and Base.
        bases: the two Bases of the null.
        teacher: the Teacher.
        scenes: what is explained.
        targets: (N,) classes that the Student and the Base predict.
    """
    maps = transfer_maps(*pair, teacher, scenes, targets[STUDENT])
    for row, values in transfer_maps(*bases, teacher, scenes, targets[BASE]).items():
        if row.of == DISTILLED:
            maps[row._replace(of=NULL)] = values
    for of, network in zip((STUDENT, BASE), pair):
        gradcam = LayerGradCam(network, network.get_submodule(scenes.layer))
        maps[Row(GRAD_CAM, "", of)] = gradcam.attribute(scenes.images, targets[of])
    maps[Row(RANDOM, "", "")] = random_attributions(maps[Row(INTEGRATED, "labels", DISTILLED)])
    return {row: values.detach() for row, values in maps.items()}


def randomized(network: nn.Module, layer: str, seed: int) -> nn.Module:
    """A copy of the network; the block that ends in the layer and all behind it have new random weights."""


# ----------------------------------------------------------------------------- measures


def on_object(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Energy share, pointing game, and the AUC of the object's pixels by the signed map: means over images."""
    with warnings.catch_warnings():  # maps without positive energy count as 0
        warnings.simplefilter("ignore", UserWarning)
        scores = localization_score(maps, masks)
    return {
        "energy": float(scores.energy_share.mean()),
        "pointing": float(scores.pointing_game.mean()),
        "auc": float(object_auc(maps, masks).mean()),
    }


def object_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """(N,) probability that a pixel of the object has a larger value than one outside; .5 is chance."""
    pixels = nn.functional.interpolate(maps, masks.shape[-2:], mode="bilinear").flatten(1)
    ranks = pixels.argsort(1).argsort(1).double()
    inside = masks.flatten(1).double()
    count = inside.sum(1)
    above = (ranks * inside).sum(1) - count * (count - 1) / 2
    return above / (count * (inside.shape[1] - count))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson correlation over the positions of two maps of one image: the mean over images; constant maps count as 0."""
    rows = [nn.functional.normalize(m.flatten(1).double() - m.flatten(1).double().mean(1, True), dim=1) for m in (one, other)]
    return float((rows[0] * rows[1]).sum(1).mean())


def measured(run: TrainedRun, pairs: int, images: int) -> Iterator[dict[str, Any]]:
    """The records of a run: every row, measure, its mean and standard deviation over pairs of networks."""
