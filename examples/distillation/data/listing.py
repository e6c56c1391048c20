"""Which images there are: class folders, without what is not an image by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Iterable, Optional, Sequence

from distillation.data.sources import Source
from distillation.data.trees import Stamp, Tree

__all__ = ["NO_IMAGE", "SUFFIXES", "Entry", "Listing", "classes_in", "list_images"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

NO_IMAGE = "no image by its name"


@dataclass(frozen=True)
class Entry:
    """An image file: its name in the tree, the number of its class, its stamp, the number of its part."""

    file: str
    label: int
    stamp: Stamp
    part: int


@dataclass(frozen=True)
class Listing:
    """What a tree holds.

    Attributes:
        classes: names, in the order of the labels.
        entries: image files, sorted within each class.
        others: files in class folders that are not images by their names, and folders there.
    """

    classes: list[str]
    entries: list[Entry]
    others: list[str]


def classes_in(tree: Tree, folder: str, only: Optional[Iterable[str]] = None) -> list[str]:
    """Folders in a folder, by their own names; of those in ``only``, if that is given."""
    names = [PurePosixPath(path).name for path in tree.children(folder)[0]]
    return [name for name in names if only is None or name in only]


def list_images(tree: Tree, parts: Sequence[str], classes: Sequence[str], source: Source) -> Listing:
    """Images of the class folders.

    Args:
        tree: where to look.
        parts: folders of class folders: one, or a training and a test part.
        classes: names of the class folders; all parts must have each.
        source: of the data, for errors.

    Raises:
        DataError: fewer than two classes, or a class without image files.
    """
    if len(classes) < 2:
        found = f"only the class folder {classes[0]!r}" if classes else "no class folders"
        raise source.error(f"At least two classes are needed, but {_where(tree, parts[0])} has {found}.")
    entries: list[Entry] = []
    others: list[str] = []
    for number, part in enumerate(parts):
        for label, name in enumerate(classes):
            folder = f"{part}/{name}" if part else name
            folders, files = tree.children(folder)
            images = [file for file in files if PurePosixPath(file).suffix.lower() in SUFFIXES]
            if not images:
                raise source.error(f"The class folder {folder!r} of {tree.name} holds no images ({_suffixes()}).")
            entries += [Entry(file, label, tree.stamp(file), number) for file in images]
            others += sorted({*files, *folders} - {*images})
    return Listing(list(classes), entries, others)


def _where(tree: Tree, folder: str) -> str:
    return f"{folder!r} of {tree.name}" if folder else tree.name


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
