"""PlantVillage: leaves of plants, healthy and diseased, in color."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Callable, Optional

from distillation.data.listing import classes_in, list_images
from distillation.data.pool import Pool
from distillation.data.reading import Reading, read_pool
from distillation.data.sources import Source
from distillation.data.trees import Folder, TreeError

__all__ = ["SOURCE", "leaf_of", "photograph_of", "read_plantvillage"]

SOURCE = Source(
    title="PlantVillage (plant disease)",
    folder="plant_disease",
    layout="a folder color/ of class folders such as 'Potato___healthy', each with *.JPG",
    origin="Get it from spMohanty/PlantVillage-Dataset on GitHub, folder raw/color.",
)

MADE_OF = re.compile(r"(_(new)?\d+deg(flip(lr|tb))?|_(new)?flip(lr|tb)|_new[a-z]+\d*)+$", re.IGNORECASE)
"""What names of rotated, mirrored, recolored and coarser copies have at their ends: _180deg, _flipLR,
_new90degFlipTB, _newGRR, _newPixel25."""

LEAF_MAPS = ("leaf-map.json", "leaf_grouping/leaf-map.json")
"""Which photographs show the same leaf, in the data set's repository."""


def photograph_of(file: str) -> str:
    """The photograph that a file shows or was made of: its class, its identifier and its number, without additions."""
    path = PurePosixPath(file)
    return f"{path.parent.name}/{MADE_OF.sub('', path.stem).strip()}"


def leaf_of(leaves: dict[str, list[str]]) -> Callable[[str], Optional[str]]:
    """The leaf that a file shows, from the repository's map of photographs' numbers to 'class:::leaf'; None if unknown."""

    def leaf(file: str) -> Optional[str]:
        name, number = PurePosixPath(file).parent.name, photograph_of(file).rpartition("___")[2].lower()
        return next((known for known in leaves.get(number, []) if known.startswith(f"{name}:::")), None)

    return leaf


def read_plantvillage(folder: Optional[Path], size: int, cache: Path, progress: bool = True) -> Pool:
    """Reads the color images. Copies are told by their names and contents, and by the repository's map of leaves if
    it lies beside the images: several photographs of one leaf count as copies too.

    Args:
        folder: ``color``, a folder that holds it, or the repository with ``raw/color``.
        size: side of the images.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.

    Raises:
        DataError: nothing there, another layout, a class without images.
    """
    folder = SOURCE.existing(folder)
    color = next((folder / part for part in ("raw/color", "color") if (folder / part).is_dir()), folder)
    tree = Folder(color)
    listing = list_images(tree, [""], classes_in(tree, ""), SOURCE)
    same: list[Callable[[str], Optional[str]]] = [photograph_of]
    leaves = _leaf_map(color)
    if leaves is not None:
        same.append(leaf_of(leaves))
    return read_pool("Plant Disease", tree, listing, SOURCE, Reading(size, cache, progress), same=same)


def _leaf_map(color: Path) -> Optional[dict[str, list[str]]]:
    for above in (color, *color.resolve().parents[:2]):
        for name in LEAF_MAPS:
            if (above / name).is_file():
                try:
                    leaves = json.loads(Folder(above).read(name))
                except (TreeError, ValueError, RecursionError) as error:
                    raise SOURCE.error(f"{above / name}, the map of leaves, cannot be read ({error}).") from error
                if isinstance(leaves, dict) and all(_are_names(value) for value in leaves.values()):
                    return leaves
                raise SOURCE.error(f"{above / name}, the map of leaves, does not map numbers to lists of leaves.")
    return None


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
