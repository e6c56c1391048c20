"""Any images in class folders."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Optional

from distillation.data.layout import TEST_PARTS, layout_hint
from distillation.data.listing import classes_in, list_images
from distillation.data.pool import Pool
from distillation.data.reading import Reading, read_pool
from distillation.data.sources import Source
from distillation.data.trees import Folder, TreeError
from distillation.task import DataError
from distillation.text import printable

__all__ = ["SOURCE", "read_image_folder", "read_parts"]

SOURCE = Source(
    title="the folder of images",
    folder=None,
    layout="<class>/*.jpg (or .png, .bmp, .webp), or train/ and test/ (or val/) with the same <class>/*.jpg in both",
    origin="Any images will do, at least two folders of them.",
)


def read_image_folder(folder: Optional[Path], size: int, cache: Path, progress: bool = True) -> Pool:
    """Reads class folders, or a training and a test part of them.

    Args:
        folder: of class folders; or of ``train`` and one of ``test``, ``val``, ``valid`` and ``validation``, of which
            the first is the test part. Other folders beside the two are left out, and a warning names them.
        size: side of the images.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.

    Raises:
        DataError: nothing there, another layout, fewer than two classes, a class without images, parts that differ in
            their classes. If a folder nearby looks right, the message names it.
    """
    folder = SOURCE.existing(folder)
    if not folder.is_dir():
        raise SOURCE.error(f"{folder} is not a folder. Unpack an archive first.")
    try:
        return _read(folder, size, cache, progress)
    except TreeError:  # a file or folder that cannot be read, whatever the layout
        raise
    except DataError as error:
        raise DataError(" ".join(filter(None, [str(error), layout_hint(folder)]))) from error


def _read(folder: Path, size: int, cache: Path, progress: bool) -> Pool:
    tree = Folder(folder)
    found = classes_in(tree, "")
    name = folder.name or folder.resolve().name  # "." has none
    test = next((part for part in TEST_PARTS if part in found), None)
    # A class may be called "train"; then it holds images, not folders.
    if "train" in found and classes_in(tree, "train"):
        if test is None:
            raise SOURCE.error(f"{folder} has a folder 'train', but none of {', '.join(TEST_PARTS)}.")
        return read_parts(name, tree, test, SOURCE, Reading(size, cache, progress))
    listing = list_images(tree, [""], found, SOURCE)
    return read_pool(name, tree, listing, SOURCE, Reading(size, cache, progress))


def read_parts(name: str, tree: Folder, test: str, source: Source, reading: Reading) -> Pool:
    """Reads ``train`` and a test part, which must have the same classes. Folders beside them are named and left out."""
    found = classes_in(tree, "")
    for part in ("train", test):
        if part not in found:
            raise source.error(f"{tree.name} has no folder {part!r}.")
    classes, tested = classes_in(tree, "train"), classes_in(tree, test)
    differing = sorted(set(classes) ^ set(tested))
    if differing:
        only = [(part, [name for name in differing if name in names]) for part, names in (("train", classes), (test, tested))]
        where = "; ".join(f"only {part} has {', '.join(names)}" for part, names in only if names)
        raise source.error(f"train and {test} of {tree.name} differ in the classes {', '.join(differing)}: {where}.")
    pool = read_pool(name, tree, list_images(tree, ["train", test], classes, source), source, reading, test_part=True)
    beside = [part for part in [*found, *tree.children("").special] if part not in ("train", test)]
    if not beside:
        return pool
    note = (
        f"Left out beside train and {test}: {', '.join(printable(part) for part in beside)}. Nothing is chosen on "
        f"validation images, so that only train and {test} are used."
    )
    warnings.warn(f"{printable(tree.name)}: {note}", stacklevel=3)
    return replace(pool, notes=[*pool.notes, note])
