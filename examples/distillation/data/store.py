"""Reading a listing's images into one tensor: in memory, or mapped from a file where they are many."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator, Optional, Union

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from distillation import locks
from distillation.data.decoding import Unreadable, decode
from distillation.data.listing import Entry
from distillation.data.trees import Tree
from distillation.task import DataError

__all__ = ["IN_MEMORY", "Stored", "read_images"]

IN_MEMORY = 1 << 30
"""Bytes of pixels up to which they stay in memory."""

VERSION = 2
"""Of the files in the cache; to be raised when the same images would give other pixels."""

PIXELS, CONTENTS = "pixels.bin", "contents.json"

UNFINISHED, LOCK = ".unfinished", ".lock"
"""Suffixes of a folder in the cache that is being written, and of the lock of the process that writes it."""

LEFT = re.compile(r"images-\d+px-[0-9a-f]{16}\.[0-9a-z_]{8}\.(unfinished|lock)")


@dataclass(frozen=True)
class Stored:
    """Images that could be read.

    Attributes:
        pixels: (N, 3, size, size), uint8.
        kept: (N,), int64, their positions in the listing.
        unreadable: files that could not be decoded, by reason.
    """

    pixels: Tensor
    kept: Tensor
    unreadable: dict[str, list[str]]


def read_images(tree: Tree, entries: list[Entry], size: int, cache: Path, progress: bool) -> Stored:
    """Decodes every image of a listing.

    Above a gigabyte the pixels are written into a folder below ``cache``, whole or not at all, and mapped into memory
    from there. The folder's name tells the files' names, sizes and times and the images' size: a second run finds it.

    Raises:
        DataError: a file that cannot be read at all, or pixels that cannot be written.
    """
    if len(entries) * 3 * size * size <= IN_MEMORY:
        return _into_memory(tree, entries, size, progress)
    folder = cache / f"images-{size}px-{_fingerprint(tree, entries, size)}"
    stored = _mapped(folder, size)
    if stored is None:
        _into_folder(folder, tree, entries, size, progress)
        stored = _mapped(folder, size)
    if stored is None:
        raise DataError(f"{folder} was written, but holds something else; is another program at work in {cache}?")
    return stored


Decoded = Union[npt.NDArray[np.uint8], str]
"""Pixels, or why there are none."""


def _decoded(tree: Tree, entries: list[Entry], size: int, progress: bool) -> Iterator[Decoded]:
    def one(entry: Entry) -> Decoded:
        try:
            return decode(tree.read(entry.file), size)
        except Unreadable as error:
            return str(error)

    # Pillow lets go of the interpreter's lock while it decodes. Its warnings about odd metadata are of no use here.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as threads:
        warnings.filterwarnings("ignore", module="PIL")
        # In portions, for the decoded images that wait are in memory too.
        with tqdm(total=len(entries), desc="Reading images", disable=not progress) as bar:
            for start in range(0, len(entries), 1024):
                for image in threads.map(one, entries[start : start + 1024]):
                    yield image
                    bar.update()


class _Outcomes:
    """Which images were kept, and why others were not."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.unreadable: dict[str, list[str]] = {}

    def images(self, entries: list[Entry], decoded: Iterator[Decoded]) -> Iterator[npt.NDArray[np.uint8]]:
        for row, (entry, image) in enumerate(zip(entries, decoded)):
            if isinstance(image, str):
                self.unreadable.setdefault(image, []).append(entry.file)
            else:
                self.kept.append(row)
                yield image


def _into_memory(tree: Tree, entries: list[Entry], size: int, progress: bool) -> Stored:
    pixels = torch.empty((len(entries), 3, size, size), dtype=torch.uint8)
    outcomes = _Outcomes()
    for row, image in enumerate(outcomes.images(entries, _decoded(tree, entries, size, progress))):
        pixels[row] = torch.from_numpy(image)
    return Stored(pixels[: len(outcomes.kept)], torch.tensor(outcomes.kept, dtype=torch.int64), outcomes.unreadable)


def _into_folder(folder: Path, tree: Tree, entries: list[Entry], size: int, progress: bool) -> None:
    outcomes = _Outcomes()
    needed = len(entries) * 3 * size * size
    unfinished = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder.parent)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{free / 2**30:.1f} GiB are free")
        with locks.exclusive(unfinished.with_suffix(LOCK)):
            unfinished.mkdir()
            try:
                with open(unfinished / PIXELS, "wb") as file:
                    for image in outcomes.images(entries, _decoded(tree, entries, size, progress)):
                        file.write(image.tobytes())
                contents = {"kept": outcomes.kept, "unreadable": outcomes.unreadable}
                (unfinished / CONTENTS).write_text(json.dumps(contents))
                if _mapped(folder, size) is None:  # else another process has just written it
                    shutil.rmtree(folder, ignore_errors=True)
                    unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"The images could not be written to {folder.parent} ({error}). They need {needed / 2**30:.1f} GiB there; make "
            "room, name another folder for the cache, or take smaller images with --image-size."
        ) from error


def _remove_unfinished(cache: Path) -> None:
    """Removes what killed processes left behind: what nobody holds the lock of."""
    for path in list(cache.iterdir()):
        if LEFT.fullmatch(path.name):
            try:
                with locks.exclusive(path.with_suffix(LOCK)) as locked:
                    if locked:
                        shutil.rmtree(path.with_suffix(UNFINISHED), ignore_errors=True)
            except locks.Held:
                pass


def _mapped(folder: Path, size: int) -> Optional[Stored]:
    """What the folder holds; None if it is not there or not whole."""
    try:
        contents = json.loads((folder / CONTENTS).read_text())
        length = (folder / PIXELS).stat().st_size
        kept, unreadable = torch.tensor(contents["kept"], dtype=torch.int64).view(-1), dict(contents["unreadable"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    shape = (len(kept), 3, size, size)
    if length != int(np.prod(shape)):
        return None
    # Not shared: the file stays as it is whatever is done to the tensor.
    pixels = torch.from_file(str(folder / PIXELS), shared=False, size=length, dtype=torch.uint8).view(shape)
    return Stored(pixels, kept, unreadable)


def _fingerprint(tree: Tree, entries: list[Entry], size: int) -> str:
    told = json.dumps([VERSION, tree.name, size, [asdict(entry) for entry in entries]])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
