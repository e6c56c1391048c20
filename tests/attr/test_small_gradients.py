"""Gradients too small for half types are carried at unit size wherever a way back may lead through such a type."""

import torch
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._utils.tensors import largest_of

N = 1000


class Large(nn.Module):
    """Float32 features of thousands, whose gradients are far below the least number of float16, under autocast too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 1)
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.layer(1e4 * self.conv(x))


def test_a_transform_with_products_of_float32_features_under_autocast():
    torch.manual_seed(0)
    mixing, x, y = torch.randn(8, 4), torch.randn(N, 3, 2, 2), torch.arange(N) % 4
    unicam = UniCAM(Large(1), "layer", Large(2), feature_transform=lambda a: a.mean((2, 3)) @ mixing)
    expected = unicam.attribute(x, y)
    with torch.autocast("cpu", dtype=torch.float16):
        found = unicam.attribute(x, y)
    assert largest_of(found - expected) < 0.02 * largest_of(expected)
