"""Maps of features of extreme size: those of the same values in float64, or a refusal; never infinity or NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from captum_kd import UniCAM, flatten

N, ADDED = 48, 8


class Columns(nn.Module):
    def __init__(self, start: int) -> None:
        super().__init__()
        self.columns, self.layer = slice(start, start + 8), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, self.columns]).mean((2, 3))


def inputs() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    found = torch.randn(N, 16, 3, 3, generator=draw) + torch.randn(N, 16, 1, 1, generator=draw)
    found[:, 8:] += found[:, :8]
    return found / found.abs().max()


def maps(x: Tensor, referenced: bool, objective: str) -> tuple[Tensor, Tensor]:
    settings = dict(teacher_func=Columns(4), teacher_layer="layer") if objective == "teacher" else {}
    unicam = UniCAM(Columns(0), "layer", Columns(8), feature_transform=flatten, **settings)
    target = torch.arange(N) % 3 if objective == "labels" else None
    if not referenced:
        return unicam.attribute_transfer(x, target)
    added, others = (None, None) if target is None else (target[:ADDED], target[ADDED:])
    return unicam.attribute_transfer(x[:ADDED], added, reference=unicam.reference(x[ADDED:], others))


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("objective", ["labels", "teacher", "none"])
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e37, 3.4e38])
def test_maps_in_float32_are_those_in_float64(referenced, objective, scale):
    x = inputs() * scale
    expected = maps(x.double(), referenced, objective)
    for found, wide in zip(maps(x, referenced, objective), expected):
        assert_close(found.double(), wide, rtol=0, atol=1e-3 * float(wide.abs().max()))


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("objective", ["labels", "teacher"])
@pytest.mark.parametrize("scale", [1e-40, 1e-42])
def test_gradients_that_float32_cannot_hold_are_refused(referenced, objective, scale):
    with pytest.raises(ValueError, match=r"features are so small, .* cannot hold gradients .* model.double\(\)"):
        maps(inputs() * scale, referenced, objective)
