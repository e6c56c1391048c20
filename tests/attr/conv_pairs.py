"""A Student and a Base of two convolutional stages, inputs for them, and the map that UniCAM should give."""

import torch
from models import ConvNet, activations, images
from reference import literal
from torch import Tensor, nn

from captum_kd import global_average_pool

N, M = 8, 10
"""Inputs of a batch, and of a reference population."""


def pair(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    return ConvNet(seed=1).to(dtype), ConvNet(seed=2).to(dtype)


def inputs(n: int = N, seed: int = 0) -> Tensor:
    return images(n, seed=seed, dtype=torch.float64)


def expected_map(student: nn.Module, base: nn.Module, layer: str, x: Tensor, y: Tensor) -> Tensor:
    """Batch mode with pooled features of the layer itself."""
    own, other = activations(student, layer, x), activations(base, layer, x)
    return literal.batch_map(own, global_average_pool, global_average_pool(other), y)


def expected_flat_map(own: Tensor, other: Tensor, y: Tensor) -> Tensor:
    """The same for a layer that gives (N, C)."""
    return literal.batch_map(own[:, :, None], lambda a: a[:, :, 0], other, y)[:, :, 0]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())
