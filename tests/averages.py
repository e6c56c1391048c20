"""Layers whose averages over positions are 0 or a constant, but for rounding; and others beside them."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn

__all__ = ["N", "NORMS", "Net", "channels_pooled", "net", "shifted", "x", "y"]

N = 48

NORMS: dict[str, Callable[[], nn.Module]] = {
    "instance": lambda: nn.InstanceNorm2d(8),
    "affine": lambda: shifted(nn.InstanceNorm2d(8, affine=True)),
    "group": lambda: shifted(nn.GroupNorm(8, 8)),
    "varying": nn.Identity,
    "constant": lambda: Fill(0.3),
}


class Fill(nn.Module):
    """Constant features."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, a: Tensor) -> Tensor:
        return a * 0 + self.value


def shifted(norm: nn.Module) -> nn.Module:
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm


class Net(nn.Module):
    """The layer of interest is ``norm``."""

    def __init__(self, norm: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = NORMS[norm]()
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(images)).relu().mean((2, 3)))


def net(norm: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    return Net(norm, seed).eval().to(dtype)


def x(n: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return (torch.rand(n, 3, 10, 10, generator=draw) + torch.rand(n, 3, 1, 1, generator=draw)).to(dtype)


def y(n: int = N) -> Tensor:
    return torch.arange(n) % 3


def channels_pooled(activations: Tensor) -> Tensor:
    """Means over channels: 0 behind a LayerNorm over them."""
    return activations.mean(1).flatten(1)
