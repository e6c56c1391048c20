"""The whole course of an experiment: train, measure, write, print."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from distillation.checkpoints import checkpoint_path
from distillation.measuring import measure
from distillation.monitoring import monitor_of
from distillation.networks import IMAGE_NETWORKS, Networks
from distillation.outcomes import Record
from distillation.plan import Plan, Training
from distillation.progress import Progress
from distillation.randomness import derived, own_randomness
from distillation.record import fingerprint, record_of
from distillation.results import print_results, result_files, write_results
from distillation.run_folder import RunFolderError, begin
from distillation.settings import Settings
from distillation.tables import tables_of
from distillation.task import DataError, Fold, Task
from distillation.techniques import make
from distillation.training import Epoch, TrainingSetup, check_checkpoint, fit, is_main_process

__all__ = ["run"]

CALIBRATION, BATCH = 1024, 64
"""Images that an untrained network's batch normalization takes its statistics from, and those in one forward pass."""


def run(task: Task, plan: Plan, settings: Settings, *, progress: bool = True, resume: bool = False) -> Optional[Record]:
    """Runs the experiment, writes everything into the output folder, prints the results and returns what
    ``report.json`` holds; None on all but the first of several processes. The number of torch's threads afterwards is
    what it was before. The output folder is to be claimed first: see ``run_folder.claimed``.

    Args:
        task: the data.
        plan: who is trained, and by whom.
        settings: everything else.
        progress: whether to show progress.
        resume: whether to go on with the run that is in the output folder. What is trained is loaded, what is half
            trained is trained on, with the result of a run without a break.

    Raises:
        RunFolderError: nothing to resume, a run with other data, or files of others where the run would write.
        CheckpointError: a checkpoint that cannot be resumed from.
        DataError: examples with which the scores could not be taken.
        KeyboardInterrupt: stopped by the user; the run can be resumed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        return _run(task, plan, settings, progress, resume)
    finally:
        torch.set_num_threads(threads)


def _run(task: Task, plan: Plan, settings: Settings, progress: bool, resume: bool) -> Optional[Record]:
    check_labels(task, settings)
    check_batches(task, plan, settings)
    if resume:
        check_checkpoints(task, plan, settings)
    begin(settings, fingerprint(task), files_of(task, plan, settings), resume)
    check_space(task, plan, settings)
    start = time.perf_counter()
    with Progress(work(task, plan, settings), progress and is_main_process()) as shown:
        trained = [train(task, plan, fold, number, settings, shown, resume) for number, fold in enumerate(task.folds)]
        if not is_main_process():
            return None
        seconds = {"training": time.perf_counter() - start}
        start = time.perf_counter()
        measured = [measure(each.networks, plan, fold, settings, shown) for fold, each in zip(task.folds, trained)]
        seconds["measuring"] = time.perf_counter() - start
        shown.stage("Writing tables, figures and the page")
        histories, monitored = [each.histories for each in trained], [each.monitored for each in trained]
        record = record_of(task, plan, settings, histories, monitored, measured, seconds)
        tables = tables_of(record, measured)
        write_results(settings.output, task, record, tables, measured, settings.rows)
    print_results(record, tables, measured)
    return record


class TrainedFold(NamedTuple):
    """The networks of a fold by name, the histories of their trainings, and what a monitor measured meanwhile."""

    networks: dict[str, nn.Module]
    histories: dict[str, list[Epoch]]
    monitored: dict[str, list[dict[str, Any]]]


def train(
    task: Task, plan: Plan, fold: Fold, number: int, settings: Settings, progress: Progress, resume: bool
) -> TrainedFold:
    """Trains all networks of one fold: guides, Bases, Students. Each starts from a seed of its own."""
    found = TrainedFold({}, {}, {})
    networks = found.networks
    classes = len(task.classes)

    for training in plan.trainings(settings.seeds):
        if training.is_trained:
            setup = _setup(task, plan, number, training, networks, settings)
            monitor = monitor_of(training, networks, plan, fold, settings)
            progress.begin(setup.name)
            done = fit(setup, moved=progress.moved, resume=resume, monitor=monitor)
            progress.finished(done.history[-1]["validation_accuracy"])
            networks[training.name], found.histories[training.name] = done.network, done.history
            found.monitored[training.name] = done.monitored
        else:
            seed = derived(settings.seed, number, training.name)
            network = seeded(seed, training.network, classes, "none", plan.networks)
            device = _device_of(networks)
            # Without statistics of its batch normalization a deep network's outputs would be the same throughout, or immense.
            update_bn(fold.teacher_train[:CALIBRATION].batches(BATCH, settings.image_size), network.to(device), device)
            networks[training.name] = network.eval()
    return found


def work(task: Task, plan: Plan, settings: Settings) -> dict[str, float]:
    """The work of each training by the network's full name, in images of all epochs."""
    found = {}
    for number, fold in enumerate(task.folds):
        for training in plan.trainings(settings.seeds):
            images = settings.teacher_epochs * len(fold.teacher_train) if training.is_guide else settings.epochs * len(fold.train)
            if training.is_trained:
                # The guide's answers take about half as long as a step of the network that learns.
                found[full_name(task, number, training.name)] = images * (1.5 if training.technique else 1.0)
    return found


