"""Pictures of maps of images and of texts."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence

import torch
from captum.attr import LayerAttribution
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.perturb import keep_relevant
from captum_kd.visualization import visualize_tokens, visualize_transfer
from distillation.data.questions import Texts
from distillation.drawing import Picture, slug
from distillation.explaining import BASE as BASE_MAP
from distillation.explaining import BY_TEACHER, DISTILLED, NET, POINT, RESIDUAL
from distillation.explaining import NULL as NULL_MAP
from distillation.explaining import STUDENT as STUDENT_MAP
from distillation.measuring import Measurements, PairMaps
from distillation.task import Task

__all__ = ["maps", "sentences"]

KEPT = 0.5


def maps(task: Task, found: Measurements, shown: Tensor) -> Iterator[Picture]:
    chosen = found.shown[shown]
    # Pictures of more than 128 pixels would make the page slow and show no more at this size.
    images = chosen.inputs(min(128, found.shown.store.shape[-1]))
    pairs = found.first_pairs()

    def labels_of(names: Sequence[str]) -> list[str]:
        return ["\n".join(each) for each in _answers(task, found, shown, names)]

    columns = {f"Grad-CAM {pairs[0].base}": pairs[0].maps[BASE_MAP][shown]}
    columns |= {f"Grad-CAM {pair.student}": pair.maps[STUDENT_MAP][shown] for pair in pairs}
    yield (
        "gradcam",
        "Grad-CAM of the first Base and of the first Student of each group, each of its own prediction.",
        visualize_transfer(images, columns, masks=chosen.masks, scale="map", row_labels=labels_of([]), title="Grad-CAM"),
    )
    for pair in pairs:
        yield (
            f"maps_{slug(pair.group.name)}",
            f"{pair.student} and {pair.base}: net map (distilled minus residual), distilled and residual features, a net map of "
            "two Bases for comparison, Grad-CAM of the Student, and the paper's gradient. The images are the first of each "
            "class, classes in turn, not cherry-picked. Red: positive, blue: negative. In each row the first four maps share "
            "one color scale; Grad-CAM and the paper's gradient each have their own.",
            visualize_transfer(
                images,
                _in_colors(pair.maps, shown, images.shape[-1]),
                masks=chosen.masks,
                scale="shared",
                sign="all",
                outlier_perc=0.0,
                row_labels=labels_of([pair.student, pair.base]),
            ),
        )
        yield (
            f"kept_{slug(pair.group.name)}",
            f"What is left when the half that a map ranks highest is kept and the rest imputed: {pair.student}, {pair.base}.",
            _kept(images, pair, shown, labels_of([pair.student, pair.base])),
        )


def _answers(task: Task, found: Measurements, shown: Tensor, names: Sequence[str]) -> list[list[str]]:
    """The true class of each example shown, and those that networks predict."""
    # Between two dollar signs matplotlib would read a formula.
    classes = [name.replace("$", r"\$") for name in task.classes]
    return [
        [
            f"true: {classes[int(found.shown.labels[row])]}",
            *(f"{name}: {classes[int(found.predictions[name][row])]}" for name in names),
        ]
        for row in shown.tolist()
    ]


def sentences(task: Task, found: Measurements, shown: Tensor) -> Iterator[Picture]:
    chosen = found.shown[shown]
    assert isinstance(chosen, Texts)
    for pair in found.first_pairs():
        by_labels = [title for title in (NET, DISTILLED, RESIDUAL, NULL_MAP) if title in pair.maps]
        titles = [*by_labels, BY_TEACHER, STUDENT_MAP]
        yield (
            f"maps_{slug(pair.group.name)}",
            f"{pair.student} and {pair.base}: net map (distilled minus residual), distilled and residual features, a net map of "
            "two Bases for comparison, the net map of the Teacher's share, and Grad-CAM of the Student. The sentences are the "
            "first of each class, classes in turn, not cherry-picked. Red: positive, blue: negative. The maps by labels share "
            "one scale over all sentences; the last two have scales of their own.",
            visualize_tokens(
                chosen.tokens,
                {title: pair.maps[title][shown] for title in titles},
                token_mask=found.shown.inputs()["attention_mask"][shown],
                sentence_titles=["; ".join(each) for each in _answers(task, found, shown, [pair.student, pair.base])],
                scale=[by_labels, [BY_TEACHER], [STUDENT_MAP]],
                units={**dict.fromkeys(by_labels, "gain of J per word"), BY_TEACHER: "gain of the Teacher's share per word"},
            ),
        )


def _in_colors(maps: Mapping[str, Tensor], shown: Tensor, size: int) -> dict[str, Tensor]:
    """The maps of some images, enlarged, in parts of the largest value: of an image's integrated maps, or of the map alone.

    Maps of some images are far weaker than of others; the figure is to show where, the tables how much.
    """
    integrated = [title for title in (NET, DISTILLED, RESIDUAL, NULL_MAP) if title in maps]
    scaled: dict[str, Tensor] = {}
    for titles in (integrated, [STUDENT_MAP], [POINT]):
        together = torch.stack([LayerAttribution.interpolate(maps[title][shown], size, "bilinear") for title in titles])
        tops = together.abs().amax((0, 2, 3, 4)).clamp_min(1e-30)
        scaled |= dict(zip(titles, together / tops[:, None, None, None]))
    return scaled


def _kept(images: Tensor, pair: PairMaps, shown: Tensor, row_labels: list[str]) -> Figure:
    kept = {
        title: keep_relevant(images, pair.maps[title][shown], keep=KEPT, generator=torch.Generator().manual_seed(0))
        for title in (NET, DISTILLED, RESIDUAL, STUDENT_MAP, BASE_MAP)
    }
    return visualize_transfer(images, {}, kept=kept, row_labels=row_labels)
