"""``index.html``: everything of a run on one page that needs no other file."""

from __future__ import annotations

import json
from typing import Iterator, Optional, Sequence

from torch import Tensor

from captum_kd.attr import InputMaps
from captum_kd.page import Folded, PageTable, Paragraphs, Picture, Section
from distillation.cautions import cautions
from distillation.data.questions import Texts
from distillation.drawing import Picture as NamedPicture
from distillation.drawing import slug
from distillation.explaining import BASE, BY_TEACHER, DISTILLED, NET, NULL, RESIDUAL, STUDENT
from distillation.measuring import Measurements
from distillation.outcomes import WHOLE, Record
from distillation.tables import Table
from distillation.task import Task, first_of_each_class

__all__ = ["page", "sections"]

ELSEWHERE = "Scores over the layers of every pair of models, on whole and on salient inputs, are in the run's folder figures/."
SHOWN = 60
"""Images or texts whose maps a reader can choose."""
OF_MAPS = ("gradcam", "maps_", "kept_")
"""Beginnings of the names of pictures of maps."""
LARGE = "layers_"
"""Beginning of the names of figures that draw every pair of models, 0.3 MB each: too much for a page. Tables have their means."""


def page(
    task: Task, record: Record, tables: Sequence[Table], pictures: Sequence[NamedPicture], measured: Sequence[Measurements]
) -> str:
    """The page: the report of the first fold and Teacher, with the run's cautions, maps, pictures, tables and settings.

    Args:
        task: what the networks learned.
        record: what came out.
        tables: shown folded.
        pictures: figures with their names and captions.
        measured: one for each fold.
    """
    report = measured[0].scores[0].reports[WHOLE]
    assert report is not None  # whole inputs are always scored
    return report.to_html(
        maps=_maps(task, record, measured[0]),
        sections=list(sections(record, tables, pictures, measured)),
        title=f"{task.name}: what was distilled",
    )


def sections(
    record: Record, tables: Sequence[Table], pictures: Sequence[NamedPicture], measured: Sequence[Measurements]
) -> Iterator[Section]:
    """What the page has beside the report."""
    found = [f"Caution. {caution}" for caution in cautions(record)]
    yield Section("This run", [Paragraphs([*found, *record["notes"]])], "verdict")
    for number, of_fold in enumerate(measured, start=1):
        for scores in of_fold.scores:
            report = scores.reports[WHOLE]
            if report is not None and scores is not measured[0].scores[0]:
                fold = f"fold {number}, " if len(measured) > 1 else ""
                yield Section(f"Verdict: {fold}{scores.teacher}", [Paragraphs(report.verdict)], "verdict")
    has_images = not isinstance(measured[0].shown, Texts)
    repeated = _repeated(record)
    shown = []
    for name, caption, figure in pictures:
        of_maps = name.startswith(OF_MAPS)
        if name not in repeated and not name.startswith(LARGE):
            shown.append((of_maps, Picture(figure, caption, is_photographic=of_maps and has_images)))
    for title, place, is_map in (("Pictures of maps", "maps", True), ("Figures of the run", "curves", False)):
        blocks = [picture for of_map, picture in shown if of_map == is_map]
        if blocks:
            yield Section(title, [*blocks, *([] if is_map else [Paragraphs([ELSEWHERE])])], place)
    counts = PageTable(
        ["fold", *(part.replace("_", " ") for part in record["folds"][0]["images"])],
        [[number, *fold["images"].values()] for number, fold in enumerate(record["folds"], start=1)],
        record["unit"].capitalize(),
    )
    every = [counts, *(PageTable(each.columns, each.rows, each.title, each.note, each.thumbnails) for each in tables)]
    yield Section("The run", [Folded(str(table.title), [table]) for table in every], "tables")
    settings = {key: record[key] for key in ("settings", "plan", "versions", "machine", "seconds")}
    yield Section("Settings of the run", [
        Folded("Settings, networks and versions", [
            PageTable(["part", "values"], [[key, json.dumps(part, ensure_ascii=False)] for key, part in settings.items()])
        ])
    ], "settings")  # fmt: skip


def _repeated(record: Record) -> set[str]:
    """Names of the pictures of which the report has its own on the page: with one fold, those of the first Teacher."""
    if len(record["folds"]) > 1:
        return set()
    teacher = record["folds"][0]["scores"][0]["teacher"]
    return {f"{kind}_{slug(teacher)}" for kind in ("predictions", "seed_control", "models")}


def _maps(task: Task, record: Record, found: Measurements) -> InputMaps:
    """Maps of the first inputs of each class, for all pairs that have maps."""
    chosen = first_of_each_class(found.shown.labels, SHOWN)
    inputs = found.shown[chosen]
    tokens: Optional[list[list[str]]] = None
    images: Optional[Tensor] = None
    mask = None
    if isinstance(inputs, Texts):
        tokens, mask = inputs.tokens, found.shown.inputs()["attention_mask"][chosen]
    else:
        images = inputs.inputs(min(128, found.shown.store.shape[-1]))
    by_labels = [NET, DISTILLED, RESIDUAL, NULL]
    titles = [*by_labels, BY_TEACHER, STUDENT, BASE]
    unit = "gain of J per word" if tokens is not None else "gain of J per position"
    return InputMaps(
        {
            record["map_layer"]: {
                (pair.student, pair.base): {title: pair.maps[title][chosen] for title in titles if title in pair.maps}
                for pair in found.pairs
            }
        },
        images,
        tokens,
        mask,
        inputs.labels,
        task.classes,
        {name: labels[: len(found.shown)][chosen] for name, labels in found.predictions.items()},
        None if tokens is not None else inputs.masks,
        [by_labels],
        {**dict.fromkeys(by_labels, unit), BY_TEACHER: unit.replace("J", "the Teacher's share")},
        chosen,
    )
