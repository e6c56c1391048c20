"""From an image file to a model's input, with the numbers of the model's own library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {
    "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX, "hamming": Image.Resampling.HAMMING,
}  # fmt: skip


@dataclass(frozen=True)
class Preprocessing:
    """Resizing, cropping and normalization of a model's images.

    Attributes:
        size: height and width of the model's inputs.
        resize: the shorter side before the middle is cut out; None resizes to ``size`` without a crop.
        mean, std: of each channel, for pixels between 0 and 1. One number each makes images gray.
        interpolation: a name in ``FILTERS``.
    """

    size: tuple[int, int]
    resize: Optional[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def changed(
        self,
        size: Optional[int],
        mean: Optional[Sequence[float]],
        std: Optional[Sequence[float]],
        resize: Optional[int] = None,
    ) -> "Preprocessing":
        """With a user's values in place of the library's. Without ``resize``, the share of the image that is cut out stays."""
        found = self
        if size is not None:
            shorter = None if self.resize is None else round(self.resize * size / min(self.size))
            found = replace(found, size=(size, size), resize=shorter)
        if resize is not None:
            found = replace(found, resize=resize)
        if mean is not None:
            found = replace(found, mean=tuple(mean))
        return found if std is None else replace(found, std=tuple(std))

    def pixels(self, image: Image.Image) -> Tensor:
        """(C, height, width), uint8."""
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        height, width = self.size
        kind = FILTERS[self.interpolation]
        if self.resize is None:
            image = image.resize((width, height), kind)
        else:
            scale = self.resize / min(image.size)
            # The longer side is cut off as torchvision does, not rounded.
            sides = [self.resize if side == min(image.size) else max(int(side * scale), self.resize) for side in image.size]
            image = image.resize((sides[0], sides[1]), kind)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        values = torch.from_numpy(np.array(image))
        return values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()

    def normalized(self, pixels: Tensor) -> Tensor:
        """(N, C, height, width), float32, from uint8."""
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def __str__(self) -> str:
        side = "x".join(map(str, self.size)) if self.size[0] != self.size[1] else str(self.size[0])
        crop = "" if self.resize is None else f" cut from {self.resize}"
        numbers = [" ".join(f"{value:.4g}" for value in each) for each in (self.mean, self.std)]
        return f"{side} px{crop}, {self.interpolation}, mean {numbers[0]}, std {numbers[1]}"


def of_torchvision(weights: Any) -> Preprocessing:
    """From the transforms of torchvision's weights."""
    own = weights.transforms()
    size, resize = own.crop_size[0], own.resize_size[0]
    return Preprocessing((size, size), resize, tuple(own.mean), tuple(own.std), str(own.interpolation.value).lower())


def of_timm(config: Any) -> Preprocessing:
    """From timm's configuration: ``timm.data.resolve_data_config``."""
    height, width = config["input_size"][-2:]
    squash = config.get("crop_mode", "center") == "squash" or config["crop_pct"] == 1 and height != width
    resize = None if squash else int(min(height, width) / config["crop_pct"])
    kind = config["interpolation"] if config["interpolation"] in FILTERS else "bicubic"
    return Preprocessing((height, width), resize, tuple(config["mean"]), tuple(config["std"]), kind)


def of_transformers(processor: Any) -> Preprocessing:
    """From an image processor of transformers."""
    size, crop = _sides(getattr(processor, "size", None)), _sides(getattr(processor, "crop_size", None))
    share = getattr(processor, "crop_pct", None)
    shortest = size.get("shortest_edge")
    if shortest is not None and not getattr(processor, "do_center_crop", False) and share is None:
        crop = {}
    if shortest is not None and share is not None and shortest < 384:  # as ConvNeXt's processor
        sides, resize = (shortest, shortest), int(shortest / share)
    elif getattr(processor, "do_center_crop", False) and crop:
        sides = crop["height"], crop["width"]
        resize = shortest if shortest is not None else max(size.get("height", sides[0]), size.get("width", sides[1]))
    elif shortest is not None:
        sides, resize = (shortest, shortest), shortest
    else:
        sides, resize = (size["height"], size["width"]), None
    normalizes = getattr(processor, "do_normalize", True)
    mean, std = (processor.image_mean, processor.image_std) if normalizes else ((0.0,) * 3, (1.0,) * 3)
    kind = Image.Resampling(int(getattr(processor, "resample", None) or Image.Resampling.BILINEAR)).name.lower()
    return Preprocessing(sides, resize, tuple(mean), tuple(std), kind)


def _sides(size: Any) -> dict[str, int]:
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    named = {name: getattr(size, name, None) if not hasattr(size, "get") else size.get(name)
             for name in ("height", "width", "shortest_edge")}  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}
