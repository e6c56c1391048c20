"""Which images there are: class folders, without what is not an image by its name."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Iterable, Optional, Sequence

from distillation.data.sources import Source
from distillation.data.trees import Children, Stamp, Tree

__all__ = ["NO_IMAGE", "SPECIAL", "SUFFIXES", "Entry", "Listing", "classes_in", "list_images"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

NO_IMAGE = "no image by its name"

SPECIAL = "link that leads nowhere or back, pipe, socket or device"


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
        left_out: by reason, files in class folders that are not images by their names, folders there, and what is
            neither a file nor a folder.
    """

    classes: list[str]
    entries: list[Entry]
    left_out: dict[str, list[str]]


def classes_in(tree: Tree, folder: str, only: Optional[Iterable[str]] = None) -> list[str]:
    """Classes of a folder's folders, by their own names; of those in ``only``, if that is given."""
    return [name for name in sorted(_by_class(tree.children(folder))) if only is None or name in only]


def _by_class(children: Children) -> dict[str, list[str]]:
    """Folders by the classes that they are named after."""
    found: dict[str, list[str]] = {}
    for folder in children.folders:
        # macOS writes letters with accents as two characters where other systems write one: both are one class.
        found.setdefault(unicodedata.normalize("NFC", PurePosixPath(folder).name), []).append(folder)
    return found


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
    no_image: list[str] = []
    special: list[str] = []
    for number, part in enumerate(parts):
        children = tree.children(part)
        special += children.special
        folders = _by_class(children)
        for label, name in enumerate(classes):
            count = len(entries)
            for inside in (tree.children(folder) for folder in folders.get(name, [])):
                images = [file for file in inside.files if PurePosixPath(file).suffix.lower() in SUFFIXES]
                entries += [Entry(file, label, tree.stamp(file), number) for file in images]
                no_image += sorted({*inside.files, *inside.folders} - {*images})
                special += inside.special
            if len(entries) == count:
                folder = f"{part}/{name}" if part else name
                raise source.error(f"The class folder {folder!r} of {tree.name} holds no images ({_suffixes()}).")
    left_out = {reason: files for reason, files in ((NO_IMAGE, no_image), (SPECIAL, special)) if files}
    return Listing(list(classes), entries, left_out)


def _where(tree: Tree, folder: str) -> str:
    return f"{folder!r} of {tree.name}" if folder else tree.name


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
