"""Images in class folders: which ones there are, and their pixels for each model."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Sequence

import torch
from PIL import Image, ImageOps
from torch import Tensor

from captum_kd.command.errors import CommandError
from captum_kd.command.preprocessing import Preprocessing
from captum_kd.command.specs import LoadedModel

__all__ = ["ImageData", "balanced", "class_order", "read_images"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")
FEWEST_OF_CLASS = 5
"""Images of each class where classes are left out to stay within a limit."""


class _File(NamedTuple):
    path: Path
    label: int


class ImageData:
    """Images of a folder, with the inputs that each model gets.

    Attributes:
        labels (Tensor): (N,), numbers of the classes.
        class_names (list of str): of all labels.
        left_out (list of Path): files that are no whole images.
    """

    def __init__(
        self, files: Sequence[_File], class_names: list[str], left_out: list[Path], models: Sequence[LoadedModel]
    ) -> None:
        self.files, self.class_names, self.left_out, self.models = list(files), class_names, left_out, models
        self.labels = torch.tensor([each.label for each in files])

    def __len__(self) -> int:
        return len(self.files)

    def _pixels(self, places: Sequence[int]) -> dict[Preprocessing, Tensor]:
        """(N, C, height, width), uint8, for each preprocessing; every file is opened once."""
        kinds = list(dict.fromkeys(_of(model) for model in self.models))
        found: dict[Preprocessing, list[Tensor]] = {kind: [] for kind in kinds}
        for place in places:
            image = _opened(self.files[place].path)
            if image is None:
                raise CommandError(f"{self.files[place].path} was readable a moment ago and is not any more.")
            for kind in kinds:
                found[kind].append(kind.pixels(image))
        return {kind: torch.stack(each) for kind, each in found.items()}

    def inputs(self, places: Sequence[int], device: Optional[torch.device] = None) -> Any:
        """A tensor, or tensors by the models' names if they differ."""
        tensors = {kind: kind.normalized(pixels).to(device) for kind, pixels in self._pixels(places).items()}
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        return {"student": tensors[_of(self.models[0])], **{each.name: tensors[_of(each)] for each in self.models}}

    def shown(self, places: Sequence[int]) -> dict[str, Any]:
        """The first Student's images (N, C, height, width), between 0 and 1."""
        return {"images": self._pixels(places)[_of(self.models[0])].float() / 255}

    def batches(self, batch_size: int) -> "Batches":
        return Batches(self, batch_size)


class Batches:
    """Batches of data in order, as compare_transfer takes them."""

    def __init__(self, data: Any, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.data), self.batch_size):
            places = range(start, min(start + self.batch_size, len(self.data)))
            yield self.data.inputs(places), self.data.labels[list(places)]


def _of(model: LoadedModel) -> Preprocessing:
    assert model.preprocessing is not None
    return model.preprocessing


def read_images(
    folder: Path, split: Optional[str], limit: Optional[int], seed: int, class_lists: Sequence[Sequence[str]],
    models: Sequence[LoadedModel],
) -> ImageData:  # fmt: skip
    """Chooses images of class folders.

    Args:
        folder: of class folders, or of parts with them.
        split: the part.
        limit: the most images, of all classes about as many; None for all.
        seed: of the choice.
        class_lists: lists of class names in the order of models' outputs. The first one that has all folders counts; without
            one, the folders count in the order of the alphabet.
        models: what takes the images.

    Raises:
        CommandError: no such folder, no class folders, a part that is not named, classes without images, unknown classes.
    """
    if not folder.is_dir():
        raise CommandError(f"--data: there is no folder {folder}.")
    root = folder / split if split is not None else folder
    if not root.is_dir():
        raise CommandError(f"--split: {folder} has no folder {split!r}; it has {', '.join(_folders(folder)[:8]) or 'none'}.")
    names = _folders(root)
    parts = [name for name in names if name.lower() in PARTS and _folders(root / name)]
    if parts:
        held_out = next((name for name in reversed(parts) if not name.lower().startswith("train")), parts[0])
        raise CommandError(
            f"--data: {root} has the parts {', '.join(parts)}. Choose one that was not trained on: --split {held_out}"
        )
    paths = {name: _images(root / name) for name in names}
    paths = {name: found for name, found in paths.items() if found}
    if len(paths) < 2:
        below = next((name for name in names if len(_folders(root / name)) > 1), None)
        hint = f" Perhaps you mean --data {root / below}" if below is not None else ""
        raise CommandError(
            f"--data: {root} needs a folder for each class with images in it ({', '.join(sorted(SUFFIXES))}), at least two; "
            f"found {len(paths)}.{hint}"
        )
    order = class_order(list(paths), class_lists)
    rng = random.Random(seed)
    queues = {order.index(name): rng.sample(found, len(found)) for name, found in paths.items()}
    chosen, left_out = balanced(queues, limit, rng, lambda path: _opened(path) is not None)
    files = [_File(path, label) for label, path in chosen]
    return ImageData(files, order, left_out, models)


def balanced(queues: dict[int, list[Any]], limit: Optional[int], rng: random.Random, is_good: Any) -> tuple[list[Any], list[Any]]:
    """Examples taken from all classes in turn, up to a limit; and those that are left out because they are not good.

    Where the limit allows fewer than five of each class, some classes are left out.
    """
    classes = sorted(queues)
    if limit is not None and limit // len(classes) < FEWEST_OF_CLASS:
        classes = sorted(rng.sample(classes, max(2, min(len(classes), limit // FEWEST_OF_CLASS))))
    waiting = {label: list(reversed(queues[label])) for label in classes}
    chosen: list[Any] = []
    left_out: list[Any] = []
    while any(waiting.values()) and (limit is None or len(chosen) < limit):
        for label in classes:
            while waiting[label] and (limit is None or len(chosen) < limit):
                example = waiting[label].pop()
                if is_good(example):
                    chosen.append((label, example))
                    break
                left_out.append(example)
    return chosen, left_out


def class_order(found: list[str], class_lists: Sequence[Sequence[str]]) -> list[str]:
    """The class names in the order of the models' outputs."""
    return next((list(names) for names in class_lists if set(found) <= set(names)), sorted(found))


def _folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith((".", "__MACOSX")))


def _images(folder: Path) -> list[Path]:
    """Files that are images by their names, so without Thumbs.db and the like."""
    found = (each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and not each.name.startswith("."))
    return sorted(each for each in found if each.is_file())


def _opened(path: Path) -> Optional[Image.Image]:
    """The image, upright; None if the file is no whole image."""
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
            image.load()
            if image.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255
                image = image.point(lambda value: value / 256).convert("L")
            turned = ImageOps.exif_transpose(image)
            if "transparency" in turned.info or turned.mode in ("RGBA", "LA", "PA"):
                turned = turned.convert("RGBA")
                white = Image.new("RGBA", turned.size, "white")
                turned = Image.alpha_composite(white, turned)
            return turned.convert("RGB")
    except Exception:  # Pillow's decoders raise nearly every kind of error on damaged files
        return None