def check_checkpoints(task: Task, plan: Plan, settings: Settings) -> None:
    """Checks that ``train`` can go on from all checkpoints that are there.

    Raises:
        CheckpointError: one is damaged or belongs to another training.
    """
    for number in range(len(task.folds)):
        digests: dict[str, Optional[str]] = {}
        networks: dict[str, nn.Module] = {}
        for training in plan.trainings(settings.seeds):
            if training.is_trained:
                # Weights do not matter here, so none are fetched.
                setup = _setup(task, plan, number, training, networks, settings, from_random=True)
                digests[training.name] = check_checkpoint(setup, digests.get(training.guide or ""))
            if training.is_guide:
                networks[training.name] = seeded(0, training.network, len(task.classes), "none", plan.networks)


def check_labels(task: Task, settings: Settings) -> None:
    """Checks that the scores can be taken on the labels, whatever the networks will answer.

    Raises:
        DataError: too few examples of some classes among those that are scored, or in the reference population.
    """
    for number, fold in enumerate(task.folds, start=1):
        where = f" of fold {number}" if len(task.folds) > 1 else ""
        # UniCAM adds each explained example to the reference population, with the class that a network predicts.
        one_more = torch.eye(len(task.classes), dtype=torch.int64)
        for part, option, labels, added in (
            (f"held-out {task.unit} to be scored", f"--test-{task.unit}", fold.test.labels[: settings.test_images], 0 * one_more),
            (f"{task.unit} of the reference population", "--references", fold.reference.labels, one_more),
            (
                f"held-out {task.unit} of the monitor", f"--monitor-{task.unit}",
                fold.test.labels[: settings.monitor_images or None], 0 * one_more,
            ),
        ):  # fmt: skip
            counts = labels.bincount(minlength=len(task.classes))
            if all(map(_have_geometry, (counts + added).tolist())):
                continue
            each = ", ".join(f"{name} {count}" for name, count in zip(task.classes, counts.tolist()))
            raise DataError(
                f"The {part}{where} are too few of some classes to be scored ({each}): at least two classes need two or more "
                f"of them each. Ask for more with {option}, or hold out or add more {task.unit}."
            )


def _have_geometry(counts: Sequence[int]) -> bool:
    """Scores are undefined if all labels are equal, all are distinct, or one stands against the rest of equals."""
    present = [count for count in counts if count]
    return min(present) > 1 if len(present) == 2 else len(present) > 2 and max(present) > 1


