"""Models that are changed between two calls are explained as they are now: layouts found before are not used."""

import torch
from torch import Tensor, nn

from captum_kd import UniCAM

N = 30


class Stem(nn.Module):
    """Channels that are as many as rows and columns: shapes say nothing about the layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class LastStem(Stem):
    dims = (0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(self.dims)


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = Stem()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.stem(x))


class Tokens(nn.Module):
    """Patches as tokens, of a size that is no module's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 2, 2)
        self.pool = nn.Identity()
        self.layer = nn.LayerNorm(8)
        self.stride = 1

    def forward(self, x: Tensor) -> Tensor:
        patches = self.pool(nn.functional.avg_pool2d(self.conv(x), self.stride))
        return self.layer(patches.flatten(2).transpose(1, 2))


def fresh_and_kept(unicam: UniCAM, x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(x)) % 3
    fresh = UniCAM(unicam.forward_func, "layer", unicam.base_func)
    return fresh.attribute(x, y), unicam.attribute(x, y)


def test_a_replaced_module():
    unicam, x = UniCAM(Net(1), "layer", Net(2)), torch.randn(N, 3, 8, 8)
    fresh_and_kept(unicam, x)
    unicam.forward_func.stem, unicam.base_func.stem = LastStem(), LastStem()
    fresh, kept = fresh_and_kept(unicam, x)
    assert fresh.shape == (N, 1, 8, 8) and torch.equal(fresh, kept)


def test_a_replaced_module_of_a_plain_function():
    models, x, y = (Net(1), Net(2)), torch.randn(N, 3, 8, 8), torch.arange(N) % 3

    def unicam() -> UniCAM:
        student, base = models
        return UniCAM(lambda x: student(x), student.layer, lambda x: base(x), base.layer)

    kept = unicam()
    kept.attribute(x, y)
    for model in models:
        model.stem = LastStem()
    assert torch.equal(kept.attribute(x, y), unicam().attribute(x, y))


def test_a_setting_that_gives_other_shapes():
    unicam, x = UniCAM(Tokens(1), "layer", Tokens(2)), torch.randn(N, 3, 12, 24)
    assert unicam.attribute(x, torch.arange(N) % 3).shape == (N, 1, 6, 12)
    unicam.forward_func.stride = unicam.base_func.stride = 3
    fresh, kept = fresh_and_kept(unicam, x)
    assert kept.shape == (N, 1, 2, 4) and torch.equal(fresh, kept)
