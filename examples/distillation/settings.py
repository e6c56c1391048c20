"""Settings of an experiment, and the command line that changes them."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable, Optional

from distillation.networks import NETWORKS

__all__ = [
    "AUGMENTATIONS", "CONTROLS", "OPTIMIZERS", "RESPONSE_LOSSES", "TECHNIQUES", "TEXT_TECHNIQUES", "WEIGHTS", "Settings",
    "add_options", "folder", "one_of", "settings_from", "some_of",
]  # fmt: skip

TECHNIQUES = ("response", "attention", "feature")
"""Hinton et al. 2015; Zagoruyko & Komodakis 2017; Romero et al. 2015."""

TEXT_TECHNIQUES = ("response", "hidden")
"""Those of texts; the second after Jiao et al. 2020 (TinyBERT)."""

CONTROLS = ("random-teacher", "shuffled-labels", "other-teacher", "published-attention")
"""Students to whom nothing of the Teacher's should be transferred: of a Teacher that was never trained, of the Teacher's
outputs for other images, of a second Teacher, and of the attention loss as the authors' code applies it. Students of a
second Teacher learn what any Teacher teaches."""

WEIGHTS = ("none", "imagenet")
OPTIMIZERS = ("adamw", "sgd")
AUGMENTATIONS = ("none", "mirror", "shift", "crop", "asirra", "paper")
RESPONSE_LOSSES = ("kl", "mse")


def _at_least(least: int, most: Optional[int] = None) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, got {value}")
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return whole


def _number(expected: str, inside: Callable[[float], bool]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not inside(value):
            raise argparse.ArgumentTypeError(f"must {expected}, got {value}")
        return value

    return number


_share = _number("lie between 0 and 1", lambda value: 0.0 <= value <= 1.0)
_part = _number("lie between 0 and 1, both excluded", lambda value: 0.0 < value < 1.0)
_not_negative = _number("not be negative", lambda value: value >= 0.0)
_positive = _number("be positive", lambda value: value > 0.0)


def one_of(*choices: str) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, got {text!r}")
        return text

    return chosen


def some_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        values = tuple(part for part in text.split(",") if part and text != "none")
        unknown = [value for value in values if value not in choices]
        if unknown or len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(
                f"must name some of {', '.join(choices)}, each once, with commas between, or none; got {text!r}"
            )
        return values

    return chosen


def folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got nothing")
    return Path(text)


def _accelerator(text: str) -> str:
    import torch

    if text == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise argparse.ArgumentTypeError('there is no GPU that torch can use here; take "cpu" or "auto"')
    return one_of("cpu", "gpu", "auto")(text)


def _option(help_text: str, kind: Callable[[str], Any], default: Any = MISSING) -> Any:
    return field(default=default, metadata={"help": help_text, "type": kind})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set from the command line of every example; each field is an option of that name.

    Where the examples are texts, "images" in the options is their word instead.
    """

    output: Path = _option("folder for everything that is written", folder)
    seed: int = _option("seed of data, initial weights and batches", _at_least(0, 2**63 - 1))
    # Who is trained.
    seeds: int = _option("Students of each technique and Bases, each from a seed of its own", _at_least(1, 1000))
    folds: int = _option("parts of the data that take turns at being held out; 1: no cross-validation", _at_least(1))
    techniques: tuple[str, ...] = _option(
        f"how Students learn from the Teacher, commas between: {', '.join(TECHNIQUES)}", some_of(*TECHNIQUES)
    )
    controls: tuple[str, ...] = _option(
        f"further Students, to whom nothing of this Teacher's should be transferred: {', '.join(CONTROLS)}, or none",
        some_of(*CONTROLS),
    )
    placebos: int = _option(
        "placebo Teachers: networks of the Teacher's recipe with other seeds, which teach nobody; the Teacher's share is "
        "compared with theirs",
        _at_least(0, 100),
    )
    random_placebos: int = _option(
        "placebo Teachers that start from random weights where the Teacher is pretrained", _at_least(0, 100)
    )
    teacher: str = _option(f"the Teacher's network: {', '.join(NETWORKS)}", one_of(*NETWORKS))
    student: str = _option("the Students' and Bases' network, of the same names", one_of(*NETWORKS))
    weights: str = _option('where training starts: "none" (random weights) or "imagenet"', one_of(*WEIGHTS))
    teacher_weights: str = _option(
        'where the training of Teachers starts; "same": where that of the others does', one_of("same", *WEIGHTS), "same"
    )
    # On which images.
    image_size: int = _option("side of the images in pixels", _at_least(8, 4096))
    test_share: float = _option("share of the images that is held out where the data have no test part", _part)
    teacher_images: int = _option("training images of the Teacher, at most", _at_least(1))
    train_images: int = _option("training images of Students and Bases, at most", _at_least(1))
    # 5 inputs are the least for scores with removal, 4 the least a reference can hold.
    test_images: int = _option("held-out images for scores, at most", _at_least(5))
    map_images: int = _option("of them, those for maps and keep curves, at most", _at_least(2))
    map_pairs: int = _option(
        "pairs of a Student and a Base, of each technique, for maps, keep curves and the published formula, at most", _at_least(1)
    )
    references: int = _option("held-out images of UniCAM's reference population, at most", _at_least(4))
    monitor_images: int = _option(
        "held-out images on which Students, and Bases after the first, are measured after each epoch; 0: none",
        _at_least(0, 4096),
        256,
    )
    rows: int = _option("rows of the figures of maps", _at_least(1))
    # How.
    teacher_epochs: int = _option("epochs of the Teacher", _at_least(1))
    epochs: int = _option("epochs of Students and Bases", _at_least(1))
    batch_size: int = _option("images in a training batch, on each device", _at_least(2))
    optimizer: str = _option(
        '"adamw" (with a one-cycle schedule) or "sgd" (constant rate)', one_of(*OPTIMIZERS)
    )
    momentum: float = _option("momentum of sgd", _share, 0.9)
    learning_rate: float = _option("learning rate, the highest of a schedule", _positive)
    teacher_learning_rate: float = _option("learning rate of Teachers; 0: that of the others", _not_negative)
    augmentation: str = _option(
        'training images are: "none", left alone; "mirror", mirrored; "shift", mirrored and moved; "crop", mirrored and cropped; '
        '"paper", mirrored, turned, cropped, their colors changed; "asirra", the same with the numbers of the authors\' code',
        one_of(*AUGMENTATIONS),
    )
    temperature: float = _option("temperature of the softened outputs in response-based distillation", _positive)
    alpha: float = _option("weight of the labels in it; the Teacher has the rest", _share)
    response_loss: str = _option(
        'how it compares softened outputs: "kl", KL divergence (Hinton et al. 2015), or "mse", mean squared difference of the '
        "probabilities (the authors' code)",
        one_of(*RESPONSE_LOSSES),
        "kl",
    )
    attention_weight: float = _option("weight of the attention maps in attention transfer, beside the labels", _not_negative)
    hint_weight: float = _option("weight of the hints in feature-based distillation, beside the labels", _not_negative)
    hidden_weight: float = _option("weight of hidden states, of each layer, beside the softened outputs", _not_negative)
    # On which machine.
    threads: int = _option(
        "threads of torch, 0 for as many as it takes; numbers repeat in the last digits only with the same number",
        _at_least(0, 1024),
    )
    accelerator: str = _option('Lightning\'s: where to train, "cpu", "gpu", "auto"', _accelerator)
    devices: str = _option('Lightning\'s: how many devices, or which ("2", "0,1", "auto")', str)
    strategy: str = _option('Lightning\'s: how several devices work together ("auto", "ddp")', str)
    precision: str = _option('Lightning\'s: "32-true", "16-mixed", "bf16-mixed"', str)

    def start_of(self, is_guide: bool) -> str:
        """Where the training of a network starts, one of WEIGHTS (or "pretrained"): ``is_guide`` for Teachers."""
        return self.teacher_weights if is_guide and self.teacher_weights != "same" else self.weights


def add_options(
    parser: argparse.ArgumentParser, defaults: Settings, *, without: tuple[str, ...] = (), unit: str = "images"
) -> None:
    """Adds the options that all examples have. What is not given stays None, for the profile to decide; the help
    names the values in ``defaults``. Options in ``without`` make no sense for an example and stay out. ``unit`` stands in the
    place of "images"."""
    for entry in fields(Settings):
        if entry.name not in without:
            parser.add_argument(
                "--" + entry.name.replace("_", "-").replace("images", unit),
                dest=entry.name,
                type=entry.metadata["type"],
                help=f"{entry.metadata['help'].replace('images', unit)}; default: {_shown(getattr(defaults, entry.name))}",
            )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run whose output folder this is")
    earlier.add_argument(
        "--overwrite", action="store_true", help="begin anew, and delete what the run in the output folder wrote"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress")


def _shown(value: Any) -> str:
    return (",".join(value) or "none") if isinstance(value, tuple) else str(value)


def settings_from(arguments: argparse.Namespace, defaults: Settings) -> Settings:
    """The defaults, with what was given on the command line in their place."""
    given: dict[str, Optional[Any]] = {entry.name: getattr(arguments, entry.name, None) for entry in fields(Settings)}
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})
