"""Any images in class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from distillation.data.listing import classes_in, list_images
from distillation.data.pool import Pool
from distillation.data.reading import Reading, read_pool
from distillation.data.sources import Source
from distillation.data.trees import Folder

__all__ = ["SOURCE", "read_image_folder", "read_parts"]

SOURCE = Source(
    title="the folder of images",
    folder=None,
    layout="<class>/*.jpg (or .png, .bmp, .webp), or train/ and test/ (or val/) with the same <class>/*.jpg in both",
    origin="Any images will do, at least two folders of them.",
)

TEST_PARTS = ("test", "val", "valid", "validation")


def read_image_folder(folder: Optional[Path], size: int, cache: Path, progress: bool = True) -> Pool:
    """Reads class folders, or a training and a test part of them.

    Args:
        folder: of class folders; or of ``train`` and one of ``test``, ``val``, ``valid`` and ``validation``, of which
            the first is taken.
        size: side of the images.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.

    Raises:
        DataError: nothing there, another layout, fewer than two classes, a class without images, parts that differ in
            their classes.
    """
    folder = SOURCE.existing(folder)
    if not folder.is_dir():
        raise SOURCE.error(f"{folder} is no folder.")
    tree = Folder(folder)
    found = classes_in(tree, "")
    test = next((part for part in TEST_PARTS if part in found), None)
    # A class may be called "train"; then it holds images, not folders.
    if "train" in found and classes_in(tree, "train"):
        if test is None:
            raise SOURCE.error(f"{folder} has a folder 'train', but none of {', '.join(TEST_PARTS)}.")
        return read_parts(folder.name, tree, test, SOURCE, Reading(size, cache, progress))
    listing = list_images(tree, [""], found, SOURCE)
    return read_pool(folder.name, tree, listing, SOURCE, Reading(size, cache, progress))


def read_parts(name: str, tree: Folder, test: str, source: Source, reading: Reading) -> Pool:
    """Reads ``train`` and a test part, which must have the same classes."""
    for part in ("train", test):
        if part not in classes_in(tree, ""):
            raise source.error(f"{tree.name} has no folder {part!r}.")
    classes = classes_in(tree, "train")
    differing = sorted(set(classes) ^ set(classes_in(tree, test)))
    if differing:
        raise source.error(f"train and {test} of {tree.name} differ in the classes {', '.join(differing)}.")
    listing = list_images(tree, ["train", test], classes, source)
    return read_pool(name, tree, listing, source, reading, test_part=True)
