"""What a run is and what came out, in plain numbers: what ``report.json`` holds."""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Iterator, Mapping, Sequence

import torch

from captum_kd.metrics import KeepCurve
from distillation.measuring import Measurements
from distillation.monitoring import kept
from distillation.outcomes import CLASS_SCORES, PREDICTIONS, Record
from distillation.plan import Plan
from distillation.run_folder import plain
from distillation.settings import Settings
from distillation.task import Task
from distillation.training import Epoch

__all__ = ["fingerprint", "record_of"]


def fingerprint(task: Task) -> str:
    """Of who gets which images; the pixels themselves are not read."""
    digest = hashlib.sha256(repr([task.name, *task.classes]).encode())
    for fold in task.folds:
        for part in (fold.train, fold.teacher_train, fold.reference, fold.test):
            digest.update(part.rows.numpy().tobytes())
            digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()


def record_of(
    task: Task,
    plan: Plan,
    settings: Settings,
    histories: Sequence[Mapping[str, list[Epoch]]],
    monitored: Sequence[Mapping[str, list[dict[str, Any]]]],
    measured: Sequence[Measurements],
    seconds: Mapping[str, float],
) -> Record:
    """Everything that is known of a run. Lists go over the folds."""
    return {
        "task": task.name,
        "classes": list(task.classes),
        "unit": task.unit,
        "evidence": task.evidence,
        "notes": [*task.notes, *_starts(plan, settings)],
        "plan": {
            "guides": [asdict(guide) for guide in plan.guides],
            "groups": [{**asdict(group), "students": group.students(settings.seeds)} for group in plan.groups],
            "bases": plan.bases(settings.seeds),
            "student_and_base": plan.student,
            "layers": list(plan.layers),
            "guide_layers": list(plan.guide_layers),
        },
        "folds": [
            {
                "images": {
                    "train": fold.train.count,
                    "teacher_train": fold.teacher_train.count,
                    "reference": fold.reference.count,
                    "held_out": fold.test.count,
                    "scored": found.examples.count,
                    "explained": found.shown.count,
                },
                # Of a network that always names the most frequent class.
                "chance": float(fold.test.labels.bincount().max() / len(fold.test)),
                "accuracy": dict(found.accuracy),
                "history": {name: list(each) for name, each in history.items()},
                "monitor": {name: kept(each) for name, each in of_monitor.items() if each},
                "scores": [
                    {
                        "teacher": each.teacher,
                        **{view: report and _shortened(report.to_dict(), plan) for view, report in each.reports.items()},
                        "published": each.published,
                        "layers": {name: found.to_dict() for name, found in each.layers.items()},
                    }
                    for each in found.scores
                ],
                "maps": [
                    {
                        "group": pair.group.name,
                        "student": pair.student,
                        "base": pair.base,
                        "keep_curves": {name: _curve(curve) for name, curve in pair.curves.items()},
                        "localization": pair.localization,
                    }
                    for pair in found.pairs
                ],
            }
            for fold, history, of_monitor, found in zip(task.folds, histories, monitored, measured)
        ],
        "map_layer": plan.layers[-1],
        "settings": plain(settings),
        "versions": _versions(),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "seconds": dict(seconds),
    }


def _shortened(report: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Without the scores of classes that no table shows: all would be twice as long as the rest of the report."""
    classes = report["classes"]
    if classes is not None:
        layers = (PREDICTIONS, plan.layers[-1])
        classes["rows"] = [row for row in classes["rows"] if row["score"] in CLASS_SCORES and row["layer"] in layers]
    return report


STARTS = {"none": "random weights", "imagenet": "torchvision's ImageNet weights, its last layer random"}


def _starts(plan: Plan, settings: Settings) -> Iterator[str]:
    """What the networks start from."""
    if settings.weights != "pretrained":
        start, of_guides = (STARTS[settings.start_of(is_guide)] for is_guide in (False, True))
        yield f"Each network starts from {start}, with a seed of its own."
        if of_guides != start:
            yield f"Teachers start from {of_guides}."
        return
    yield (
        "Teachers start from the weights of a pretrained encoder; their last layer, the order of the batches and dropout have "
        f"seeds of their own. Students and Bases ({plan.student}) start from random weights."
    )
    yield (
        f"Compared layers: {', '.join(plan.layers)} of Students and Bases with {', '.join(plan.guide_layers)} of Teachers. "
        "Features are means over the tokens."
    )
    if plan.placebos:
        yield (
            "Placebo Teachers start from the same pretrained weights as the Teacher. They have all that comes from "
            "pretraining, so the share over them asks only for what is particular to this Teacher's fine-tuning."
        )
    if plan.random_placebos:
        yield (
            "Placebo Teachers from random weights have the Teacher's architecture and fine-tuning without its pretraining. "
            "The share over them asks for what pretraining and fine-tuning gave this Teacher, and cannot tell these two apart."
        )


def _curve(curve: KeepCurve) -> dict[str, Any]:
    error = curve.area_standard_error
    return {
        "shares": curve.shares.tolist(),
        "accuracy": curve.accuracy.tolist(),
        "area": float(curve.area),
        "area_standard_error": None if error is None else float(error),
    }


def _versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    packages = (
        "captum", "captum_kd", "lightning", "numpy", "scikit-learn", "torch", "torchdistill", "torchvision", "transformers",
    )  # fmt: skip
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # put on the path without being installed
        return str(getattr(sys.modules.get(name.replace("-", "_")), "__version__", "unknown"))
