"""Agreement of attributions against literal loops, scipy and scikit-learn, with maps of Captum and of UniCAM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvNet, TwoInputs, images, labels
from reference import map_agreement as literal
from scipy.stats import spearmanr
from sklearn.metrics import jaccard_score
from torch import Tensor

from captum_kd import UniCAM
from captum_kd.metrics import attribution_agreement, map_reliability
from captum_kd.metrics.attribution_agreement import MEASURES, most_salient, on_one_grid

N = 6


def drawn(seed: int, *size: int) -> Tensor:
    return torch.randn(N, *(size or (1, 4, 6)), generator=torch.Generator().manual_seed(seed))


def with_ties(seed: int) -> Tensor:
    return drawn(seed).mul(1.5).round().clamp(min=0)


def expected(first: Tensor, second: Tensor, measure: str, keep: float = 0.25) -> list[float]:
    rows = [each.flatten(1).double().tolist() for each in (first, second)]
    if measure == "iou":
        return [literal.iou(a, b, keep) for a, b in zip(*rows)]
    return [getattr(literal, measure)(a, b) for a, b in zip(*rows)]


@pytest.mark.parametrize("make", [drawn, with_ties])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("keep", [0.1, 0.25, 0.9])
def test_equals_a_literal_loop(make: Any, measure: str, keep: float) -> None:
    first, second = make(1), make(2)
    found = attribution_agreement(first, second, measure=measure, keep=keep)
    assert found.dtype == torch.float64 and found.shape == (N,)
    assert found.tolist() == pytest.approx(expected(first, second, measure, keep), abs=1e-12)


@pytest.mark.parametrize("make", [drawn, with_ties])
def test_equals_scipy_and_scikit_learn(make: Any) -> None:
    first, second = (make(seed).flatten(1) for seed in (1, 2))
    found = attribution_agreement(first, second, measure="spearman")
    assert found.tolist() == pytest.approx([spearmanr(a, b).statistic for a, b in zip(first, second)], abs=1e-12)
    every = torch.ones_like(first, dtype=torch.bool)
    tops = [most_salient(each, every, 0.25) for each in (first, second)]
    found = attribution_agreement(first, second, measure="iou")
    assert found.tolist() == pytest.approx([jaccard_score(a, b) for a, b in zip(*tops)], abs=1e-12)


def test_correlation_of_ranks_is_that_of_map_reliability() -> None:
    def ranked(maps: Tensor) -> Tensor:
        return maps.flatten(1).argsort(1).argsort(1).reshape(maps.shape).double()

    first, second = drawn(1), drawn(2)
    found = attribution_agreement(first, second, measure="spearman")
    assert torch.equal(found, map_reliability({"a": ranked(first), "b": ranked(second)}).values[0, 1])


def test_ties_at_the_border_do_not_count_as_salient() -> None:
    sparse = torch.zeros(1, 10)
    sparse[0, 3] = 1.0
    moved = sparse.roll(4, 1)
    assert attribution_agreement(sparse, moved, measure="iou", keep=0.4).tolist() == [0.0]
    plateau = torch.zeros(1, 10)
    plateau[0, :6] = 1.0
    half = torch.arange(10.0).neg()[None]
    assert attribution_agreement(plateau, half, measure="iou", keep=0.3).tolist() == [3 / 6]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(sorted(MEASURES)), st.floats(-12, 12), st.floats(0.05, 0.95), st.permutations(range(N))
)
def test_scale_order_and_symmetry(seed: int, measure: str, power: float, keep: float, order: list[int]) -> None:
    scale = 10**power
    first, second = drawn(seed).double(), drawn(seed + 1).double()
    options: Any = {"measure": measure, "keep": keep}
    found = attribution_agreement(first, second, **options)
    assert torch.allclose(attribution_agreement(first * scale, second, **options), found, rtol=0, atol=1e-12)
    assert torch.equal(attribution_agreement(first[order], second[order], **options), found[order])
    assert torch.equal(attribution_agreement(second, first, **options), found)
    assert attribution_agreement(first, first, **options).tolist() == pytest.approx([1.0] * N)
    assert float(found.abs().max()) <= 1
    mixed = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    moved = [each.flatten(1)[:, mixed] for each in (first, second)]
    assert torch.allclose(attribution_agreement(*moved, **options), found, rtol=0, atol=1e-12)
    if measure == "spearman":
        assert torch.equal(attribution_agreement(first.exp(), second, **options), found)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_maps_count_as_0_with_a_warning(measure: str, value: float) -> None:
    first, second = drawn(1), drawn(2)
    rest = attribution_agreement(first, second, measure=measure)
    first[2], second[4] = value, value
    with pytest.warns(UserWarning, match="2 of 6 inputs, at least one of the two maps is constant"):
        found = attribution_agreement(first, second, measure=measure)
    assert found[[2, 4]].tolist() == [0.0, 0.0]
    assert torch.equal(found[[0, 1, 3, 5]], rest[[0, 1, 3, 5]])
    with pytest.warns(UserWarning, match="constant"):  # also if a constant is interpolated
        assert attribution_agreement(torch.full((2, 1, 3, 3), 0.1), drawn(1)[:2], measure=measure).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("measure", MEASURES)
def test_smaller_grids_are_brought_to_the_larger_one(measure: str) -> None:
    coarse, fine = drawn(1, 1, 2, 2), drawn(2, 1, 4, 6)
    enlarged = torch.nn.functional.interpolate(coarse.double(), (4, 6), mode="bilinear").float()
    found = attribution_agreement(coarse, fine, measure=measure)
    assert found.tolist() == pytest.approx(expected(enlarged, fine, measure), abs=1e-6)


def test_equal_neighbors_give_equal_positions_on_a_larger_grid() -> None:
    flat = torch.zeros(1, 1, 2, 3)
    flat[..., :2] = 0.1
    enlarged, _ = on_one_grid(flat, torch.zeros(1, 1, 7, 9), "maps")
    assert (enlarged.reshape(7, 9)[:, :5] == enlarged.max()).all() and enlarged.unique().numel() < 6


def test_channels_are_summed() -> None:
    first, second = drawn(1, 3, 4, 6), drawn(2, 1, 4, 6)
    summed = attribution_agreement(first.double().sum(1, keepdim=True), second)
    assert torch.equal(attribution_agreement(first, second), summed)
    half = torch.full((1, 3, 2, 2), 60000.0, dtype=torch.float16)
    half[..., 0] *= -1
    assert attribution_agreement(half, half).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("measure", MEASURES)
def test_padding_does_not_count(measure: str) -> None:
    first, second = drawn(1, 1, 9), drawn(2, 1, 9)
    lengths = [9, 5, 2, 7, 3, 9]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    found = attribution_agreement(first.masked_fill(~mask[:, None], 0.0), second, measure=measure, token_mask=mask)
    for place, length in enumerate(lengths):
        alone = [maps[place : place + 1, :, :length] for maps in (first, second)]
        assert float(found[place]) == pytest.approx(float(attribution_agreement(*alone, measure=measure)), abs=1e-12)
    single = torch.zeros(N, 9, dtype=torch.long)
    single[:, 4] = 1
    with pytest.warns(UserWarning, match="6 of 6"):
        assert not attribution_agreement(first, second, measure=measure, token_mask=single).any()


def test_maps_of_captum_and_of_unicam() -> None:
    student, base, teacher = (ConvNet(seed=seed) for seed in (1, 2, 3))
    x, y = images(40), labels(40)
    classes = teacher(x).argmax(1)
    cams = [LayerGradCam(model, model.conv2).attribute(x, classes) for model in (student, teacher)]
    assert attribution_agreement(*cams).tolist() == pytest.approx(expected(*(each.detach() for each in cams), "cosine"), abs=1e-6)
    gradients = [IntegratedGradients(model).attribute(x, target=classes, n_steps=4) for model in (student, teacher)]
    assert attribution_agreement(*gradients).abs().max() <= 1
    assert attribution_agreement(cams[0], gradients[1], measure="spearman").shape == (40,)
    transfer = UniCAM(student, "conv2", base).attribute_transfer(x, y, n_steps=8)
    assert attribution_agreement(transfer.distilled, cams[1]).shape == (40,)
    with pytest.raises(TypeError, match=r"TransferAttributions of distilled, residual.*choose one, for example \.distilled"):
        attribution_agreement(transfer, cams[1])


def test_tuples_are_one_map_for_each_input() -> None:
    inputs = torch.randn(N, 4), torch.randn(N, 3)
    found = [IntegratedGradients(TwoInputs(seed)).attribute(inputs, target=1, n_steps=4) for seed in (1, 2)]
    joined = [torch.cat(each, 1) for each in found]
    for measure in MEASURES:
        assert torch.equal(
            attribution_agreement(*found, measure=measure), attribution_agreement(*joined, measure=measure)
        )


BAD: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (drawn(1), drawn(2), {"measure": "dice"}, ValueError, "measure"),
    (drawn(1), drawn(2), {"keep": 1.0}, ValueError, "keep"),
    (drawn(1), drawn(2)[:3], {}, ValueError, "attributions_b has 3 maps for 6 inputs"),
    (drawn(1), np.ones((N, 1, 4, 6)), {}, TypeError, "attributions_b must be a floating point tensor"),
    (drawn(1), drawn(2).long(), {}, TypeError, "attributions_b must be a floating point tensor"),
    (drawn(1), drawn(2, 1, 24), {}, ValueError, "no common positions"),
    (drawn(1, 1, 5), drawn(2, 1, 6), {}, ValueError, "no common positions"),
    (drawn(1, 5, 8), drawn(2, 5, 8), {}, ValueError, r"by \.sum\(2\)"),
    (drawn(1, 1, 1, 1), drawn(2, 1, 1, 1), {}, ValueError, "single position"),
    (drawn(1), drawn(2) / 0, {}, ValueError, "non-finite"),
    ((drawn(1), drawn(2)), drawn(2), {}, ValueError, "attributions_a has 2 tensors, attributions_b 1"),
    ((), (), {}, ValueError, "attributions_a is empty"),
    (drawn(1, 1, 5), drawn(2, 1, 5), {"token_mask": torch.ones(N, 6)}, ValueError, "token_mask has 6 tokens"),
    (drawn(1, 1, 5), drawn(2, 1, 5), {"token_mask": torch.ones(2, 5)}, ValueError, "token_mask"),
]


@pytest.mark.parametrize("first, second, options, error, message", BAD)
def test_bad_arguments(first: Any, second: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attribution_agreement(first, second, **options)


def test_gradients_and_maps_stay_as_they_were() -> None:
    first = drawn(1).requires_grad_()
    before = first.detach().clone()
    found = attribution_agreement(first, drawn(2))
    assert not found.requires_grad and first.grad is None and torch.equal(first, before)
