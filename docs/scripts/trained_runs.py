"""Data and trained networks out of the output folder of an example's run, for the scripts that make tables and figures."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Callable

import torch
from torch import nn

DOCS = Path(__file__).parents[1]

sys.path.insert(0, str(DOCS.parent / "examples"))
from distillation.checkpoints import checkpoint_path  # noqa: E402
from distillation.data.cifar10 import read_cifar10  # noqa: E402
from distillation.data.petimages import read_petimages  # noqa: E402
from distillation.data.pool import Pool  # noqa: E402
from distillation.data.sources import find  # noqa: E402
from distillation.digits import make_task  # noqa: E402
from distillation.networks import build  # noqa: E402
from distillation.photographs import photographs_task  # noqa: E402
from distillation.plan import Plan, technique_plan  # noqa: E402
from distillation.profiles import profile  # noqa: E402
from distillation.record import fingerprint  # noqa: E402
from distillation.settings import Settings  # noqa: E402
from distillation.task import Fold, Task  # noqa: E402

EXAMPLES = ("quickstart", "cifar10", "asirra")


@dataclass(frozen=True)
class TrainedRun:
    """A run of one fold.

    Attributes:
        folder: its output folder.
        task: its data.
        plan: who was trained, and by whom.
        settings: everything else.
    """

    folder: Path
    task: Task
    plan: Plan
    settings: Settings

    @property
    def fold(self) -> Fold:
        return self.task.folds[0]

    def network(self, name: str) -> nn.Module:
        """A trained network in evaluation mode.

        Raises:
            SystemExit: its training has not ended.
        """
        architecture = {each.name: each.network for each in self.plan.trainings(self.settings.seeds)}[name]
        path = checkpoint_path(self.folder, name)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {"finished": False}
        if not checkpoint["finished"]:
            raise SystemExit(f"{name} is not trained yet in {self.folder}. Wait for the run, or go on with it by --resume.")
        prefix = "network."
        state = {key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
        network = build(architecture, len(self.task.classes))
        network.load_state_dict(state)
        return network.eval()


def parser_of_runs(documentation: str | None) -> argparse.ArgumentParser:
    """A parser with an option for the run of each example, and for the numbers of pairs and images."""
    parser = argparse.ArgumentParser(description=(documentation or "").split("\n")[0])
    for example in EXAMPLES:
        parser.add_argument(f"--{example}", type=Path, help="output folder of a run of this example with two seeds or more")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of networks, at most; default: %(default)s")
    parser.add_argument("--images", type=int, default=100, help="images that are explained, at most; default: %(default)s")
    return parser


def named_runs(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[tuple[str, Path]]:
    """Example and folder of each run that the command line names; none is an error."""
    runs = [(example, getattr(arguments, example)) for example in EXAMPLES if getattr(arguments, example) is not None]
    if not runs:
        parser.error("name at least one run, for example --quickstart outputs/quickstart")
    return runs


def read_run(example: str, folder: Path) -> TrainedRun:
    """The run of an example in a folder; photographs are looked for in $CAPTUM_KD_DATA.

    Args:
        example: one of EXAMPLES.
        folder: output folder of the run, which may still be training.

    Raises:
        SystemExit: the images are not those of the run, or the run has several folds.
    """
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    known = {entry.name for entry in fields(Settings)}
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["settings"].items()
        if name in known and name != "output"
    }
    settings = replace(profile(example, "quick"), output=folder, **given)
    task = _TASKS[example](settings)
    if len(task.folds) > 1 or fingerprint(task) != content["data"]:
        raise SystemExit(f"{folder} is no run of {example} with one fold on the images that are here.")
    return TrainedRun(folder, task, technique_plan(settings), settings)


def _scenes(settings: Settings) -> Task:
    counts: dict[str, Any] = {
        "train": settings.train_images, "teacher": settings.teacher_images, "reference": settings.references,
        "test": settings.test_images,
    }  # fmt: skip
    return make_task(settings.seed, **counts)


def _photographs(name: str, read: Callable[[Path | None, int, Path], Pool]) -> Callable[[Settings], Task]:
    cache = Path.home() / ".cache" / "captum_kd"
    return lambda settings: photographs_task(read(find(None, name), settings.image_size, cache), settings)


_TASKS: dict[str, Callable[[Settings], Task]] = {
    "quickstart": _scenes,
    "cifar10": _photographs("cifar10", lambda path, size, cache: read_cifar10(path, cache, size, cache, False)),
    "asirra": _photographs("asirra", lambda path, size, cache: read_petimages(path, size, cache, False)),
}
