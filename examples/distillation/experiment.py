"""The whole course: train Teacher, Students and Bases, explain, score, write, print."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from captum_kd.metrics import compare_transfer
from distillation.explaining import keep_curves, localization, maps_of
from distillation.networks import STAGES, Architecture, ResNet
from distillation.reporting import (
    EXPLANATIONS,
    as_record,
    machine,
    print_results,
    save_keep_curves,
    save_layers,
    save_report,
    save_transfer,
    versions,
)
from distillation.settings import Settings
from distillation.task import Examples, Task
from distillation.training import Alone, WithTeacher, fit, predict

__all__ = ["Networks", "run"]

SHIFTS = 3
"""Pixels by which augmentation moves a 32-pixel image at most."""
BATCH = 128
"""Images in one forward pass; no result depends on it."""
CONFIDENCE = 0.95


class Networks(NamedTuple):
    """What was trained.

    Attributes:
        teacher: the Teacher.
        students: by name, in the order of their seeds.
        bases: the same.
    """

    teacher: ResNet
    students: dict[str, ResNet]
    bases: dict[str, ResNet]

    def by_name(self) -> dict[str, ResNet]:
        return {"Teacher": self.teacher, **self.students, **self.bases}


def run(task: Task, teacher: Architecture, student: Architecture, settings: Settings, progress: bool) -> dict[str, Any]:
    """Runs the experiment, writes figures, reports and checkpoints into the output folder, prints the results and
    returns what ``report.json`` holds. The number of torch's threads afterwards is what it was before.

    Args:
        task: the data.
        teacher, student: sizes of the networks; Base models have the Student's.
        settings: everything else.
        progress: whether to draw progress bars.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        return _run(task, teacher, student, settings, progress)
    finally:
        torch.set_num_threads(threads)


def _run(task: Task, teacher: Architecture, student: Architecture, settings: Settings, progress: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    settings.output.mkdir(parents=True, exist_ok=True)
    networks = train(task, teacher, student, settings, progress)
    trained = time.perf_counter()

    predictions = {name: predict(network, task.test) for name, network in networks.by_name().items()}
    examples = task.test[: settings.test_images]
    whole, salient = (
        compare_transfer(
            networks.students,
            networks.bases,
            STAGES,
            _batches(examples),
            teacher=networks.teacher,
            localize=localize,
            confidence=CONFIDENCE,
            seed=settings.seed,
            show_progress=progress,
        )
        for localize in (None, "gradcam")
    )
    # Figures and maps are of the first Student beside the first Base.
    pair = next(iter(networks.students.values())), next(iter(networks.bases.values()))
    maps = maps_of(*pair, networks.teacher, STAGES[-1], examples, task.reference, progress)
    curves = keep_curves(pair[0], examples, maps, progress)
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
        "scores": whole.to_dict(),
        "localised_scores": salient.to_dict(),
        "map_layer": STAGES[-1],
        "localization": None if examples.masks is None else localization(maps, examples.masks),
        "keep_curves": {name: as_record(curve) for name, curve in curves.items()},
        "explanations": EXPLANATIONS,
        "settings": {**asdict(settings), "teacher": asdict(teacher), "student_and_base": asdict(student)},
        "versions": versions(),
        "machine": machine(),
        "seconds": {"training": trained - begin, "explaining": time.perf_counter() - trained},
    }
    shown = {name: predictions[name] for name in (next(iter(networks.students)), next(iter(networks.bases)))}
    accuracy = report["accuracy"][next(iter(networks.students))]
    save_transfer(settings.output / "transfer.png", task, maps, examples, shown, settings.rows)
    save_layers(settings.output / "layers.png", whole)
    save_layers(settings.output / "layers_localised.png", salient)
    save_keep_curves(settings.output / "keep_curve.png", curves, accuracy)
    whole.to_csv(settings.output / "scores.csv")
    save_report(settings.output / "report.json", report)
    print_results(report, whole, curves)
    print(f"\nWrote transfer.png, layers.png, layers_localised.png, keep_curve.png, scores.csv, report.json and "
          f"checkpoints/ to {settings.output}")  # fmt: skip
    return report


def _batches(examples: Examples) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(examples.inputs().split(BATCH), examples.labels.split(BATCH)))


def train(task: Task, teacher: Architecture, student: Architecture, settings: Settings, progress: bool) -> Networks:
    """Trains all networks; Students and Bases differ in the Teacher, and each from every other one in its seed."""
    options: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "shifts": SHIFTS if task.augment else 0,
    }
    classes = len(task.classes)

    def seeded(number: int) -> int:
        # Seeds of different runs must not meet: the Student of seed 0 is not the Base of seed 1.
        seed = 1000 * settings.seed + number
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
    students, bases = {}, {}
    for number in range(settings.pairs):
        seed, name = seeded(1 + 2 * number), _name("Student", number, settings.pairs)
        distilling = WithTeacher(
            student.build(classes), guide, temperature=settings.temperature, alpha=settings.alpha, **options
        )
        students[name] = fit(name, distilling, task.train, settings.epochs, settings, seed, progress)
        seed, name = seeded(2 + 2 * number), _name("Base", number, settings.pairs)
        alone = Alone(student.build(classes), **options)
        bases[name] = fit(name, alone, task.train, settings.epochs, settings, seed, progress)
    return Networks(guide, students, bases)


def _name(role: str, number: int, pairs: int) -> str:
    return role if pairs == 1 else f"{role} {number + 1}"
