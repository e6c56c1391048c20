"""The networks, by name: small residual networks for a CPU, and torchvision's for the paper's profile.

All take images with values between 0 and 1 and normalize them as their own first step, so that images can be shown
and perturbed as they are. ``stages`` names the layers that are explained and compared.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol, cast

import torch
from torch import Tensor, nn
from torchvision import models

__all__ = ["IMAGE_NETWORKS", "NETWORKS", "Network", "Networks", "WeightsError", "build", "least_side", "stages"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Network = nn.Module


class Networks(Protocol):
    """The architectures that an experiment can use, by name."""

    def build(self, name: str, classes: int, weights: str = "none") -> nn.Module:
        """A new network with so many outputs; ``weights`` says where its training starts, "none" at random weights."""

    def stages(self, name: str) -> tuple[str, ...]:
        """Dotted names of the layers that are compared, from the first to the last."""


class WeightsError(RuntimeError):
    """Pretrained weights that are not to be had; the message says how to go on."""


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.shortcut(x) + self.main(x)))


class SmallResNet(nn.Module):
    """After He et al. 2016, with one stage less and narrow.

    Stages have 1/2, 1/4, 1/4 of the input's resolution: at 32 pixels the last one still gives maps of 8 x 8.

    Args:
        widths: channels of the three stages.
        blocks: residual blocks in each of them.
        classes: number of outputs.
    """

    def __init__(self, widths: tuple[int, int, int], blocks: int, classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stage1 = _stage(first, first, blocks, stride=1)
        self.stage2 = _stage(first, second, blocks, stride=2)
        self.stage3 = _stage(second, third, blocks, stride=1)
        self.classifier = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - 0.45) / 0.25)
        x = self.stage3(self.stage2(self.stage1(x)))
        return cast(Tensor, self.classifier(x.mean((2, 3))))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = (Block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(channels_in, channels, stride), *later)


class ResNet(models.ResNet):
    """torchvision's, with ImageNet's normalization in front."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # No parameters, and not saved: torchvision's weights fit as they are.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, super().forward((images - self.mean) / self.std))


SMALL: dict[str, tuple[tuple[int, int, int], int]] = {
    "resnet-xs": ((8, 16, 32), 1),
    "resnet-s": ((12, 24, 48), 1),
    "resnet-m": ((24, 48, 96), 1),
    "resnet-l": ((32, 64, 128), 1),
    "resnet-xl": ((48, 96, 192), 1),
}
"""Widths of the stages and blocks in each: for images of 32 to 64 pixels."""

TORCHVISION: dict[str, tuple[type[nn.Module], list[int], models.WeightsEnum]] = {
    "resnet18": (models.resnet.BasicBlock, [2, 2, 2, 2], models.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (models.resnet.BasicBlock, [3, 4, 6, 3], models.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (models.resnet.Bottleneck, [3, 4, 6, 3], models.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": (models.resnet.Bottleneck, [3, 4, 23, 3], models.ResNet101_Weights.IMAGENET1K_V1),
}

NETWORKS = (*SMALL, *TORCHVISION)


def stages(name: str) -> tuple[str, ...]:
    """Dotted names of the layers that are compared, from the first to the last."""
    return ("stage1", "stage2", "stage3") if name in SMALL else ("layer1", "layer2", "layer3", "layer4")


def least_side(name: str) -> int:
    """Side in pixels of the smallest images of which the last stage makes a map of more than one position."""
    # Strides of 4 and 32 pixels.
    return 5 if name in SMALL else 33


def build(name: str, classes: int, weights: str = "none") -> Network:
    """A new network.

    Args:
        name: one of NETWORKS.
        classes: number of outputs.
        weights: "none", random weights from torch's generator; or "imagenet", torchvision's, with a new last layer.

    Raises:
        WeightsError: ImageNet weights of a network that has none, or that could not be fetched.
    """
    if name in SMALL:
        if weights == "imagenet":
            raise WeightsError(
                f"There are no ImageNet weights for {name}; choose networks among {', '.join(TORCHVISION)} with "
                "--teacher and --student, or leave --weights at none."
            )
        return SmallResNet(*SMALL[name], classes)
    block, layers, pretrained = TORCHVISION[name]
    network = ResNet(block, layers, num_classes=classes)
    if weights == "imagenet":
        state = _fetched(name, pretrained)
        # The last layer answers for ImageNet's classes; the new one for ours.
        del state["fc.weight"], state["fc.bias"]
        network.load_state_dict(state, strict=False)
    return network


def _fetched(name: str, weights: models.WeightsEnum) -> dict[str, Tensor]:
    load: Callable[..., Any] = weights.get_state_dict
    try:
        return dict(load(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
        raise WeightsError(
            f"The ImageNet weights of {name} could not be fetched ({error}). Connect to a network once, put the file "
            f"{weights.url.rsplit('/', 1)[-1]} into {torch.hub.get_dir()}/checkpoints, or start from random weights "
            "with --weights none."
        ) from error


class ImageNetworks:
    """The networks of this module."""

    build = staticmethod(build)
    stages = staticmethod(stages)


IMAGE_NETWORKS = ImageNetworks()
