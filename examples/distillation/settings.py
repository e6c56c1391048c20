"""Settings of an experiment, and the command line that changes them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable

__all__ = ["Settings", "add_options", "settings_from"]


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return whole


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {value}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value


def _accelerator(text: str) -> str:
    import torch

    if text not in ("cpu", "gpu", "auto"):
        raise argparse.ArgumentTypeError(f'must be "cpu", "gpu" or "auto", got {text!r}')
    if text == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise argparse.ArgumentTypeError('there is no GPU that torch can use here; take "cpu" or "auto"')
    return text


def _option(help_text: str, kind: Callable[[str], Any]) -> Any:
    return field(metadata={"help": help_text, "type": kind})


@dataclass(frozen=True)
class Settings:
    """What can be set from the command line of every example; each field is an option of that name."""

    output: Path = _option("folder for the figures, the report and the checkpoints", Path)
    seed: int = _option("seed of data, initial weights and batches", _at_least(0))
    pairs: int = _option("Students and Base models, each with a seed of its own", _at_least(1))
    teacher_epochs: int = _option("epochs of the Teacher", _at_least(1))
    epochs: int = _option("epochs of the Student and of the Base model", _at_least(1))
    teacher_images: int = _option("training images of the Teacher, at most", _at_least(1))
    train_images: int = _option("training images of the Student and of the Base model, at most", _at_least(1))
    # 5 inputs are the least for scores with removal, 4 the least a reference can hold.
    test_images: int = _option("test images for scores and maps, at most", _at_least(5))
    references: int = _option("images of UniCAM's reference population, at most", _at_least(4))
    rows: int = _option("rows of the figure", _at_least(1))
    batch_size: int = _option("images in a training batch", _at_least(2))
    learning_rate: float = _option("highest learning rate of the one-cycle schedule", _positive)
    temperature: float = _option("temperature of the softened outputs in distillation", _positive)
    alpha: float = _option("weight of the labels in the Student's loss; the Teacher has the rest", _share)
    threads: int = _option(
        "threads of torch, 0 for as many as it takes; numbers repeat in the last digits only with the same number",
        _at_least(0),
    )
    accelerator: str = _option('where Lightning trains: "cpu", "gpu", "auto"', _accelerator)


def add_options(parser: argparse.ArgumentParser, defaults: Settings) -> None:
    """Adds the options that all examples have. What is not given stays None, for the profile to decide; the help
    names the values in ``defaults``."""
    for entry in fields(Settings):
        parser.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=entry.metadata["type"],
            help=f"{entry.metadata['help']}; default: {getattr(defaults, entry.name)}",
        )
    parser.add_argument("--no-progress", action="store_true", help="draw no progress bars")


def settings_from(arguments: argparse.Namespace, defaults: Settings) -> Settings:
    """The defaults, with what was given on the command line in their place."""
    given = {entry.name: getattr(arguments, entry.name) for entry in fields(Settings)}
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})
