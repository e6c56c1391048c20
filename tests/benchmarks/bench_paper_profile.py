"""What the examples' profiles at the paper's size would take here: measured steps, extrapolated to whole trainings.

    PYTHONPATH=examples python tests/benchmarks/bench_paper_profile.py [--profile authors] [--device cuda] [--steps 2]

Steps are those of the profile: a batch of images of 224 pixels, changed at random, forward and backward through the
networks, one step of the optimizer. Networks have 10 classes and random weights, which cost as much as others. What is left
out: validation, a tenth or so of the time, and measuring, which takes minutes. On a CPU one thread works, and its processor
time counts, which other work on the machine changes little. Absolute times hold for the machine that they were measured on.
"""

from __future__ import annotations

import argparse
import time
from typing import Callable, Optional

import torch
from distillation.augmentation import augment
from distillation.networks import build, stages
from distillation.profiles import profile
from distillation.settings import Settings
from distillation.techniques import make
from torch import Tensor, nn

IMAGES = {"cifar10": 60_000, "asirra": 24_998, "plant_disease": 54_305}
"""Images of the whole data sets, without ASIRRA's two broken files."""

CLASSES = 10


def seconds_of_a_step(
    network: nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], settings: Settings, steps: int, device: torch.device
) -> float:
    """The fastest of some steps, after one that is not counted: what else the machine does only adds."""
    network.train().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    pixels = torch.rand(settings.batch_size, 3, settings.image_size, settings.image_size, device=device)
    labels = torch.randint(CLASSES, (settings.batch_size,), device=device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(1 + steps):
        begin = clock()
        images = augment(pixels, settings.augmentation)
        loss(images, network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - begin)
    return min(times[1:])


def alone(name: str, settings: Settings, steps: int, device: torch.device) -> float:
    def loss(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    return seconds_of_a_step(build(name, CLASSES), loss, settings, steps, device)


def taught(kind: str, settings: Settings, steps: int, device: torch.device) -> float:
    guide, network = build(settings.teacher, CLASSES).to(device), build(settings.student, CLASSES)
    layers = {"layers": stages(settings.student), "guide_layers": stages(settings.teacher)}
    sample = torch.rand(1, 3, settings.image_size, settings.image_size)
    technique = make(kind, guide.cpu(), network, **layers, settings=settings, seed=0, sample=sample)
    with technique.watching(network, device):
        return seconds_of_a_step(network, technique, settings, steps, device)


def main(argv: Optional[list[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", choices=("paper", "authors"), default="paper")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed; default: %(default)s")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    measured: dict[tuple[object, ...], float] = {}

    def step(kind: Optional[str], name: str, settings: Settings) -> float:
        key = (kind, name, kind and settings.teacher, settings.batch_size)
        if key in measured:
            return measured[key]
        own = (settings, arguments.steps, device)
        seconds = alone(name, *own) if kind is None else taught(kind, *own)
        print(f"| {name}, {f'{kind}, from {settings.teacher}' if kind else 'alone'} | {settings.batch_size} | {seconds:.2f} |")
        measured[key] = seconds
        return seconds

    print("| step at 224 px | images | seconds |\n| --- | --- | --- |")
    rows = []
    for data, images in IMAGES.items():
        settings = profile(data, arguments.profile)
        batch = settings.batch_size
        # Without folds a share is held out; CIFAR-10 has a test part of its own, of about that size.
        steps = int(images * ((settings.folds - 1) / settings.folds if settings.folds > 1 else 1 - settings.test_share)) // batch
        teacher = step(None, settings.teacher, settings)
        base = step(None, settings.student, settings)
        kinds = (*settings.techniques, *settings.controls)
        students = sum(step(kind, settings.student, settings) for kind in kinds)
        once = steps * (teacher * settings.teacher_epochs + settings.epochs * settings.seeds * (base + students)) / 3600
        rows.append(f"| {data} | {images:,} | {steps:,} | {settings.folds} x {settings.seeds} | {settings.folds * once:,.0f} |")
    print("\n| data | images | steps an epoch | folds x seeds | hours |\n| --- | --- | --- | --- | --- |", *rows, sep="\n")


if __name__ == "__main__":
    main()
