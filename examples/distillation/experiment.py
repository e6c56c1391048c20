"""The whole course of an experiment: train, measure, write, print."""

from __future__ import annotations

import time
from typing import Optional

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from distillation.measuring import measure
from distillation.networks import build
from distillation.outcomes import Record
from distillation.plan import Plan
from distillation.randomness import derived, own_randomness
from distillation.record import open_run, record_of
from distillation.results import print_results, write_results
from distillation.settings import Settings
from distillation.tables import tables_of
from distillation.task import Fold, Task
from distillation.techniques import make
from distillation.training import Epoch, fit, is_main_process

__all__ = ["run"]

CALIBRATION, BATCH = 1024, 64
"""Images that an untrained network's batch normalisation takes its statistics from, and those in one forward pass."""


def run(task: Task, plan: Plan, settings: Settings, *, progress: bool = True, resume: bool = False) -> Optional[Record]:
    """Runs the experiment, writes everything into the output folder, prints the results and returns what
    ``report.json`` holds; None on all but the first of several processes. The number of torch's threads afterwards is
    what it was before.

    Args:
        task: the data.
        plan: who is trained, and by whom.
        settings: everything else.
        progress: whether to draw progress bars.
        resume: whether to go on with the run that is in the output folder. What is trained is loaded, what is half
            trained is trained on, with the result of a run without a break.

    Raises:
        ResumeError: nothing to resume, or a run with other settings or data.
        KeyboardInterrupt: stopped by the user; the run can be resumed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        return _run(task, plan, settings, progress, resume)
    finally:
        torch.set_num_threads(threads)


def _run(task: Task, plan: Plan, settings: Settings, progress: bool, resume: bool) -> Optional[Record]:
    open_run(task, settings, resume)
    begin = time.perf_counter()
    trained = [train(task, plan, fold, number, settings, progress, resume) for number, fold in enumerate(task.folds)]
    if not is_main_process():
        return None
    seconds = {"training": time.perf_counter() - begin}
    begin = time.perf_counter()
    measured = [measure(networks, plan, fold, settings, progress) for fold, (networks, _) in zip(task.folds, trained)]
    seconds["measuring"] = time.perf_counter() - begin
    record = record_of(task, plan, settings, [history for _, history in trained], measured, seconds)
    tables = tables_of(record)
    write_results(settings.output, task, record, tables, measured, settings.rows)
    print_results(record, tables)
    return record


def train(
    task: Task, plan: Plan, fold: Fold, number: int, settings: Settings, progress: bool, resume: bool
) -> tuple[dict[str, nn.Module], dict[str, list[Epoch]]]:
    """Trains all networks of one fold: guides, Bases, Students. Each starts from a seed of its own.

    Returns:
        The networks and how their training went, by name.
    """
    networks: dict[str, nn.Module] = {}
    histories: dict[str, list[Epoch]] = {}
    classes = len(task.classes)

    def learn(name: str, architecture: str, kind: Optional[str], guide: Optional[str], is_guide: bool) -> None:
        # Another one for each network, fold and run, and the same whoever else is trained beside it.
        seed = derived(settings.seed, number, name)
        network = seeded(seed, architecture, classes, settings.weights)
        technique = None
        if kind is not None and guide is not None:
            technique = make(
                kind, networks[guide], network, layers=plan.layers, guide_layers=plan.layers, settings=settings, seed=seed
            )
        done = fit(
            name if len(task.folds) == 1 else f"Fold {number + 1} {name}",
            network,
            fold.teacher_train if is_guide else fold.train,
            fold.test,
            epochs=settings.teacher_epochs if is_guide else settings.epochs,
            settings=settings,
            seed=seed,
            progress=progress,
            technique=technique,
            resume=resume,
        )
        networks[name], histories[name] = done.network, done.history

    for guide in plan.guides:
        if guide.trained:
            learn(guide.name, guide.network, None if guide.taught_by is None else "response", guide.taught_by, True)
        else:
            network = seeded(derived(settings.seed, number, guide.name), guide.network, classes, "none")
            device = _device_of(networks)
            # Without statistics of its layers a deep network's outputs would be the same for all images, or immense.
            update_bn(fold.teacher_train[:CALIBRATION].batches(BATCH, settings.image_size), network.to(device), device)
            networks[guide.name] = network.eval()
    for name in plan.bases(settings.seeds):
        learn(name, plan.student, None, None, False)
    for group in plan.groups:
        for name in group.students(settings.seeds):
            learn(name, plan.student, group.technique, group.guide, False)
    return networks, histories


def seeded(seed: int, architecture: str, classes: int, weights: str) -> nn.Module:
    """A new network whose random weights depend on the seed alone."""
    with own_randomness(seed, "weights"):
        return build(architecture, classes, weights)


def _device_of(networks: dict[str, nn.Module]) -> torch.device:
    return next((next(network.parameters()).device for network in networks.values()), torch.device("cpu"))
