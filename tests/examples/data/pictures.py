"""Made images and folders of them, for tests of the readers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, ImageFilter

CLASSES = ("cat", "dog", "ship")


def picture(number: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """Smooth random blobs, different ones for each number: something that JPEG keeps."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def class_folders(root: Path, classes: Sequence[str] = CLASSES, images: int = 6, first: int = 0, suffix: str = ".jpg") -> Path:
    """``root/<class>/0000.jpg`` and so on, no two pictures alike."""
    for label, name in enumerate(classes):
        for i in range(images):
            write(root / name / f"{i:04}{suffix}", picture(first + 1000 * label + i))
    return root
