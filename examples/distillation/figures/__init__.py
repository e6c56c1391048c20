"""The pictures of a run."""

from __future__ import annotations

from typing import Iterator, Sequence

from captum_kd.visualization import plot_keep_curve
from distillation.data.questions import Texts
from distillation.drawing import Picture, slug
from distillation.figures.maps import maps, sentences
from distillation.figures.scores import classes, curves, layers, likeness, predictions, seeds
from distillation.measuring import Measurements
from distillation.monitoring import process
from distillation.outcomes import SALIENT, WHOLE, Record
from distillation.plan import Plan
from distillation.task import Task, first_of_each_class

__all__ = ["picture_names", "pictures_of"]


def pictures_of(task: Task, record: Record, measured: Sequence[Measurements], rows: int) -> Iterator[Picture]:
    """All pictures, in the order of reading. Maps are those of the first fold's first Student of each group."""
    yield (
        "accuracy",
        f"Accuracy on held-out {task.unit} over the epochs: means and one SD over seeds and folds. Dotted: a network that "
        "always names the most frequent class.",
        curves(record),
    )
    yield from process(record)
    yield from predictions(record)
    first = measured[0]
    shown = first_of_each_class(first.shown.labels, rows)
    yield from (sentences if isinstance(first.shown, Texts) else maps)(task, first, shown)
    yield from layers(record)
    yield from seeds(record)
    yield from classes(task, record)
    yield from likeness(task, record, first)
    for pair in first.first_pairs():
        yield (
            f"keep_curve_{slug(pair.group.name)}",
            f"{pair.student}: accuracy on {task.unit} of which only what a map ranks highest is kept. "
            f"Bands: one standard error over {task.unit}.",
            plot_keep_curve(
                pair.curves, whole_accuracy=_accuracy_on_shown(first, pair.student),
                chance=record["folds"][0]["chance"], title=pair.student,
            ),
        )


def picture_names(plan: Plan) -> list[str]:
    """Names of all pictures that a run can have."""
    kinds = ("maps", "kept", f"layers_{WHOLE}", f"layers_{SALIENT}", "keep_curve", "classes")
    of_groups = [f"{kind}_{slug(group.name)}" for group in plan.groups for kind in kinds]
    once = ("predictions", "seed_control", "models", "layer_similarity", "embeddings")
    of_teachers = [f"{kind}_{slug(teacher)}" for teacher in plan.teachers for kind in once]
    return ["accuracy", "gradcam", "process", *of_teachers, *of_groups]


def _accuracy_on_shown(found: Measurements, network: str) -> float:
    labels = found.shown.labels
    return float((found.predictions[network][: len(labels)] == labels).float().mean())