def check_batches(task: Task, plan: Plan, settings: Settings) -> None:
    """Checks that outputs can be exchanged among the examples of a batch, where the plan does so.

    Raises:
        DataError: a single training example.
    """
    exchanged = any(training.technique == "shuffled-labels" for training in plan.trainings(settings.seeds))
    if exchanged and any(len(fold.train) < 2 for fold in task.folds):
        raise DataError(
            f"The control shuffled-labels exchanges the Teacher's outputs among training {task.unit}, and there is one only. "
            f"Ask for more with --train-{task.unit}, or leave the control out."
        )


def check_space(task: Task, plan: Plan, settings: Settings) -> None:
    """Checks that the checkpoints that are not there yet fit on the disk.

    Raises:
        RunFolderError: they do not.
    """
    numbers = 0
    for number in range(len(task.folds)):
        for training in plan.trainings(settings.seeds):
            path = checkpoint_path(settings.output, full_name(task, number, training.name))
            if training.is_trained and not path.exists():
                with torch.device("meta"):
                    network = plan.networks.build(training.network, len(task.classes))
                numbers += sum(parameter.numel() for parameter in network.parameters())
    # Each weight in float32, with one number of the optimizer's beside it (sgd) or two.
    needed, free = 4 * numbers * (2 if settings.optimizer == "sgd" else 3), shutil.disk_usage(settings.output).free
    if needed > free:
        raise RunFolderError(
            f"The checkpoints need {needed / 2**20:,.0f} MiB in {settings.output}, and {free / 2**20:,.0f} MiB are free there. "
            "Make room, or choose another --output."
        )


def files_of(task: Task, plan: Plan, settings: Settings) -> list[str]:
    """Names of all files that the run writes, relative to its folder."""
    paths = [
        checkpoint_path(Path(), full_name(task, number, training.name))
        for number in range(len(task.folds))
        for training in plan.trainings(settings.seeds)
        if training.is_trained
    ]
    of_networks = [path.with_suffix(suffix).as_posix() for path in paths for suffix in (".ckpt", ".json")]
    return [*of_networks, *result_files(plan)]


def full_name(task: Task, number: int, name: str) -> str:
    """Of a network, with its fold's number where there are several."""
    return name if len(task.folds) == 1 else f"Fold {number + 1} {name}"


def _setup(
    task: Task,
    plan: Plan,
    number: int,
    training: Training,
    networks: Mapping[str, nn.Module],
    settings: Settings,
    from_random: bool = False,
) -> TrainingSetup:
    """The setup of a training, with a new network; its guide is in ``networks``."""
    # Depends on the network, its fold and the run, but not on the other networks of the run.
    seed = derived(settings.seed, number, training.name)
    fold = task.folds[number]
    settings = replace(settings, weights=settings.start_of(training.is_guide))
    weights = "none" if from_random or training.from_random else settings.weights
    network = seeded(seed, training.network, len(task.classes), weights, plan.networks)
    technique = None
    if training.technique is not None and training.guide is not None:
        technique = make(
            training.technique, networks[training.guide], network,
            layers=plan.layers, guide_layers=plan.guide_layers, settings=settings, seed=seed,
            sample=fold.train[:1].inputs(settings.image_size),
        )  # fmt: skip
    return TrainingSetup(
        name=full_name(task, number, training.name),
        network=network,
        train=fold.teacher_train if training.is_guide else fold.train,
        validation=fold.test,
        epochs=settings.teacher_epochs if training.is_guide else settings.epochs,
        settings=settings,
        seed=seed,
        technique=technique,
        learning_rate=settings.teacher_learning_rate or None if training.is_guide else None,
    )


def seeded(
    seed: int, architecture: str, classes: int, weights: str, networks: Networks = IMAGE_NETWORKS
) -> nn.Module:
    """A new network whose random weights depend on the seed alone."""
    with own_randomness(seed, "weights"):
        return networks.build(architecture, classes, weights)


def _device_of(networks: dict[str, nn.Module]) -> torch.device:
    return next((next(network.parameters()).device for network in networks.values()), torch.device("cpu"))
