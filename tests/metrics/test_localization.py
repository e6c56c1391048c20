"""Energy share and pointing game: closed forms on small maps, and what they do not depend on."""

import pytest
import torch
from captum.attr import LayerAttribution
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.metrics import localization_score

F64 = torch.float64


def maps(n: int, height: int = 4, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=F64)


def left_half(n: int, height: int = 4, width: int = 6) -> Tensor:
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    masks[:, :, : width // 2] = True
    return masks


def single(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=F64)[None, None]


# -------------------------------------------------------------------------------- values


def test_values_worked_out_by_hand():
    """Energy 1 + 2 of 1 + 2 + 5 inside; the maximum outside. Negative values are no energy."""
    scores = localization_score(single([[1, -9, 5], [2, 0, -3]]), torch.tensor([[[1, 1, 0], [1, 0, 0]]]).bool())
    assert float(scores.energy_share) == pytest.approx(3 / 8)
    assert scores.pointing_game.tolist() == [0]


def test_a_map_on_the_object_alone_scores_one():
    scores = localization_score(single([[0, 4, 0], [0, 1, 0]]), torch.tensor([[[0, 1, 0], [0, 1, 1]]]).bool())
    assert scores == (torch.tensor([1.0]), torch.tensor([1.0]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
def test_scores_are_those_of_a_loop_over_pixels(seed, n, height, width):
    generator = torch.Generator().manual_seed(seed)
    attributions, masks = maps(n, height, width, seed), torch.rand(n, height, width, generator=generator) < 0.4
    masks[:, 0, 0] = True
    attributions[:, :, -1, -1] = 0.5  # some positive energy
    found = localization_score(attributions, masks)
    for i in range(n):
        inside = total = 0.0
        best, best_inside = -torch.inf, False
        for y in range(height):
            for x in range(width):
                value = float(attributions[i, 0, y, x])
                total += max(value, 0)
                inside += max(value, 0) * bool(masks[i, y, x])
                if value > best:
                    best, best_inside = value, bool(masks[i, y, x])
        assert float(found.energy_share[i]) == pytest.approx(inside / total, abs=1e-12)
        assert float(found.pointing_game[i]) == best_inside


def test_masks_may_have_a_channel():
    attributions, masks = maps(3), left_half(3)
    for ours, theirs in zip(localization_score(attributions, masks), localization_score(attributions, masks[:, None])):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(12, 12), (9, 20), (4, 7)])
def test_smaller_maps_are_upsampled_as_captum_does(size):
    attributions, masks = maps(5), left_half(5, *size)
    upsampled = LayerAttribution.interpolate(attributions, size, interpolate_mode="bilinear")
    for ours, theirs in zip(localization_score(attributions, masks), localization_score(upsampled, masks)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("factor", [1e-300, 1e-20, 3.0, 1e300])
def test_size_of_a_map_does_not_matter(factor):
    attributions, masks = maps(4), left_half(4)
    for ours, theirs in zip(localization_score(attributions * factor, masks), localization_score(attributions, masks)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype, expected", [(F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_scores_have_the_maps_type_and_no_graph(dtype, expected):
    attributions = maps(3).to(dtype).requires_grad_()
    scores = localization_score(attributions, left_half(3))
    assert scores.energy_share.dtype == scores.pointing_game.dtype == expected
    assert not scores.energy_share.requires_grad and not scores.pointing_game.requires_grad


def test_digits_survive_large_maps():
    """Half of a million equal pixels is one half, also in float32."""
    scores = localization_score(torch.full((1, 1, 1000, 1002), 0.1), left_half(1, 1000, 1002))
    assert float(scores.energy_share) == 0.5


# ------------------------------------------------------------------------------ no maximum


@pytest.mark.parametrize("value", [0.0, 0.3, -0.7])
@pytest.mark.parametrize("size", [(4, 6), (13, 6), (8, 40)])
def test_a_constant_map_scores_by_chance_not_by_pixel_order(value, size):
    """Interpolation leaves a constant constant up to rounding; the rounding must not decide."""
    masks = torch.zeros(1, *size, dtype=torch.bool)
    masks[:, :, -1] = True
    constant = torch.full((1, 1, 4, 6), value)
    with pytest.warns(UserWarning, match="no positive energy") if value <= 0 else torch.no_grad():
        found = localization_score(constant, masks)
    assert float(found.pointing_game) == pytest.approx(1 / size[1])
    assert float(found.energy_share) == pytest.approx(1 / size[1] if value > 0 else 0)


def test_tied_maxima_count_by_their_share_inside():
    scores = localization_score(single([[7, 0, 7], [0, 7, 0]]), torch.tensor([[[1, 1, 0], [0, 1, 0]]]).bool())
    assert float(scores.pointing_game) == pytest.approx(2 / 3)


def test_maps_without_positive_energy_have_no_share_and_are_counted():
    attributions = maps(4)
    attributions[1] = -attributions[1].abs()
    attributions[3] = 0
    with pytest.warns(UserWarning, match="2 of 4 maps have no positive energy") as caught:
        scores = localization_score(attributions, left_half(4))
    assert caught[0].filename == __file__
    assert scores.energy_share[[1, 3]].tolist() == [0, 0]
    assert bool(torch.isfinite(scores.energy_share).all())
    # The maximum of a negative map is still its maximum.
    inside = attributions[1, 0].flatten().argmax() % 6 < 3
    assert float(scores.pointing_game[1]) == float(inside)


# -------------------------------------------------------------------------------- errors


def spoiled(value: float) -> Tensor:
    attributions = maps(3)
    attributions[2, 0, 1, 1] = value
    return attributions


@pytest.mark.parametrize(
    "attributions, masks, error, words",
    [
        (maps(3), left_half(3).float(), TypeError, r"boolean, .* got torch.float32; pass masks > 0.5"),
        (maps(3), left_half(3).to(torch.uint8), TypeError, "got torch.uint8"),
        (maps(3), left_half(3).tolist(), TypeError, "got list"),
        (maps(3), left_half(2), ValueError, "3 maps for 2 inputs"),
        (maps(3), left_half(3)[0], ValueError, r"\(N, H, W\) or \(N, 1, H, W\), got \(4, 6\)"),
        (maps(3), left_half(3)[:, None].expand(3, 2, 4, 6), ValueError, r"got \(3, 2, 4, 6\)"),
        (maps(3), left_half(3) & torch.tensor([True, False, False])[:, None, None], ValueError, "input 1 is empty .2 of 3"),
        (maps(3), left_half(3, 3, 6), ValueError, "maps of 4x6 for 3x6 pixels"),
        (spoiled(torch.nan), left_half(3), ValueError, "non-finite .* in map 2"),
        (spoiled(-torch.inf), left_half(3), ValueError, "non-finite .* in map 2"),
        ((maps(3), maps(3)), left_half(3), TypeError, r"a tuple of 2, .* choose one, for example attributions\[0\]"),
        (maps(3).long(), left_half(3), TypeError, "tensor of torch.int64"),
        (None, left_half(3), TypeError, "got NoneType"),
        (maps(3)[:, 0], left_half(3), ValueError, r"got \(3, 4, 6\). Add the dimension of channels, by .unsqueeze\(1\)"),
        (maps(3).expand(3, 5, 4, 6), left_half(3), ValueError, r"sum\(1, keepdim=True\)"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(attributions, masks, error, words):
    with pytest.raises(error, match=words):
        localization_score(attributions, masks)
