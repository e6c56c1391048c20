"""The whole course: train Teacher, Student and Base, explain, score, write, print."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch

from distillation.explaining import energy_share, layer_rows, maps_of
from distillation.networks import STAGES, Architecture, ResNet
from distillation.reporting import EXPLANATIONS, print_results, save_layers, save_report, save_transfer, versions
from distillation.settings import Settings
from distillation.task import Task
from distillation.training import Alone, WithTeacher, fit, predict

__all__ = ["run"]

SHIFTS = 3
"""Pixels by which augmentation moves a 32-pixel image at most."""


def run(task: Task, teacher: Architecture, student: Architecture, settings: Settings, progress: bool) -> dict[str, Any]:
    """Runs the experiment, writes ``transfer.png``, ``layers.png``, ``report.json`` and the checkpoints into
    the output folder, prints the results and returns the report.

    Args:
        task: the data.
        teacher, student: sizes of the networks; the Base model has the Student's.
        settings: everything else.
        progress: whether to draw progress bars.
    """
    begin = time.perf_counter()
    settings.output.mkdir(parents=True, exist_ok=True)
    networks = train_trio(task, teacher, student, settings, progress)
    trained = time.perf_counter()

    predictions = {name: predict(network, task.test) for name, network in networks.items()}
    examples = task.test[: settings.test_images]
    pair = networks["Student"], networks["Base"]
    maps = maps_of(*pair, STAGES[-1], examples, task.reference, progress)
    rows = layer_rows(*pair, STAGES, examples, progress)
    energy = None
    if examples.masks is not None:
        energy = {
            "mask_area": float(examples.masks.float().mean()),
            "maps": {
                title.replace("\n", " "): energy_share(values, examples.masks)._asdict()
                for title, values in maps.items()
            },
        }
    report: dict[str, Any] = {
        "task": task.name,
        "notes": [*task.notes, "Each network starts from random weights of its own."],
        "classes": list(task.classes),
        "counts": {
            "train": task.train.count,
            "teacher_train": task.teacher_train.count,
            "reference": task.reference.count,
            "test": task.test.count,
            "scores_and_maps": examples.count,
        },
        "accuracy": {
            name: float((labels == task.test.labels).float().mean()) for name, labels in predictions.items()
        },
        "rows": rows,
        "energy": energy,
        "map_layer": STAGES[-1],
        "explanations": EXPLANATIONS,
        "settings": {**asdict(settings), "teacher": asdict(teacher), "student_and_base": asdict(student)},
        "versions": versions(),
        "seconds": {"training": trained - begin, "explaining": time.perf_counter() - trained},
    }
    students = {name: predictions[name] for name in ("Student", "Base")}
    save_transfer(settings.output / "transfer.png", task, maps, examples, students, settings.rows)
    save_layers(settings.output / "layers.png", rows)
    save_report(settings.output / "report.json", report)
    print_results(report)
    print(f"\nWrote transfer.png, layers.png, report.json and checkpoints/ to {settings.output}")
    return report


def train_trio(
    task: Task, teacher: Architecture, student: Architecture, settings: Settings, progress: bool
) -> dict[str, ResNet]:
    """Trains the three networks; Student and Base differ in the Teacher and in the seed."""
    options: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "shifts": SHIFTS if task.augment else 0,
    }
    classes = len(task.classes)

    def seeded(role: int) -> int:
        # Seeds of different runs must not meet: the Student of seed 0 is not the Base of seed 1.
        seed = 10 * settings.seed + role
        torch.manual_seed(seed)
        return seed

    seed = seeded(0)
    guide = fit(
        "Teacher",
        Alone(teacher.build(classes), **options),
        task.teacher_train,
        settings.teacher_epochs,
        settings,
        seed,
        progress,
    )
    seed = seeded(1)
    distilling = WithTeacher(
        student.build(classes), guide, temperature=settings.temperature, alpha=settings.alpha, **options
    )
    pupil = fit("Student", distilling, task.train, settings.epochs, settings, seed, progress)
    seed = seeded(2)
    base = fit("Base", Alone(student.build(classes), **options), task.train, settings.epochs, settings, seed, progress)
    return {"Teacher": guide, "Student": pupil, "Base": base}
