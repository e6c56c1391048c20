"""Scores of all pairs of Students and Bases: ours, and the authors' published formula beside them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Mapping, Optional

import torch
from torch import Tensor, nn

from captum_kd import flatten_to_unit_length
from captum_kd.metrics import (
    Comparisons, Compute, Explanations, InputEmbeddings, LayerSimilarity, Localization, TransferReport, compare_transfer,
)  # fmt: skip
from distillation.data.questions import Texts
from distillation.layers import embeddings, layer_matches
from distillation.outcomes import RANDOM, SALIENT, SECOND, WHOLE
from distillation.plan import Plan
from distillation.progress import Progress
from distillation.settings import Settings
from distillation.task import Batches, Examples

__all__ = ["Scores", "pairs_of_classes", "score"]

CONFIDENCE = 0.95
VERIFIED = 100
"""Inputs whose scores dcor recomputes."""

PUBLISHED_BATCH = (3, 2)
"""Images of each of the two classes in a mini-batch of the published formula: five is the least for removal."""

PUBLISHED_IMAGES = 250
"""Mini-batch means settle long before; their spread over batches is what the formula is known for."""


@dataclass(frozen=True)
class Scores:
    """Scores against one Teacher.

    Attributes:
        teacher: its name.
        reports: by view, our scores of all groups that this Teacher is behind; None where a view was not asked for.
        published: tidy records by the published formula: those of a report's rows and the ``view``. None of texts, which the
            formula does not know.
        layers: similarity of all layers with the Teacher's, for the first Base and the first Student of each group, by name.
        embeddings: the same inputs in the Teacher, the first Base and the first Student of each technique.
    """

    teacher: str
    reports: Mapping[str, Optional[TransferReport]]
    published: list[dict[str, Any]]
    layers: Mapping[str, LayerSimilarity]
    embeddings: InputEmbeddings


def score(
    networks: Mapping[str, nn.Module], plan: Plan, examples: Examples, settings: Settings, progress: Progress
) -> list[Scores]:
    """Scores every Student against every Base, with seed control of each group where there is more than one Base. Then
    Students of the techniques are also scored against Students of a second Teacher, if these were trained, and with placebo
    Teachers from random weights, if there are any.

    Args:
        networks: by name, in evaluation mode.
        plan: who was taught by whom.
        examples: held-out images.
        settings: seeds and size of the images.
        progress: says what is measured.
    """
    found = []
    for teacher in plan.teachers:
        progress.stage(f"Measuring scores with {teacher}")
        groups = {group.name: group.students(settings.seeds) for group in plan.groups_of(teacher)}
        bases = plan.bases(settings.seeds)
        compare = partial(_compare, networks, plan, teacher, examples, settings)
        mask_token = examples.source.mask if isinstance(examples, Texts) else None
        reports: dict[str, Optional[TransferReport]] = {
            WHOLE: compare(
                groups, bases, plan.placebos, predictions=True, by_class=True, by_input=True,
                explanations=Explanations("gradcam", layer=plan.layers[-1]), compute=Compute(verify=VERIFIED),
            ),  # fmt: skip
            SALIENT: compare(groups, bases, plan.placebos, localize=Localization("gradcam", mask_token_id=mask_token)),
            RANDOM: compare(groups, bases, plan.random_placebos) if plan.random_placebos else None,
            SECOND: None,
        }
        taught = {group.name: groups[group.name] for group in plan.groups_of(teacher) if not group.is_control}
        if plan.second is not None and taught and len(bases) > 1:
            reports[SECOND] = compare(taught, plan.second.students(settings.seeds), plan.placebos)
        progress.stage("Measuring the published formula")
        published = [] if isinstance(examples, Texts) else _published(networks, bases, plan, groups, examples, settings)
        progress.stage("Measuring similarity of layers")
        first = [bases[0], *(names[0] for names in groups.values())]
        shown = [bases[0], *(names[0] for names in (taught or groups).values())]
        found.append(
            Scores(
                teacher,
                reports,
                published,
                layer_matches(networks, first, teacher, plan, Batches(examples, settings.image_size)),
                embeddings(networks, shown, teacher, plan, examples, settings),
            )
        )
    return found


def _compare(
    networks: Mapping[str, nn.Module],
    plan: Plan,
    teacher: str,
    examples: Examples,
    settings: Settings,
    groups: Mapping[str, list[str]],
    bases: list[str],
    placebos: list[str],
    **more: Any,
) -> TransferReport:
    """Our scores of groups of Students against networks in the Bases' place, with placebo Teachers, if there are any, and
    ``more`` arguments of the report."""
    report: TransferReport = compare_transfer(
        {name: networks[name] for names in groups.values() for name in names},
        {name: networks[name] for name in bases},
        {layer: {"student": layer, "base": layer, "teacher": at} for layer, at in zip(plan.layers, plan.guide_layers)},
        Batches(examples, settings.image_size),
        teacher=networks[teacher],
        placebo_teachers={name: networks[name] for name in placebos} or None,
        comparisons=Comparisons(groups=groups if len(bases) > 1 and len(groups) > 1 else None),
        confidence=CONFIDENCE,
        seed=settings.seed,
        show_progress=False,
        **more,
    )
    return report


def _published(
    networks: Mapping[str, nn.Module],
    bases: list[str],
    plan: Plan,
    groups: Mapping[str, list[str]],
    examples: Examples,
    settings: Settings,
) -> list[dict[str, Any]]:
    """Mini-batch means of the biased estimator on features of unit length, localized by the true label's HiResCAM.

    Only the first Student of a group against the first Base, the second against the second: the formula knows no
    other pairs.
    """
    rows = pairs_of_classes(examples.labels[:PUBLISHED_IMAGES], settings.seed)
    if not len(rows):
        return []
    batches = [(examples[each].inputs(settings.image_size), examples.labels[each]) for each in rows]
    records = []
    for names in groups.values():
        for student, base in islice(zip(names, bases), settings.map_pairs):
            for view, localize in ((WHOLE, None), (SALIENT, "hirescam")):
                with warnings.catch_warnings():
                    # That such scores are noisy and biased is what the column is there to show; the report says so.
                    warnings.simplefilter("ignore", UserWarning)
                    report = compare_transfer(
                        {student: networks[student]},
                        {base: networks[base]},
                        list(plan.layers),
                        batches,
                        population="batch",
                        estimator="biased",
                        feature_transform=flatten_to_unit_length,
                        localize=localize and Localization(localize, target="label"),
                        seed=settings.seed,
                        show_progress=False,
                    )
                records += [{"view": view, **row} for row in report.rows]
    return records


def pairs_of_classes(labels: Tensor, seed: int) -> Tensor:
    """Mini-batches as the published formula needs them, of two classes each: (batches, 5) places, each at most once.

    Classes are drawn at random among those that have images left.
    """
    generator = torch.Generator().manual_seed(seed)
    left = {
        int(label): [int(i) for i in places[torch.randperm(len(places), generator=generator)]]
        for label in labels.unique()
        for places in [(labels == label).nonzero()[:, 0]]
    }
    many, few = PUBLISHED_BATCH
    batches: list[list[int]] = []
    while True:
        first = _one_of([label for label, places in left.items() if len(places) >= many], generator)
        second = _one_of([label for label, places in left.items() if len(places) >= few and label != first], generator)
        if first is None or second is None:
            return torch.tensor(batches, dtype=torch.int64).reshape(-1, many + few)
        batches.append([left[first].pop() for _ in range(many)] + [left[second].pop() for _ in range(few)])


def _one_of(choices: list[int], generator: torch.Generator) -> Optional[int]:
    return choices[int(torch.randint(len(choices), (), generator=generator))] if choices else None
