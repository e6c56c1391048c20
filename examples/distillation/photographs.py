"""Experiments on photographs: from a command line and files to a task."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Callable, Optional, Sequence

from distillation.command_line import parser_of, run_example
from distillation.data.pool import Pool
from distillation.data.sources import ENVIRONMENT, find
from distillation.data.splits import folds_of, split_notes
from distillation.plan import Plan, PlanError, technique_plan
from distillation.profiles import profile
from distillation.outcomes import Record
from distillation.settings import Settings, folder
from distillation.task import Task
from distillation.text import printable

__all__ = ["photographs_task", "run_photographs"]

Read = Callable[[Optional[Path], int, Path, bool], Pool]
"""Takes where the images are, the side that they are to have, the cache and whether to draw a bar."""


def run_photographs(
    example: str,
    documentation: Optional[str],
    read: Read,
    argv: Optional[Sequence[str]],
    *,
    layout: str,
    data: Optional[str] = None,
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    plan: Callable[[argparse.Namespace, Settings], Plan] = lambda arguments, settings: technique_plan(settings),
    without: tuple[str, ...] = (),
) -> Optional[Record]:
    """Runs an example on images that are read from files.

    Args:
        example: its name in the table of profiles.
        documentation: what the script says of itself; printed first.
        read: reads the images.
        argv: the command line; None: the process' own.
        layout: what ``--data`` should hold, for its help.
        data: the data set's name in $CAPTUM_KD_DATA; None: the example's.
        options: adds the example's own options.
        plan: who is trained, from the command line and the settings.
        without: shared options that make no sense for this example.
    """
    parser = parser_of(example, documentation, without=(*without, "hidden_weight"))
    parser.add_argument("--data", type=folder, help=f"{layout}; default: {data or example} in ${ENVIRONMENT}")
    parser.add_argument(
        "--cache", type=folder, default=_cache(), help="folder for images that were read and weights; default: %(default)s"
    )
    options(parser)
    arguments = parser.parse_args(argv)

    def make(settings: Settings) -> tuple[Task, Plan]:
        chosen = plan(arguments, settings)
        source = find(arguments.data, data or example)
        if source is not None and settings.output.resolve().is_relative_to(source.resolve()):
            raise PlanError(
                f"--output {settings.output} lies in the folder of the images, {source}: what a run writes would be taken for "
                "images the next time. Choose another --output."
            )
        pool = read(source, settings.image_size, arguments.cache, not arguments.no_progress)
        return photographs_task(pool, settings), chosen

    return run_example(parser, arguments, profile(example, arguments.profile), make)


def _cache() -> Path:
    try:
        return Path.home() / ".cache" / "captum_kd"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "captum_kd"


def photographs_task(pool: Pool, settings: Settings) -> Task:
    """An experiment on images read before: who gets which, and what a reader must know of it."""
    folds = folds_of(pool, settings)
    # Names of folders and files, which may hold anything, are shown in texts, pages and figures.
    name = printable(pool.name)
    first = folds[0]
    augmented = {
        "none": "as they are",
        "mirror": "mirrored at random",
        "shift": "mirrored and shifted at random",
        "crop": "mirrored and cropped at random",
        "asirra": "mirrored, turned, cropped and recolored at random",
        "paper": "mirrored, turned, cropped and recolored at random",
    }[settings.augmentation]
    return Task(
        name=name,
        classes=[printable(each) for each in pool.classes],
        folds=folds,
        notes=[
            f"{name}: {len(pool.examples):,} images of {len(pool.classes)} classes, taken at {settings.image_size} "
            "pixels.",
            *map(printable, pool.notes),
            *split_notes(pool, settings),
            f"{first.reference.count} of the held-out images are UniCAM's reference population.",
            f"Teachers learn from {first.teacher_train.count} images, Students and Bases from {first.train.count}, "
            f"{augmented}.",
        ],
    )
