"""Small data sets laid out like the real ones: a few real images of each class where there are any, made ones otherwise."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

REAL = os.environ.get("CAPTUM_KD_DATA")


def fill(folder: Path, source: str, names: list[str], color: int, size: int) -> None:
    """A folder of images: the first of ``source`` in the real data, as many as there are names."""
    folder.mkdir(parents=True)
    real = sorted((Path(REAL) / source).iterdir()) if REAL else []
    whole = [path for path in real if path.suffix.lower() == ".jpg" and path.stat().st_size > 100]
    rng = np.random.default_rng([color, size, len(names)])
    for i, name in enumerate(names):
        if whole:
            shutil.copy(whole[i], folder / (whole[i].name if name.endswith(".JPG") else name))
            continue
        pixels = rng.integers(0, 150, (size // 4, size // 4, 3), dtype=np.uint8)
        pixels[..., color % 3] += 100
        Image.fromarray(pixels).resize((size, size)).save(folder / name)


def cifar10(root: Path, train: int = 12, test: int = 14) -> Path:
    for part, count in (("train", train), ("test", test)):
        for color, name in enumerate(("cat", "dog", "ship")):
            fill(root / part / name, f"cifar10/{part}/{name}", [f"{i:04}.jpg" for i in range(count)], color, 32)
    return root


def petimages(root: Path, count: int = 26) -> Path:
    """With one empty and one broken file, as in the archive."""
    for color, name in enumerate(("Cat", "Dog")):
        folder = root / "PetImages" / name
        fill(folder, f"asirra/PetImages/{name}", [f"{i}.jpg" for i in range(count)], color, 80)
        (folder / "Thumbs.db").write_bytes(b"not an image")
    (root / "PetImages" / "Cat" / "666.jpg").write_bytes(b"")
    (root / "PetImages" / "Dog" / "11702.jpg").write_bytes(b"JFIF broke")
    return root


def plantvillage(root: Path, count: int = 18) -> Path:
    """With odd names; the real ones have copies among them."""
    classes = ("Pepper,_bell___Bacterial_spot", "Potato___Late_blight", "Potato___healthy")
    for color, name in enumerate(classes):
        names = [f"{i:08x}-0000-4000-8000-000000000000___RS_HL {1000 + i}.JPG" for i in range(count)]
        fill(root / "color" / name, f"plant_disease/color/{name}", names, color, 64)
    return root / "color"


def folders(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with as many made images as said."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((16, 16)).save(root / name / f"{i:04}.png")
    return root
