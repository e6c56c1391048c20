"""Maps of layers whose average over positions is nothing but rounding: nothing is left, and none of it is shown."""

from __future__ import annotations

import warnings
from typing import Any, Callable, Optional

import pytest
import torch
from averages import N, Net, channels_pooled, net, x, y
from torch import Tensor, nn
from torch.testing import assert_close

from captum_kd import UniCAM, flatten_to_unit_length, global_average_pool

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NOTHING = "Nothing of the features is left"
NO_TARGET = "Nothing of the geometry of the Teacher is left"


def maps(
    student: nn.Module,
    base: nn.Module,
    referenced: bool,
    teacher: Optional[nn.Module] = None,
    labeled: bool = True,
    layer: str = "norm",
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    if teacher is not None:
        settings.update(teacher_func=teacher, teacher_layer="norm")
    unicam = UniCAM(student, layer, base, **settings)
    images = x(dtype=next(student.parameters()).dtype)
    target = y() if labeled and teacher is None else None
    population = None
    if referenced:
        population = unicam.reference(images[8:], None if target is None else target[8:])
        images, target = images[:8], None if target is None else target[:8]
    return unicam.attribute_transfer(images, target, reference=population)


@pytest.mark.parametrize("norm", ["instance", "affine", "group"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("labeled", [False, True])
def test_rounding_of_the_student_is_no_geometry(norm, dtype, referenced, labeled):
    """The Base's residual map is then that beside a Student that is constant: nothing is removed from it."""
    student, base, constant = net(norm, 1, dtype), net("varying", 2, dtype), net("constant", 1, dtype)
    with pytest.warns(UserWarning, match=NOTHING):
        distilled, residual = maps(student, base, referenced, labeled=labeled)
    with pytest.warns(UserWarning, match=NOTHING):
        nothing, expected = maps(constant, base, referenced, labeled=labeled)
    assert distilled.abs().max() == 0 and nothing.abs().max() == 0
    assert residual.abs().max() > 0
    assert_close(residual, expected)


@pytest.mark.parametrize("norm", ["instance", "affine", "group"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("referenced", [False, True])
def test_rounding_of_the_base_takes_nothing_away(norm, dtype, referenced):
    student = net("varying", 2, dtype)
    with pytest.warns(UserWarning, match=NOTHING):
        distilled, residual = maps(student, net(norm, 1, dtype), referenced)
    with pytest.warns(UserWarning, match=NOTHING):
        expected, _ = maps(student, net("constant", 1, dtype), referenced)
    assert residual.abs().max() == 0
    assert distilled.abs().max() > 0
    assert_close(distilled, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("referenced", [False, True])
def test_rounding_of_the_teacher_is_nothing_to_follow(dtype, referenced):
    models = net("varying", 1, dtype), net("varying", 2, dtype)
    with pytest.warns(UserWarning, match=NO_TARGET):
        found = maps(*models, referenced, teacher=net("affine", 3, dtype))
    assert all(each.abs().max() == 0 for each in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_norm_pooled_over_channels(dtype):
    class Tokens(Net):
        def __init__(self, seed: int) -> None:
            super().__init__("varying", seed)
            self.layer_norm = nn.LayerNorm(8)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(self.layer_norm(self.conv(images).permute(0, 2, 3, 1)).relu().mean((1, 2)))

    student, base = (Tokens(seed).eval().to(dtype) for seed in (1, 2))
    with pytest.warns(UserWarning, match=NOTHING):
        found = maps(
            student, base, False, layer="layer_norm", feature_transform=channels_pooled, channels_last=True
        )
    assert all(each.abs().max() == 0 for each in found)


def unit_length(activations: Tensor) -> Tensor:
    return nn.functional.normalize(activations.mean((2, 3)))


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "own mean": lambda a: a.mean((2, 3)),
    "sums": lambda a: a.sum((2, 3)),
    "halves": lambda a: torch.cat([a[:, :, :5].mean((2, 3)), a[:, :, 5:].mean((2, 3))], 1).sum(1, keepdim=True).expand(-1, 3) * 1,
    "scaled down": lambda a: a.mean((2, 3)) * 1e-6,
    "scaled up": lambda a: a.mean((2, 3)) * 1e6,
    "unit length": unit_length,
    "in float64": lambda a: a.double().mean((2, 3)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("referenced", [False, True])
def test_rounding_behind_a_transform_of_the_users(name, referenced):
    settings = {"feature_transform": TRANSFORMS[name]}
    with pytest.warns(UserWarning, match=NOTHING):
        found = maps(net("instance", 1), net("instance", 2), referenced, **settings)
    assert all(each.abs().max() == 0 for each in found)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("referenced", [False, True])
def test_a_transform_that_scales_changes_no_map(factor, referenced):
    models = net("varying", 1), net("varying", 2)
    expected = maps(*models, referenced)
    found = maps(*models, referenced, feature_transform=lambda a: a.mean((2, 3)) * factor)
    for each, other in zip(found, expected):
        assert_close(each, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_a_transform_that_draws_numbers_draws_the_same_again():
    """And leaves the caller's stream of random numbers where it was."""

    def dropped(activations: Tensor) -> Tensor:
        return activations.mean((2, 3)) * torch.rand(8)

    models = net("varying", 1), net("varying", 2)
    before = torch.get_rng_state()
    found = maps(*models, False, feature_transform=dropped)
    assert all(each.abs().max() > 0 for each in found)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("averages", [False, True])
def test_only_a_transform_that_averages_is_called_again(averages):
    calls = []

    def counted(activations: Tensor) -> Tensor:
        calls.append(activations.requires_grad)
        return activations.mean((2, 3)) if averages else activations.flatten(1)

    maps(net("varying", 1), net("varying", 2), False, feature_transform=counted)
    assert calls == ([True, False] * 2 if averages else [True] * 2)


class Added(nn.Module):
    """Pooled features by choice, with activations around them that are as large."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns, self.layer = columns, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images[:, self.columns]).mean((2, 3))


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("constant_channel", [False, True])
def test_a_small_spread_around_a_large_mean_counts(referenced, constant_channel):
    """1e-5 of the mean in float32; with a channel beside it that is as large and constant."""
    draw = torch.Generator().manual_seed(0)
    wide = 1 + 1e-5 * torch.randn(N, 32, 1, 1, generator=draw, dtype=torch.float64)
    wide[:, 16:] = wide[:, 16:] + wide[:, :16] - 1
    if constant_channel:
        wide[:, [0, 16]] = 1
    positions = 1 + torch.randn(1, 1, 6, 6, generator=draw, dtype=torch.float64) / 10
    inputs = wide.float().double() * positions / positions.mean()

    def of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        unicam = UniCAM(Added(slice(0, 16)), "layer", Added(slice(16, 32)))
        given, target = inputs.to(dtype), y()
        if not referenced:
            return unicam.attribute_transfer(given, target)
        return unicam.attribute_transfer(given[:8], target[:8], reference=unicam.reference(given[8:], target[8:]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found, expected in zip(of(torch.float32), of(torch.float64)):
            assert torch.corrcoef(torch.stack([found.double().flatten(), expected.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("transform", [global_average_pool, flatten_to_unit_length, TRANSFORMS["own mean"]])
def test_beside_references_a_map_does_not_depend_on_the_batch(transform):
    unicam = UniCAM(net("varying", 1), "norm", net("affine", 2), feature_transform=transform)
    images, target = x(), y()
    population = unicam.reference(images[8:], target[8:])
    alone, _ = unicam.attribute_transfer(images[:1], target[:1], reference=population)
    for scale in (1e-3, 1e3):
        others = torch.cat([images[:1], images[1:8] * scale])
        beside, _ = unicam.attribute_transfer(others, target[:8], reference=population)
        assert_close(beside[:1], alone)


def test_large_activations_have_maps_as_well():
    """The last factor of two that float32 has: neither means nor their rounding overflow."""
    def scaled(images: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        unicam = UniCAM(Added(slice(0, 8)), "layer", Added(slice(8, 16)))
        return unicam.attribute_transfer(images.to(dtype), y())

    inputs = torch.rand(N, 16, 3, 3, generator=torch.Generator().manual_seed(0)) * 3e37
    for found, expected in zip(scaled(inputs, torch.float32), scaled(inputs, torch.float64)):
        assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
