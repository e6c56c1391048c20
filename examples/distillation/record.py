"""What a run is and what came out, in plain numbers: ``run.json`` at its beginning, ``report.json`` at its end."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Mapping, Sequence

import torch

from captum_kd.metrics import KeepCurve
from distillation.checkpoints import FOLDER
from distillation.files import write_text
from distillation.measuring import Measurements
from distillation.outcomes import Record
from distillation.plan import Plan
from distillation.settings import Settings
from distillation.task import Task
from distillation.training import Epoch, is_main_process

__all__ = ["ResumeError", "is_begun", "open_run", "record_of"]

RUN = "run.json"
"""Written before anything is trained."""

FREE_TO_CHANGE = {
    "output", "rows", "test_images", "map_images", "threads", "accelerator", "devices", "strategy",
    "seeds", "techniques", "controls",
}  # fmt: skip
"""Settings that a resumed run may have anew: none of them says how a network is trained on what. So a finished run can
be given further seeds, techniques and controls."""


class ResumeError(RuntimeError):
    """A run that cannot be resumed; the message says why and what to do."""


def is_begun(settings: Settings) -> bool:
    """Whether the output folder holds a run that can be resumed."""
    return (settings.output / RUN).is_file()


def open_run(task: Task, settings: Settings, resume: bool) -> None:
    """Writes down what the run is, or checks that the one to be resumed is the same.

    Raises:
        ResumeError: nothing to resume, or a run with other settings or data.
    """
    path = settings.output / RUN
    options = _plain(settings)
    this = {"settings": options, "data": _fingerprint(task)}
    if not resume:
        if is_main_process():
            settings.output.mkdir(parents=True, exist_ok=True)
            # What an earlier run left is not this run's.
            for left in (settings.output / FOLDER).glob("*.*"):
                left.unlink()
            write_text(path, json.dumps(this, indent=2) + "\n")
        return
    if not is_begun(settings):
        raise ResumeError(f"There is no run to resume in {settings.output}. Leave out --resume to begin one.")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResumeError(f"{path} is damaged ({error}). Leave out --resume to begin anew.") from error
    changed = [
        f"{name} was {before['settings'].get(name)}, is {value}"
        for name, value in options.items()
        if name not in FREE_TO_CHANGE and before["settings"].get(name) != value
    ]
    if before["data"] != this["data"]:
        changed.append("the images are others")
    if changed:
        raise ResumeError(
            f"The run in {settings.output} cannot be resumed: {'; '.join(changed)}. Give the options of the first run, or "
            "begin a new one without --resume in another --output."
        )


def _fingerprint(task: Task) -> str:
    """Of who gets which images; the pixels themselves are not read."""
    digest = hashlib.sha256(repr([task.name, *task.classes]).encode())
    for fold in task.folds:
        for part in (fold.train, fold.teacher_train, fold.reference, fold.test):
            digest.update(part.rows.numpy().tobytes())
            digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()


def _plain(settings: Settings) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists, paths text."""
    return {
        entry.name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for entry in fields(settings)
        for value in [getattr(settings, entry.name)]
    }


def record_of(
    task: Task,
    plan: Plan,
    settings: Settings,
    histories: Sequence[Mapping[str, list[Epoch]]],
    measured: Sequence[Measurements],
    seconds: Mapping[str, float],
) -> Record:
    """Everything that is known of a run. Lists go over the folds."""
    start = "random weights" if settings.weights == "none" else "torchvision's ImageNet weights, its last layer random"
    return {
        "task": task.name,
        "classes": list(task.classes),
        "notes": [*task.notes, f"Each network starts from {start}, with a seed of its own."],
        "plan": {
            "guides": [asdict(guide) for guide in plan.guides],
            "groups": [{**asdict(group), "students": group.students(settings.seeds)} for group in plan.groups],
            "bases": plan.bases(settings.seeds),
            "student_and_base": plan.student,
            "layers": list(plan.layers),
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
                "accuracy": dict(found.accuracy),
                "history": {name: list(each) for name, each in history.items()},
                "scores": [
                    {
                        "teacher": each.teacher,
                        **{view: report.to_dict() for view, report in each.reports.items()},
                        "published": each.published,
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
            for fold, history, found in zip(task.folds, histories, measured)
        ],
        "map_layer": plan.layers[-1],
        "settings": _plain(settings),
        "versions": _versions(),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "seconds": dict(seconds),
    }


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
    packages = ("captum", "captum_kd", "lightning", "numpy", "scikit-learn", "torch", "torchdistill", "torchvision")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
