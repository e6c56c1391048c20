"""What the examples' paper profile would take here: measured steps, extrapolated to whole trainings.

    PYTHONPATH=examples python tests/benchmarks/bench_paper_profile.py [--device cuda] [--steps 2]

Steps are those of the profile: 32 images of 224 pixels, changed at random, forward and backward through the networks,
one step of the optimizer. What is left out: validation, a tenth or so of the time, and measuring, which takes minutes.
Absolute times hold for the machine that they were measured on, and change with what else it does.
"""

from __future__ import annotations

import argparse
import time
from typing import Callable, Optional

import torch
from distillation.augmentation import augment
from distillation.networks import build, stages
from distillation.profiles import profile
from distillation.settings import TECHNIQUES
from distillation.techniques import make
from torch import Tensor, nn

IMAGES = {"CIFAR-10": (60_000, 10), "ASIRRA": (24_998, 2), "Plant Disease": (54_305, 38)}
"""Images and classes of the whole data sets, without ASIRRA's two broken files."""

PAPER = profile("cifar10", "paper")
CLASSES = 10


def seconds_of_a_step(
    network: nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int, device: torch.device
) -> float:
    """The fastest of some steps, after one that is not counted: what else the machine does only adds."""
    network.train().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=PAPER.learning_rate, momentum=0.9)
    pixels = torch.rand(PAPER.batch_size, 3, PAPER.image_size, PAPER.image_size, device=device)
    labels = torch.randint(CLASSES, (PAPER.batch_size,), device=device)
    times = []
    for _ in range(1 + steps):
        begin = time.perf_counter()
        images = augment(pixels, PAPER.augmentation)
        loss(images, network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def alone(name: str, steps: int, device: torch.device) -> float:
    network = build(name, CLASSES)
    return seconds_of_a_step(network, lambda _, logits, labels: nn.functional.cross_entropy(logits, labels), steps, device)


def taught(kind: str, steps: int, device: torch.device) -> float:
    guide, network = build(PAPER.teacher, CLASSES).to(device), build(PAPER.student, CLASSES)
    layers = {"layers": stages(PAPER.student), "guide_layers": stages(PAPER.teacher)}
    technique = make(kind, guide, network, **layers, settings=PAPER, seed=0)
    with technique.watching(network, device):
        return seconds_of_a_step(network, technique, steps, device)


def main(argv: Optional[list[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed; default: %(default)s")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    teacher = alone(PAPER.teacher, arguments.steps, device)
    base = alone(PAPER.student, arguments.steps, device)
    students = {kind: taught(kind, arguments.steps, device) for kind in TECHNIQUES}
    print("| step of 32 images at 224 px | seconds |\n| --- | --- |")
    print(f"| Teacher, {PAPER.teacher} | {teacher:.2f} |\n| Base, {PAPER.student} | {base:.2f} |")
    for kind, seconds in students.items():
        print(f"| Student, {kind} | {seconds:.2f} |")
    print("\n| data | images | steps an epoch | one fold, hours | five folds, hours |\n| --- | --- | --- | --- | --- |")
    for data, (images, _) in IMAGES.items():
        steps = images * (PAPER.folds - 1) // PAPER.folds // PAPER.batch_size
        fold = steps * (teacher * PAPER.teacher_epochs + PAPER.epochs * (base + sum(students.values()))) / 3600
        print(f"| {data} | {images:,} | {steps:,} | {fold:,.0f} | {PAPER.folds * fold:,.0f} |")


if __name__ == "__main__":
    main()
