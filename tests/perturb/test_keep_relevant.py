"""Which pixels an attribution keeps, and the images that are left."""

import math
import warnings

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvNet, images, labels
from torch import Tensor

from captum_kd.perturb import keep_relevant, noisy_linear_imputation, relevant_pixels


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ranked(upsampled: Tensor, count: int) -> Tensor:
    """The definition: sorted by falling value, then by rising index, one image at a time."""
    keep = torch.zeros(len(upsampled), upsampled[0].numel(), dtype=torch.bool)
    for row, values in zip(keep, upsampled.flatten(1).tolist()):
        row[sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]] = True
    return keep.reshape(len(upsampled), 1, *upsampled.shape[-2:])


# -------------------------------------------------------------------------------- pixels


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.001, 0.999), st.integers(0, 10**6))
def test_the_highest_values_stay_and_ties_go_by_index(height, width, share, seed):
    maps = torch.randint(-2, 3, (3, 1, height, width), generator=rng(seed)).float()
    pixels = height * width
    count = max(1, min(round(share * pixels), pixels - 1))
    assert torch.equal(relevant_pixels(maps, (height, width), share), ranked(maps, count))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(2, 60), st.integers(2, 60), st.floats(0.001, 0.999))
def test_exactly_the_share_stays_whatever_the_sizes(h, w, height, width, share):
    keep = relevant_pixels(torch.rand(2, h, w, generator=rng(h)), (height, width), share)
    assert keep.shape == (2, 1, height, width) and keep.dtype == torch.bool
    count = max(1, min(round(share * height * width), height * width - 1))
    assert keep.flatten(1).sum(1).tolist() == [count, count]


def test_maps_are_upsampled_as_captum_does():
    maps = torch.randn(3, 1, 7, 5, generator=rng(), dtype=torch.float64)
    upsampled = LayerAttribution.interpolate(maps, (30, 41), interpolate_mode="bilinear")
    assert torch.equal(relevant_pixels(maps, (30, 41), 0.3), ranked(upsampled, round(0.3 * 30 * 41)))


def test_signed_values_are_ranked():
    maps = torch.tensor([[[[-5.0, 1.0], [0.0, -1.0]]]])
    assert relevant_pixels(maps, (2, 2), 0.5).tolist() == [[[[False, True], [True, False]]]]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -math.pi, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_map_keeps_the_first_pixels(value, dtype):
    """Also where upsampling rounds: a tie in the map is a tie in the image."""
    keep = relevant_pixels(torch.full((2, 1, 7, 7), value, dtype=dtype), (50, 31), 0.5)
    assert torch.equal(keep.flatten(1), (torch.arange(1550) < 775).expand(2, -1))


@pytest.mark.parametrize("share, count", [(0.5, 2), (0.3, 2), (0.7, 4), (0.1, 1), (0.99, 4), (0.0001, 1)])
def test_rounding_is_to_even_and_something_always_stays_and_goes(share, count):
    """Five pixels: 2.5 gives 2, 1.5 gives 2, 3.5 gives 4; 0 gives 1 and 5 gives 4."""
    assert int(relevant_pixels(torch.rand(1, 1, 1, 5, generator=rng()), (1, 5), share).sum()) == count


def test_a_single_pixel_stays():
    assert relevant_pixels(torch.rand(2, 1, 3, 3, generator=rng()), (1, 1), 0.2).all()


def test_maps_that_need_gradients_give_plain_masks():
    maps = torch.rand(1, 1, 4, 4, generator=rng()).requires_grad_()
    assert not relevant_pixels(maps, (8, 8)).requires_grad and maps.requires_grad


# -------------------------------------------------------------------------------- images


def test_irrelevant_pixels_are_imputed():
    x, maps = torch.rand(4, 3, 32, 24, generator=rng()), torch.randn(4, 1, 4, 3, generator=rng(1))
    expected = noisy_linear_imputation(x, relevant_pixels(maps, (32, 24), 0.3), noise=0.02, generator=rng(2))
    found = keep_relevant(x, maps, keep=0.3, noise=0.02, generator=rng(2))
    assert torch.equal(found, expected)
    assert torch.equal(keep_relevant(x, maps[:, 0], keep=0.3, noise=0.02, generator=rng(2)), expected)
    assert int((found == x).all(1).flatten(1).sum(1).min()) == round(0.3 * 32 * 24)


