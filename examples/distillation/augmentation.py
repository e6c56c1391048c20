"""How training images are changed, each in its own way; all numbers are drawn from torch's generator of the CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from distillation.settings import AUGMENTATIONS

__all__ = ["augment"]

SHIFT = 3 / 32
"""Share of the side by which "shift" moves an image at most."""
DEGREES = 15
"""By which "paper" and "asirra" turn an image at most, either way."""
JITTER = {
    "paper": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05},
    "asirra": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
}
"""The paper names color jitter, but not how much; the authors' code for ASIRRA has the second numbers."""
CROPS = {"paper": (0.08, 1.0), "asirra": (0.8, 1.0), "crop": (0.08, 1.0)}
"""Shares of an image's area that a crop keeps: torchvision's default, and the authors' for ASIRRA."""


def augment(images: Any, kind: str) -> Any:
    """Changes a batch, on the device where it is.

    Args:
        images: (N, 3, H, W), float, between 0 and 1; with "none" inputs of any kind.
        kind: "none"; "mirror"; "shift" (mirrored, and moved by up to 3 pixels of 32); "crop" (mirrored, and a random part
            of the image resized to the whole); "paper" (the same, turned by up to 15 degrees and colors changed, as in
            Adhane et al. 2025); or "asirra" (the same with the numbers of their code for ASIRRA).

    Returns:
        Inputs of the same shape.
    """
    if kind == "none":
        return images
    if kind in ("mirror", "shift"):
        return _mirrored_and_moved(images, round(SHIFT * images.shape[-1]) if kind == "shift" else 0)
    if kind in CROPS:
        change = _cropped(kind, images.shape[-2], images.shape[-1])
        # Given a batch, torchvision would change all its images alike.
        return torch.stack([change(image) for image in images])
    raise ValueError(f"There is no augmentation {kind!r}; choose among {', '.join(AUGMENTATIONS)}.")


def _mirrored_and_moved(images: Tensor, most: int) -> Tensor:
    """Mirrors every second image on average and moves each by up to ``most`` pixels, repeating the border."""
    n, _, height, width = images.shape
    device = images.device
    mirrored = (torch.rand(n) < 0.5).to(device)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (most,) * 4, mode="replicate")
    down, right = torch.randint(2 * most + 1, (2, n, 1)).to(device)
    rows = down + torch.arange(height, device=device)
    columns = right + torch.arange(width, device=device)
    places = torch.arange(n, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def _cropped(kind: str, height: int, width: int) -> nn.Module:
    steps: list[nn.Module] = [v2.RandomHorizontalFlip()]
    if kind in JITTER:
        steps += [v2.RandomRotation(DEGREES, interpolation=v2.InterpolationMode.BILINEAR), v2.ColorJitter(**JITTER[kind])]
    change: nn.Module = v2.Compose([*steps, v2.RandomResizedCrop((height, width), scale=CROPS[kind], antialias=True)])
    return change
