"""Small residual networks for 32-pixel images on a CPU.

After He et al. 2016, with one stage less and narrow: Student and Base have one architecture, the Teacher is the same
design, wider or deeper. All stages can be explained: ``stage1``, ``stage2``, ``stage3``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

__all__ = ["STAGES", "Architecture", "ResNet"]

STAGES = ("stage1", "stage2", "stage3")


@dataclass(frozen=True)
class Architecture:
    """Size of a network: channels of its three stages, residual blocks in each of them."""

    widths: tuple[int, int, int]
    blocks: int = 1

    def build(self, classes: int) -> "ResNet":
        """A new network with random weights."""
        return ResNet(self, classes)


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


class ResNet(nn.Module):
    """Classifier of (N, 3, H, W) images with values between 0 and 1.

    Stages halve the resolution as 1/2, 1/4, 1/4: at 32 pixels the last one still gives maps of 8 x 8.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        first, second, third = architecture.widths
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stage1 = _stage(first, first, architecture.blocks, stride=1)
        self.stage2 = _stage(first, second, architecture.blocks, stride=2)
        self.stage3 = _stage(second, third, architecture.blocks, stride=1)
        self.classifier = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - 0.45) / 0.25)
        x = self.stage3(self.stage2(self.stage1(x)))
        return cast(Tensor, self.classifier(x.mean((2, 3))))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = (Block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(channels_in, channels, stride), *later)
