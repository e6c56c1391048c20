"""ASIRRA: cats and dogs, as the PetImages archive or its unpacked folder."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from distillation.data.listing import classes_in, list_images
from distillation.data.pool import Pool
from distillation.data.reading import Reading, read_pool
from distillation.data.sources import Source
from distillation.data.trees import Folder, Tree, TreeError, Zip

__all__ = ["SOURCE", "read_petimages"]

SOURCE = Source(
    title="ASIRRA (cats and dogs)",
    folder="asirra",
    layout="PetImages/Cat/*.jpg and PetImages/Dog/*.jpg, in a folder or in the zip archive as it was downloaded",
    origin="Get it from the Microsoft Download Center, 'Kaggle Cats and Dogs Dataset'.",
)

CLASSES = ("Cat", "Dog")


def read_petimages(path: Optional[Path], size: int, cache: Path, progress: bool = True) -> Pool:
    """Reads the archive's images, its broken and empty files left out.

    Args:
        path: the zip archive, which is not unpacked; the folder PetImages; or the one above it.
        size: side of the images.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.

    Raises:
        DataError: nothing there, another layout, a truncated or damaged archive, a class without images.
    """
    path = SOURCE.existing(path)
    try:
        tree: Tree = Folder(path) if path.is_dir() else Zip(path)
        for root in ("PetImages", ""):
            if (not root or root in classes_in(tree, "")) and len(classes_in(tree, root, CLASSES)) == len(CLASSES):
                listing = list_images(tree, [root], CLASSES, SOURCE)
                return read_pool("ASIRRA", tree, listing, SOURCE, Reading(size, cache, progress))
    except TreeError as error:
        raise SOURCE.error(str(error)) from error
    raise SOURCE.error(f"{path} has no folders Cat and Dog, nor PetImages with these.")
