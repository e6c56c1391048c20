"""The losses of the code of Adhane et al. 2025 (https://github.com/gadhane/UniCAM, which holds KD_Lib), as modules of logits."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["KD_LIB_TEMPERATURE", "KD_LIB_WEIGHT", "PublishedAttention", "SoftenedDifference", "SoftenedLabels"]

KD_LIB_TEMPERATURE = 8.0
KD_LIB_WEIGHT = 0.1
"""Temperature and weight of KD_Lib's Attention, which the authors' code leaves as they are."""


class SoftenedDifference(nn.Module):
    """temperature^2 times the mean squared difference of softened probabilities, over inputs and classes."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, guide_logits: Tensor) -> Tensor:
        student, guide = ((each / self.temperature).softmax(1) for each in (logits, guide_logits))
        return self.temperature**2 * nn.functional.mse_loss(student, guide)


class SoftenedLabels(nn.Module):
    """temperature times the cross-entropy of logits / temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.temperature * nn.functional.cross_entropy(logits / self.temperature, labels)


class PublishedAttention(nn.Module):
    """KD_Lib's attention loss on logits: 0 for any two networks, and so a control.

    The loss squares activations and scales each map to unit length. The code hands over logits where the loss expects
    maps. A single logit then counts as a map, and after scaling all of them are 1.
    """

    def forward(self, logits: Tensor, guide_logits: Tensor) -> Tensor:
        student, guide = (nn.functional.normalize(each.square()[..., None], dim=-1) for each in (logits, guide_logits))
        difference: Tensor = (student - guide).square().mean((1, 2)).sum()
        return difference
