"""How training images are changed, each in its own way; all numbers are drawn from torch's generator of the CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

__all__ = ["augment"]

SHIFT = 3 / 32
"""Share of the side by which "shift" moves an image at most."""
DEGREES = 15
"""By which "paper" turns an image at most, either way."""
JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
"""The paper names color jitter, but not how much."""


def augment(images: Any, kind: str) -> Any:
    """Changes a batch, on the device where it is.

    Args:
        images: (N, 3, H, W), float, between 0 and 1; with "none" inputs of any kind.
        kind: "none", "shift" (mirrored, and moved by up to 3 pixels of 32) or "paper" (mirrored, turned by up to 15
            degrees, colors changed, a random part of the image resized to the whole, as in Adhane et al. 2025).

    Returns:
        Inputs of the same shape.
    """
    if kind == "none":
        return images
    if kind == "shift":
        return _mirrored_and_moved(images, round(SHIFT * images.shape[-1]))
    if kind == "paper":
        change = _paper(images.shape[-2], images.shape[-1])
        # Given a batch, torchvision would change all its images alike.
        return torch.stack([change(image) for image in images])
    raise ValueError(f'There is no augmentation {kind!r}; choose "none", "shift" or "paper".')


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
def _paper(height: int, width: int) -> nn.Module:
    change: nn.Module = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(DEGREES, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(**JITTER),
            v2.RandomResizedCrop((height, width), antialias=True),
        ]
    )
    return change
