"""Captum's metrics over a batch, held against a loop over its single images."""

from typing import Callable

import torch
from captum.attr import LayerAttribution
from captum.metrics import infidelity
from torch import Tensor, nn

__all__ = ["assert_infidelity_is_that_of_single_images"]


def assert_infidelity_is_that_of_single_images(
    model: nn.Module, maps_of: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> None:
    """``maps_of(x, y)`` gives (N, 1, h, w) maps of ``model`` for images (N, 3, H, W)."""

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        """Deterministic, so that the loop sees the same perturbations."""
        noise = 0.1 * torch.sin(10 * x)
        return noise, x - noise

    def score(x: Tensor, y: Tensor) -> Tensor:
        maps = LayerAttribution.interpolate(maps_of(x, y), tuple(x.shape[2:]))
        return infidelity(model, perturb, x, maps.expand(-1, 3, -1, -1), target=y, n_perturb_samples=3)

    whole = score(x, y)
    assert whole.shape == (len(x),) and whole.amin() > 0
    torch.testing.assert_close(whole, torch.cat([score(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]))
