"""Photographs in folders: ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import functional as transforms
from tqdm.auto import tqdm

from distillation.task import DataError, Examples, Task, in_turn

__all__ = ["ENVIRONMENT", "LAYOUT", "download_cifar10", "find_folder", "folder_task"]

ENVIRONMENT = "CAPTUM_KD_DATA"
"""Variable naming a folder that holds the data sets' own folders, such as ``cifar10``."""

LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or .png), with the same classes in both"


def find_folder(given: Optional[Path], name: str) -> Optional[Path]:
    """The folder of images: the one given, or ``name`` in $CAPTUM_KD_DATA; None if neither is set.

    Raises:
        DataError: a folder that does not exist.
    """
    root = os.environ.get(ENVIRONMENT)
    folder = given if given is not None else Path(root) / name if root else None
    if folder is not None and not folder.is_dir():
        source = "--data" if given is not None else f"the environment variable {ENVIRONMENT}"
        raise DataError(f"There is no folder {folder}, named by {source}. It should hold {LAYOUT}.")
    return folder


def _read(folder: Path, size: int, progress: bool) -> tuple[Tensor, Tensor, list[str]]:
    try:
        images = ImageFolder(str(folder))
    except FileNotFoundError as error:
        # torchvision's own message names the classes that hold no images, or the folder that is not there.
        raise DataError(f"{folder.parent} should hold {LAYOUT}, but: {error}") from error
    pixels = torch.empty((len(images), 3, size, size), dtype=torch.uint8)
    bar = tqdm(images.samples, desc=f"Reading {folder.name}", disable=not progress)
    for i, (path, _) in enumerate(bar):
        try:
            image = images.loader(path)
        except (OSError, SyntaxError) as error:  # Pillow's errors for broken and empty files
            raise DataError(f"{path} is no image that can be read ({error}). Mend or remove it.") from error
        if image.size != (size, size):
            image = transforms.center_crop(transforms.resize(image, [size]), [size])
        pixels[i] = transforms.pil_to_tensor(image)
    return pixels, torch.tensor(images.targets), images.classes


def _arrays(data: CIFAR10) -> tuple[Tensor, Tensor, list[str]]:
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets), data.classes


def download_cifar10(folder: Path) -> tuple[Examples, Examples, list[str]]:
    """Training and test images of CIFAR-10, fetched by torchvision (170 MB) unless ``folder`` has them already.

    Raises:
        DataError: the archive could not be fetched.
    """
    try:
        train, test = (_arrays(CIFAR10(str(folder), train=train, download=True)) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded to {folder} ({error}). Connect to a network, or name a folder of "
            f"images that holds {LAYOUT}, with --data or as cifar10 in the folder that {ENVIRONMENT} names."
        ) from error
    return Examples(*train[:2]), Examples(*test[:2]), train[2]


def read_folders(folder: Path, size: int, progress: bool) -> tuple[Examples, Examples, list[str]]:
    """Training and test images of a folder, resized and cropped to ``size`` x ``size``.

    Raises:
        DataError: the folder is not laid out as expected.
    """
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder} has no folder {part!r}. It should hold {LAYOUT}.")
    train, test = (_read(folder / part, size, progress) for part in ("train", "test"))
    if train[2] != test[2]:
        differing = sorted(set(train[2]) ^ set(test[2]))
        raise DataError(f"train and test of {folder} differ in the classes {differing}. It should hold {LAYOUT}.")
    return Examples(*train[:2]), Examples(*test[:2]), train[2]


def folder_task(
    name: str,
    data: tuple[Examples, Examples, list[str]],
    seed: int,
    *,
    train: int,
    teacher: int,
    reference: int,
) -> Task:
    """An experiment on images read before.

    Args:
        name: for headings.
        data: training images, test images, names of the classes.
        seed: of the choice of images.
        train: number of training images of Student and Base, at most.
        teacher: number of training images of the Teacher, at most; the Student's are among them or the reverse.
        reference: number of test images that are set apart as UniCAM's reference population.

    Raises:
        DataError: too few test images to set any apart, or fewer than two classes.
    """
    training, held_out, classes = data
    if len(classes) < 2:
        raise DataError(f"At least two classes are needed, got {classes}.")
    if held_out.count < reference + 5:
        raise DataError(
            f"{held_out.count} test images are too few: {reference} are set apart as the reference population "
            "(--references) and at least 5 must remain to be explained."
        )
    generator = torch.Generator().manual_seed(seed)
    training = training[in_turn(training.labels, generator)]
    held_out = held_out[in_turn(held_out.labels, generator)]
    for_teacher, for_student = training[:teacher], training[:train]
    return Task(
        name=name,
        classes=classes,
        train=for_student,
        teacher_train=for_teacher,
        reference=held_out[:reference],
        test=held_out[reference:],
        augment=True,
        notes=[
            f"Teacher: a larger network, trained on {for_teacher.count} images.",
            f"Student and Base: the same architecture, trained on the same {for_student.count} images; the Student "
            "also learns from the Teacher's outputs on them.",
            "All are trained on images mirrored and shifted at random. Reference and test images are held out.",
        ],
    )