def test_half_of_the_pixels_stays_by_default():
    x, maps = torch.rand(2, 3, 16, 16, generator=rng()), torch.randn(2, 1, 4, 4, generator=rng(1))
    assert (keep_relevant(x, maps) == x).all(1).flatten(1).sum(1).tolist() == [128, 128]


def test_attributions_of_captum_serve_as_they_are():
    model, x, y = ConvNet(), images(6), labels(6)
    maps = LayerGradCam(model, model.conv2).attribute(x, y)
    found = keep_relevant(x, maps, generator=rng())
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_do_not_depend_on_their_batch():
    x, maps = torch.rand(5, 3, 16, 16, generator=rng()), torch.randn(5, 1, 4, 4, generator=rng(1))
    raise_together = keep_relevant(x, maps, noise=0)
    for i in range(5):
        assert torch.allclose(keep_relevant(x[i : i + 1], maps[i : i + 1], noise=0)[0], raise_together[i], atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_images_and_maps_may_differ(dtype):
    x, maps = torch.rand(2, 3, 16, 16, generator=rng()), torch.randn(2, 1, 4, 4, generator=rng(1))
    assert keep_relevant(x.to(dtype), maps).dtype == dtype
    assert keep_relevant(x, maps.to(dtype)).dtype == x.dtype


def test_global_random_state_stays_with_a_generator():
    state = torch.random.get_rng_state()
    keep_relevant(torch.rand(2, 3, 8, 8, generator=rng()), torch.rand(2, 1, 2, 2, generator=rng()), generator=rng())
    assert torch.equal(torch.random.get_rng_state(), state)


# -------------------------------------------------------------------------------- errors

X, MAPS = torch.rand(4, 3, 6, 5, generator=rng()), torch.rand(4, 1, 3, 2, generator=rng())


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"inputs": (X, X)}, TypeError, r"inputs must be a tensor \(N, C, H, W\), got tuple"),
        ({"inputs": X.flatten(1)}, ValueError, r"inputs must be images \(N, C, H, W\), got a tensor of shape \(4, 90\)"),
        ({"inputs": X.long()}, TypeError, "inputs must be a floating point tensor, got torch.int64"),
        ({"attributions": MAPS[:3]}, ValueError, "attributions has 3 maps for 4 inputs"),
        ({"attributions": [MAPS]}, TypeError, "attributions is a list of 1, .* choose one"),
        ({"attributions": MAPS.long()}, TypeError, "floating point tensor .* got a tensor of torch.int64"),
        ({"attributions": MAPS.expand(4, 3, 3, 2)}, ValueError, r"one map per input, got \(4, 3, 3, 2\). Sum over channels"),
        ({"attributions": MAPS.flatten(1)}, ValueError, r"\(N, 1, h, w\) or \(N, h, w\), one map per input, got \(4, 6\)"),
        ({"attributions": MAPS[..., :0]}, ValueError, r"got \(4, 1, 3, 0\)"),
        ({"attributions": torch.where(MAPS == MAPS[2, 0, 1, 1], torch.nan, MAPS)}, ValueError, "non-finite .* in map 2"),
        ({"attributions": MAPS / 0}, ValueError, "attributions has non-finite values .* in map 0"),
        ({"keep": 0}, ValueError, "keep must be a share between 0 and 1, both excluded, got 0"),
        ({"keep": 1.0}, ValueError, "both excluded, got 1.0"),
        ({"keep": -0.1}, ValueError, "got -0.1"),
        ({"keep": 50}, ValueError, "got 50"),
        ({"keep": math.nan}, ValueError, "got nan"),
        ({"noise": -1}, ValueError, "noise must be"),
    ],
)
def test_bad_input_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        keep_relevant(**{"inputs": X, "attributions": MAPS, **change})


@pytest.mark.parametrize("share", [0, 1, 2.0, math.nan])
def test_masks_refuse_the_same_shares(share):
    with pytest.raises(ValueError, match="both excluded"):
        relevant_pixels(MAPS, (6, 5), share)


def test_maps_without_an_order_at_the_cut_are_warned_of():
    positive = torch.zeros(2, 1, 8, 8)
    positive[:, :, 2, 2] = 1.0
    positive[1] += torch.rand(1, 8, 8)
    with pytest.warns(UserWarning, match="Some maps have the same value at many pixels"):
        relevant_pixels(positive, (32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relevant_pixels(positive, (32, 32), keep=0.01)  # the cut is among values that differ
