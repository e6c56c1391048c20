"""All that is measured on the networks of one fold."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Mapping, Optional, cast

from torch import Tensor, nn

from captum_kd.metrics import KeepCurve
from distillation.explaining import NULL, keep_curves, localization, maps_of, net_maps_of_bases, token_localization
from distillation.plan import Group, Plan
from distillation.progress import Progress
from distillation.scoring import Scores, score
from distillation.settings import Settings
from distillation.task import Examples, Fold, Inputs
from distillation.training import predict

__all__ = ["Measurements", "PairMaps", "measure"]


@dataclass(frozen=True)
class PairMaps:
    """Maps of one Student and the Base of the same number, and what was measured on them.

    Attributes:
        group: the Student's.
        student, base: their names.
        maps: by title, (N, 1, h, w), of texts (N, 1, T), of the fold's first images for maps.
        curves: by the same titles and "random".
        localization: None where nobody knows where the evidence is.
    """

    group: Group
    student: str
    base: str
    maps: Mapping[str, Tensor]
    curves: Mapping[str, KeepCurve]
    localization: Optional[dict[str, Any]]


@dataclass(frozen=True)
class Measurements:
    """What came out for one fold.

    Attributes:
        examples: the held-out images that are scored.
        shown: those that are explained.
        predictions: by network, (N,) labels of all held-out images.
        accuracy: by network, on all held-out images.
        scores: one per Teacher.
        pairs: of every group, its Students in order.
    """

    examples: Examples
    shown: Examples
    predictions: Mapping[str, Tensor]
    accuracy: Mapping[str, float]
    scores: list[Scores]
    pairs: list[PairMaps]

    def first_pairs(self) -> list[PairMaps]:
        """Of each group its first Student: what figures show."""
        return list({pair.group.name: pair for pair in reversed(self.pairs)}.values())[::-1]


def measure(
    networks: Mapping[str, nn.Module], plan: Plan, fold: Fold, settings: Settings, progress: Progress
) -> Measurements:
    """Predicts, scores and explains the fold's held-out images."""
    predictions = {name: predict(network, fold.test, settings.image_size) for name, network in networks.items()}
    examples = fold.test[: settings.test_images]
    shown = examples[: settings.map_images]
    inputs = shown.inputs(settings.image_size)
    accuracy = {name: float((labels == fold.test.labels).float().mean()) for name, labels in predictions.items()}
    scores = score(networks, plan, examples, settings, progress)
    answers = {name: labels[: len(shown)] for name, labels in predictions.items()}
    bases = {name: networks[name] for name in plan.bases(settings.seeds)}
    progress.stage("Measuring maps of Bases")
    nulls = net_maps_of_bases(bases, plan.layers[-1], inputs, answers, fold.reference)
    return Measurements(
        examples,
        shown,
        predictions,
        accuracy,
        scores,
        [
            _explain(networks, plan, group, (student, base), inputs, shown, answers, nulls.get(base), fold.reference, progress)
            for group in plan.groups
            for student, base in islice(zip(group.students(settings.seeds), bases), settings.map_pairs)
        ],
    )


def _explain(
    networks: Mapping[str, nn.Module],
    plan: Plan,
    group: Group,
    pair: tuple[str, str],
    inputs: Inputs,
    shown: Examples,
    answers: Mapping[str, Tensor],
    null: Optional[Tensor],
    reference: Examples,
    progress: Progress,
) -> PairMaps:
    student, base = pair
    progress.stage(f"Measuring maps of {student}")
    trio = networks[student], networks[base], networks[group.teacher]
    layers = plan.layers[-1], plan.guide_layers[-1]
    maps = maps_of(*trio, *layers, inputs, (answers[student], answers[base]), reference)
    if null is not None:
        maps[NULL] = null
    curves = keep_curves(networks[student], inputs, shown, maps)
    if isinstance(inputs, dict):
        return PairMaps(group, student, base, maps, curves, token_localization(maps, cast(Tensor, shown.masks), inputs))
    return PairMaps(
        group, student, base, maps, curves, None if shown.masks is None else localization(maps, shown.masks)
    )
