"""Students and Bases while they train: what measures them, what the report keeps of it, and the picture."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

from torch import nn

from captum_kd.monitor import TransferMonitor, plot_process
from distillation.drawing import Picture
from distillation.outcomes import Record
from distillation.plan import Plan, Training
from distillation.settings import Settings
from distillation.task import Batches, Fold

__all__ = ["kept", "monitor_of", "process"]

DRAWN = {
    "fss_student_teacher", "rs_student", "rs_distilled", "teacher_distilled", "agreement_student_teacher", "accuracy_student",
    "fss_base_teacher", "rs_base", "agreement_base_teacher", "accuracy_base",
}  # fmt: skip
"""The scores of the picture; those of the trained Base are levels in it."""


def monitor_of(
    training: Training, networks: Mapping[str, nn.Module], plan: Plan, fold: Fold, settings: Settings
) -> Optional[TransferMonitor]:
    """The monitor of a Student, or of a Base after the first one. All are compared with the first Base and with the Teacher.

    None for guides, for the first Base, and for plans with several Teachers.
    """
    first = plan.bases(settings.seeds)[0]
    if not settings.monitor_images or training.is_guide or first not in networks or len(plan.teachers) > 1:
        return None
    layers = {layer: {"student": layer, "base": layer, "teacher": at} for layer, at in zip(plan.layers, plan.guide_layers)}
    probe = Batches(fold.test[: settings.monitor_images], settings.image_size)
    monitor: TransferMonitor = TransferMonitor(networks[plan.teachers[0]], networks[first], layers, probe)
    return monitor


def kept(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that the picture shows; the others would make the report twice as long."""
    return [record for record in history if record["score"] in DRAWN]


def process(record: Record) -> Iterator[Picture]:
    """When the transfer happens, layer by layer: each group of Students over the epochs, and Bases in gray."""
    monitored = [fold.get("monitor", {}) for fold in record["folds"]]
    groups = {
        group["name"]: [found[name] for found in monitored for name in group["students"] if found.get(name)]
        for group in record["plan"]["groups"]
    }
    groups = {name: histories for name, histories in groups.items() if histories}
    if not groups:
        return
    first, *others = record["plan"]["bases"]
    null = [found[name] for found in monitored for name in others if found.get(name)]
    gray = f" Gray: the trainings of Bases other than {first}, which had no Teacher, measured in the same way." if null else ""
    yield (
        "process",
        "The trainings, layer by layer: lines are means over seeds and folds, bands from the smallest to the largest value. "
        f"Distilled parts are what a network has and {first} lacks.{gray} Dotted: the values of {first} after its training. "
        "Where a colored line is not above the gray one, nothing was gained that a training without a Teacher does not gain.",
        plot_process(groups, null or None),
    )
