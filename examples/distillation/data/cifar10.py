"""CIFAR-10, from a folder of images or by torchvision's downloader."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from distillation.data.image_folder import read_parts
from distillation.data.pool import Pool
from distillation.data.reading import Reading, pool_of
from distillation.data.sources import Source
from distillation.data.trees import Folder
from distillation.task import as_inputs

__all__ = ["SIDE", "SOURCE", "read_cifar10"]

SIDE = 32
"""Of its images: they are enlarged when networks take them, not in the store."""

SOURCE = Source(
    title="CIFAR-10",
    folder="cifar10",
    layout="train/<class>/*.jpg and test/<class>/*.jpg (or .png), with the same classes in both",
    origin="Without a folder, torchvision downloads it (170 MB).",
)


def read_cifar10(given: Optional[Path], download_to: Path, size: int, cache: Path, progress: bool = True) -> Pool:
    """Reads CIFAR-10, with its official test part.

    Args:
        given: folder of images, ``train/<class>/*`` and ``test/<class>/*``; None for torchvision's download.
        download_to: where torchvision puts it, or has put it before.
        size: side of the images, if smaller than theirs.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.

    Raises:
        DataError: the folder is not there or laid out otherwise, or the archive could not be fetched.
    """
    size = min(size, SIDE)
    if given is None:
        return _downloaded(download_to, size, progress)
    folder = SOURCE.existing(given)
    return read_parts("CIFAR-10", Folder(folder), "test", SOURCE, Reading(size, cache, progress))


def _downloaded(folder: Path, size: int, progress: bool) -> Pool:
    try:
        # torchvision unpickles files only if their MD5 checksums are those of the original.
        parts = [CIFAR10(str(folder), train=train, download=True) for train in (True, False)]
    except Exception as error:  # networks, archives and checksums fail in many ways
        raise SOURCE.error(
            f"CIFAR-10 could not be downloaded to {folder} ({error}). Connect to a network, or give a folder of images."
        ) from error
    pixels = torch.cat([_resized(torch.from_numpy(part.data).permute(0, 3, 1, 2), size) for part in parts])
    labels = torch.tensor([label for part in parts for label in part.targets])
    is_test = torch.arange(len(labels)) >= len(parts[0].targets)
    return pool_of("CIFAR-10", pixels, labels, parts[0].classes, is_test, progress=progress)


def _resized(pixels: Tensor, size: int) -> Tensor:
    if pixels.shape[-1] == size:
        return pixels
    return torch.cat([(as_inputs(part, size) * 255).round().to(torch.uint8) for part in pixels.split(1024)])
