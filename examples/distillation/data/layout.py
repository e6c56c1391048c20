"""Hints for a folder of images that is laid out otherwise than expected: which folder nearby looks right, or what to move."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path
from typing import Iterator, Optional

from distillation.data.listing import SUFFIXES

__all__ = ["TEST_PARTS", "layout_hint"]

TEST_PARTS = ("test", "val", "valid", "validation")

MOST_FOLDERS = 1000
"""Folders that are looked into at most: somebody may have named the root of a disk."""

SHOWN = 3


def layout_hint(folder: Path) -> str:
    """What to do instead of giving this folder, as sentences; empty if nothing nearby looks right.

    Looks at folders one and two levels below, then at one and two levels above.
    """
    if _looks_right(folder):  # then something else is wrong
        return ""
    names = {path.name.lower(): path.name for path in _folders(folder)}
    tests = [name for name in TEST_PARTS if name in names]
    if "train" in names and tests and (names["train"], names[tests[0]]) != ("train", tests[0]):
        return f"Rename {names['train']!r} to 'train' and {names[tests[0]]!r} to {tests[0]!r}."
    below = list(_folders(folder))
    for level in (below, [deeper for path in below for deeper in _folders(path)]):
        right = [path for path in islice(level, MOST_FOLDERS) if _looks_right(path)]
        if right:
            shown = " or ".join(f"--data {shlex.quote(str(path))}" for path in right[:SHOWN])
            more = f" ({len(right) - SHOWN} more look alike)" if len(right) > SHOWN else ""
            return f"Try {shown}{more}: the class folders are there."
    deep = [_deeper_image_folder(path) for path in below]
    if len(deep) > 1 and all(deep):
        return (
            f"The images lie one folder too deep, as in {_below(folder, deep[0])!r}: move them up into {below[0].name!r}, and "
            "those of the other classes likewise."
        )
    above = [path for path in folder.absolute().parents[:2] if _looks_right(path)]
    if above:
        return f"Try --data {shlex.quote(str(above[-1]))}: the class folders are there."
    if _has_image(folder):
        return f"{folder} holds images itself: put those of each class into a folder named after the class."
    return ""


def _looks_right(folder: Path) -> bool:
    """Whether the folder has class folders, or a training and a test part with class folders."""
    below = list(_folders(folder))
    if len(below) > 1 and all(map(_has_image, below)):
        return True
    parts = {path.name: path for path in below}
    tests = [name for name in TEST_PARTS if name in parts]
    return bool(tests) and "train" in parts and all(_looks_right(parts[name]) for name in ("train", tests[0]))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What the folder holds, without hidden names; nothing if it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if not entry.name.startswith("."))
    except OSError:
        return


def _folders(folder: Path) -> Iterator[Path]:
    # Links are not followed: they may lead back.
    names = islice((entry.name for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)), MOST_FOLDERS)
    return (folder / name for name in sorted(names))


def _has_image(folder: Path) -> bool:
    return any(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in _entries(folder))


def _deeper_image_folder(folder: Path) -> Optional[Path]:
    """The folder with images inside a folder that has none itself."""
    return None if _has_image(folder) else next(filter(_has_image, _folders(folder)), None)


def _below(folder: Path, path: Optional[Path]) -> str:
    return "" if path is None else path.relative_to(folder).as_posix()
