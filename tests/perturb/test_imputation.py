"""Noisy linear imputation against a sparse direct solution, on holes of every kind."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from captum_kd.perturb import noisy_linear_imputation

pytest.importorskip("scipy")
from reference.imputation import impute_all, mean_of_neighbors  # noqa: E402

F64 = torch.float64
SIZE = 96


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pure(images: Tensor, keep: Tensor, **kwargs) -> Tensor:
    return noisy_linear_imputation(images, keep, noise=0, **kwargs)


def blobs(n: int, height: int, width: int, share: float = 0.5, seed: int = 0) -> Tensor:
    """The upper share of upsampled 7 x 7 maps, as a saliency map leaves it."""
    maps = interpolate(torch.rand(n, 1, 7, 7, generator=rng(seed)), (height, width), mode="bilinear")
    return maps > maps.flatten(1).quantile(1 - share, dim=1)[:, None, None, None]


def scattered(n: int, height: int, width: int, share: float = 0.5, seed: int = 0) -> Tensor:
    keep = torch.rand(n, 1, height, width, generator=rng(seed)) < share
    keep[..., height // 2, width // 2] = True
    return keep


def where(condition) -> Tensor:
    """A mask of two equal images from a condition on rows and columns."""
    y, x = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    return condition(y, x).expand(2, 1, SIZE, SIZE).contiguous()


MASKS = {
    "scattered": scattered(2, SIZE, SIZE),
    "a tenth scattered": scattered(2, SIZE, SIZE, 0.1),
    "a five hundredth scattered": scattered(2, SIZE, SIZE, 0.002),
    "all but few": scattered(2, SIZE, SIZE, 0.99),
    "blobs": blobs(2, SIZE, SIZE),
    "small blobs": blobs(2, SIZE, SIZE, 0.1),
    "left half": where(lambda y, x: (x < SIZE // 2) & (y >= 0)),
    "lower half": where(lambda y, x: (y >= SIZE // 2) & (x >= 0)),
    "a column": where(lambda y, x: (x == 40) & (y >= 0)),
    "frame": where(lambda y, x: (y == 0) | (y == SIZE - 1) | (x == 0) | (x == SIZE - 1)),
    "two pixels": where(lambda y, x: ((y == 3) & (x == 5)) | ((y == 80) & (x == 71))),
    "two neighbors": where(lambda y, x: (y == 50) & ((x == 50) | (x == 51))),
    "corner": where(lambda y, x: (y < 5) & (x < 5)),
    "middle": where(lambda y, x: ((y - 47).abs() < 4) & ((x - 47).abs() < 4)),
    "checkerboard": where(lambda y, x: (y + x) % 2 == 0),
    "coarse checkerboard": where(lambda y, x: (y // 8 + x // 8) % 2 == 0),
    "every fourth pixel": where(lambda y, x: (y % 2 == 0) & (x % 2 == 0)),
    "odd pixels": where(lambda y, x: (y % 2 == 1) & (x % 2 == 1)),
    "thin walls": where(lambda y, x: (y % 17 == 5) | (x % 23 == 8)),
    "diagonal wall": where(lambda y, x: y == x),
    "comb": where(lambda y, x: (x % 2 == 0) & (y < 90)),
    "spiral of dots": where(lambda y, x: (y * 7 + x * 13) % 101 == 0),
}


def pictures(n: int = 2, height: int = SIZE, width: int = SIZE, dtype=torch.float32) -> dict[str, Tensor]:
    """Noise, where neighbors have nothing in common, and soft shapes, where they have everything."""
    noise = torch.rand(n, 3, height, width, generator=rng(1), dtype=F64)
    soft = interpolate(torch.rand(n, 3, 5, 5, generator=rng(2), dtype=F64), (height, width), mode="bicubic")
    return {"noise": noise.to(dtype), "soft": soft.to(dtype)}


# ------------------------------------------------------------------------------ solution


@pytest.mark.parametrize("mask", MASKS)
def test_error_is_within_the_tolerance_whatever_the_holes(mask):
    keep = MASKS[mask]
    for name, images in pictures().items():
        exact = impute_all(images, keep)
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
            error = float((pure(images, keep, tolerance=tolerance).double() - exact).abs().max())
            assert error <= tolerance, (name, tolerance)


@pytest.mark.parametrize("mask", ["scattered", "blobs", "left half", "corner", "thin walls", "a column"])
def test_float64_is_as_exact_as_asked(mask):
    images = pictures(dtype=F64)["noise"]
    found = pure(images, MASKS[mask], tolerance=1e-10)
    assert float((found - impute_all(images, MASKS[mask])).abs().max()) <= 1e-10


@pytest.mark.parametrize("keep", [blobs(2, 224, 224), scattered(2, 224, 224), torch.arange(224).expand(2, 1, 224, 224) < 112])
def test_error_is_within_the_tolerance_at_full_size(keep):
    images = pictures(2, 224, 224)["noise"]
    exact = impute_all(images, keep)
    for tolerance in (1e-2, 1e-3):
        assert float((pure(images, keep, tolerance=tolerance).double() - exact).abs().max()) <= tolerance


@pytest.mark.parametrize("seed", [2, 11, 12])
def test_many_scattered_pixels_keep_the_coarse_grids_regular(seed):
    """Coarse pixels that stand for next to nothing once made the coarsest matrix singular here."""
    images, keep = torch.rand(4, 1, 224, 224, generator=rng(seed)), scattered(4, 224, 224, seed=seed)
    assert torch.allclose(pure(images, keep), pure(images.double(), keep, tolerance=1e-9).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("step_y, step_x", [(1, 3), (2, 5), (1, 9), (6, 1), (3, 7)])
def test_lattices_of_dots(step_y, step_x):
    """The masks on which the estimate of the error falls shortest of it."""
    images, keep = torch.rand(1, 2, 12, 125, generator=rng()), torch.zeros(1, 12, 125, dtype=torch.bool)
    keep[:, ::step_y, ::step_x] = True
    exact = impute_all(images, keep[:, None])
    for tolerance in (1e-1, 1e-2, 1e-3):
        assert float((pure(images, keep, tolerance=tolerance).double() - exact).abs().max()) <= tolerance


def test_long_narrow_holes_are_solved_beyond_float32():
    """Along a line rounding adds up: float32 alone would leave more than is asked for."""
    images, keep = torch.rand(1, 3, 2, 400, generator=rng()), torch.zeros(1, 2, 400, dtype=torch.bool)
    keep[..., 0] = keep[..., -1] = True
    error = (pure(images, keep, tolerance=1e-5).double() - impute_all(images, keep[:, None])).abs().max()
    assert float(error) <= 1e-5


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.floats(0.02, 0.98), st.integers(0, 10**6))
def test_sizes_and_shares_of_every_kind(height, width, channels, share, seed):
    images = torch.randn(3, channels, height, width, generator=rng(seed))
    keep = torch.rand(3, 1, height, width, generator=rng(seed + 1)) < share
    keep[..., -1, 0] = True
    assert float((pure(images, keep).double() - impute_all(images, keep)).abs().max()) <= 1e-3


@pytest.mark.parametrize("height, width", [(1, 224), (224, 1), (2, 97), (129, 3), (33, 200), (224, 7), (9, 9), (8, 8), (17, 16)])
def test_narrow_and_odd_sizes(height, width):
    images = torch.rand(2, 3, height, width, generator=rng())
    for share in (0.01, 0.5):
        keep = scattered(2, height, width, share)
        assert float((pure(images, keep).double() - impute_all(images, keep)).abs().max()) <= 1e-3


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_tolerance_holds_for_values_of_any_size(seed, size, offset):
    """Absolute for wide ranges, a share of the range for narrow ones, beside the dtype's rounding."""
    images = size * (torch.rand(1, 2, 24, 24, generator=rng(seed)) + offset)
    keep = scattered(1, 24, 24, 0.2, seed)
    error = float((pure(images, keep).double() - impute_all(images, keep)).abs().max())
    rounding = torch.finfo(torch.float32).eps * float(images.abs().max())
    assert error <= 1e-3 * min(1, size) + rounding


@pytest.mark.parametrize("keep", [blobs(1, 160, 160), torch.arange(160).expand(1, 1, 160, 160) < 20])
def test_gray_levels_up_to_255_are_exact_to_a_thousandth(keep):
    images = 255 * torch.rand(1, 3, 160, 160, generator=rng())
    assert float((pure(images, keep).double() - impute_all(images, keep)).abs().max()) <= 1e-3


@pytest.mark.parametrize("largest", [1e-30, 1e38])
def test_extreme_values_neither_overflow_nor_vanish(largest):
    images = largest * torch.rand(1, 1, 20, 20, generator=rng(), dtype=F64) * torch.tensor([1, -1]).repeat(10)
    keep = scattered(1, 20, 20)
    found = pure(images.float(), keep).double()
    assert float((found - impute_all(images, keep)).abs().max()) <= 2e-3 * largest


def test_channels_are_solved_each_to_its_own_range():
    """A faint channel beside a strong one is not done when the strong one is."""
    images = torch.rand(1, 3, 40, 40, generator=rng()) * torch.tensor([1e3, 1, 1e-4]).view(1, 3, 1, 1)
    keep = blobs(1, 40, 40)
    error = (pure(images, keep).double() - impute_all(images, keep)).abs().amax((0, 2, 3))
    assert (error <= torch.tensor([1e-3, 1e-3, 1e-7])).all()


def test_a_single_kept_pixel_fills_the_image():
    images, keep = torch.rand(2, 3, 30, 41, generator=rng()), torch.zeros(2, 30, 41, dtype=torch.bool)
    keep[0, 4, 40] = keep[1, 0, 0] = True
    found = pure(images, keep)
    assert torch.equal(found[0], images[0, :, 4, 40][:, None, None].expand(3, 30, 41))
    assert torch.equal(found[1], images[1, :, 0, 0][:, None, None].expand(3, 30, 41))


def test_planes_are_continued_across_holes_inside():
    """Linear images solve the equations wherever the eight neighbors are there."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(50.0), indexing="ij")
    images = torch.stack([x / 50, y / 64, (x + 2 * y) / 200])[None]
    keep = torch.ones(1, 1, 64, 50, dtype=torch.bool)
    keep[..., 5:60, 3:40] = False
    assert torch.allclose(pure(images, keep, tolerance=1e-5), images, atol=1e-5)


def test_imputed_pixels_are_the_mean_of_their_neighbors():
    images, keep = pictures(dtype=F64)["noise"], MASKS["blobs"]
    found = pure(images, keep, tolerance=1e-9)
    means = torch.from_numpy(mean_of_neighbors(SIZE, SIZE) @ found.flatten(2).flatten(0, 1).numpy().T).T.reshape(found.shape)
    assert torch.allclose(found, torch.where(keep, images, means), atol=1e-8, rtol=0)


@pytest.mark.parametrize("mask", ["scattered", "blobs", "two pixels"])
def test_imputed_values_lie_among_the_kept_ones(mask):
    images, keep = pictures()["noise"], MASKS[mask]
    found = pure(images, keep, tolerance=0.1)
    for image, result, stays in zip(images, found, keep):
        for before, after in zip(image, result):
            assert before[stays[0]].min() - 1e-6 <= after.min() and after.max() <= before[stays[0]].max() + 1e-6


def test_images_do_not_depend_on_their_batch():
    images = torch.rand(len(MASKS), 3, SIZE, SIZE, generator=rng())
    keep = torch.cat([mask[:1] for mask in MASKS.values()])
    raise_together = pure(images, keep, tolerance=1e-4)
    for i in range(len(MASKS)):
        alone = pure(images[i : i + 1], keep[i : i + 1], tolerance=1e-4)
        assert torch.allclose(alone[0], raise_together[i], atol=2e-4, rtol=0)


def test_large_batches_are_cut_into_blocks(monkeypatch):
    from captum_kd.perturb import imputation

    images, keep = torch.rand(7, 3, 20, 30, generator=rng()), scattered(7, 20, 30)
    whole = pure(images, keep, tolerance=1e-6)
    monkeypatch.setattr(imputation, "_CPU_BLOCK", 3 * 3 * 20 * 30)  # three images, three, one
    assert torch.allclose(pure(images, keep, tolerance=1e-6), whole, atol=2e-6, rtol=0)


# -------------------------------------------------------------------------- kept and noise


def test_kept_pixels_stay_to_the_bit():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, F64):
        images, keep = torch.randn(2, 3, 25, 32, generator=rng(), dtype=F64).to(dtype) * 3, scattered(2, 25, 32)
        found = noisy_linear_imputation(images, keep, generator=rng())
        stays = keep.expand_as(images)
        assert found.dtype == dtype and torch.equal(found[stays], images[stays])
        assert not torch.equal(found[~stays], images[~stays])


def test_masks_that_keep_everything_change_nothing():
    images = torch.randn(2, 3, 12, 9, generator=rng())
    found = noisy_linear_imputation(images, torch.ones(2, 12, 9, dtype=torch.bool))
    assert torch.equal(found, images) and found.data_ptr() != images.data_ptr()


def test_one_pixel_images_stay():
    images = torch.rand(3, 2, 1, 1, generator=rng())
    assert torch.equal(noisy_linear_imputation(images, torch.ones(3, 1, 1, 1, dtype=torch.bool)), images)


# A mask, found by chance, whose coarsest matrix is exactly singular.
SINGULAR = """
#############.#
#.#######.##.##
#.###.#.##.....
....#.#..##.#..
#.###.#.##.###.
#.#..#.##...#.#
..#.##...##..#.
.#..#...##.#...
#..#.#.#.#.#.##
..#..###.#.#..#
..#.##..#.#.#..
.#.##..##.###..
..####.#...##.#
.#.#.#.#..###..
.#.#...........
"""


def test_coarse_pixels_that_stand_for_the_same_fine_ones_do_no_harm():
    keep = torch.tensor([[symbol == "#" for symbol in line] for line in SINGULAR.split()])[None, None]
    images = torch.rand(1, 3, 15, 15, generator=rng())
    error = float((pure(images, keep, tolerance=1e-4).double() - impute_all(images, keep)).abs().max())
    assert error <= 1e-4


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_hundreds_of_small_scattered_masks_can_be_solved(share):
    """Singular coarse matrices are rare, and rarest where masks are large."""
    for side in range(9, 25):
        images = torch.rand(60, 1, side, side, generator=rng(side))
        keep = torch.rand(60, 1, side, side, generator=rng(side + 100)) < share
        keep[:, :, 0, 0] = True
        filled = pure(images, keep)
        assert -1e-3 <= float(filled.min()) and float(filled.max()) <= 1 + 1e-3  # means of their neighbors
        for row in range(0, 60, 20):
            exact = impute_all(images[row : row + 1], keep[row : row + 1])
            assert float((filled[row : row + 1].double() - exact).abs().max()) <= 1e-3


def test_removed_pixels_are_not_read():
    images, keep = torch.rand(2, 3, 20, 20, generator=rng()), scattered(2, 20, 20)
    expected = pure(images, keep)
    for value in (math.nan, math.inf, -1e30):
        assert torch.equal(pure(torch.where(keep, images, value), keep), expected)


def test_noise_is_gaussian_and_on_imputed_pixels_only():
    images, keep = torch.rand(8, 3, 64, 64, generator=rng()), blobs(8, 64, 64)
    added = noisy_linear_imputation(images, keep, noise=0.05, generator=rng(3)) - pure(images, keep)
    assert not added[keep.expand_as(added)].any()
    drawn = added[~keep.expand_as(added)] / 0.05
    n = drawn.numel()
    assert abs(float(drawn.mean())) < 4 / n**0.5
    assert abs(float(drawn.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((drawn**4).mean()) - 3) < 4 * (96 / n) ** 0.5


def test_noise_repeats_with_a_generator_and_leaves_the_global_state():
    images, keep = torch.rand(2, 3, 20, 20, generator=rng()), scattered(2, 20, 20)
    state = torch.random.get_rng_state()
    found = [noisy_linear_imputation(images, keep, generator=rng(seed)) for seed in (5, 5, 6)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_in_turn_get_the_noise_of_all_images_at_once():
    images, keep = torch.rand(5, 1, 7, 9, generator=rng()), scattered(5, 7, 9)
    whole = noisy_linear_imputation(images, keep, noise=0.5, generator=rng(3))
    stream = rng(3)
    parts = [
        noisy_linear_imputation(images[rows], keep[rows], noise=0.5, generator=stream)
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=2e-3)


def test_noise_comes_from_the_global_generator_without_one():
    images, keep = torch.rand(2, 3, 20, 20, generator=rng()), scattered(2, 20, 20)
    torch.manual_seed(11)
    found = noisy_linear_imputation(images, keep)
    after = torch.random.get_rng_state()
    torch.manual_seed(11)
    drawn = torch.stack([torch.randn(images.shape[1:]) for _ in images])
    assert torch.equal(after, torch.random.get_rng_state())
    assert torch.allclose(found, torch.where(keep, images, pure(images, keep) + 0.01 * drawn), atol=1e-6)


def test_no_noise_draws_nothing():
    state = torch.random.get_rng_state()
    pure(torch.rand(1, 1, 9, 9, generator=rng()), scattered(1, 9, 9))
    assert torch.equal(torch.random.get_rng_state(), state)


# --------------------------------------------------------------------- dtypes, layout, state


@pytest.mark.parametrize("dtype, rounding", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_is_computed_in_float32(dtype, rounding):
    images, keep = torch.rand(2, 3, 50, 50, generator=rng()).to(dtype), blobs(2, 50, 50)
    error = (pure(images, keep, tolerance=1e-5).double() - impute_all(images, keep)).abs().max()
    assert float(error) <= 1e-5 + rounding


def test_autocast_changes_nothing():
    images, keep = torch.rand(2, 3, 40, 40, generator=rng()), blobs(2, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = pure(images, keep)
    assert torch.equal(found, pure(images, keep))


def test_memory_layout_of_the_inputs_does_not_matter():
    images, keep = torch.rand(2, 3, 21, 34, generator=rng()), blobs(2, 21, 34)
    expected = pure(images, keep)
    assert torch.equal(pure(images.to(memory_format=torch.channels_last), keep), expected)
    wide = torch.rand(2, 3, 21, 68, generator=rng())
    wide[..., ::2] = images
    assert torch.equal(pure(wide[..., ::2], keep.expand(2, 1, 21, 34)), expected)
    assert torch.equal(pure(images[:1].expand(2, -1, -1, -1), keep)[0], pure(images[:1], keep[:1])[0])
    assert torch.equal(pure(images, keep[:, 0]), expected)


def test_inputs_are_not_modified_and_no_graph_is_kept():
    images = torch.rand(2, 3, 21, 34, generator=rng()).requires_grad_()
    keep = blobs(2, 21, 34)
    before, mask = images.detach().clone(), keep.clone()
    found = noisy_linear_imputation(images, keep, generator=rng())
    assert torch.equal(images, before) and torch.equal(keep, mask)
    assert not found.requires_grad and images.requires_grad and torch.is_grad_enabled()


# -------------------------------------------------------------------------------- errors

IMAGES, KEEP = torch.rand(4, 3, 6, 5, generator=rng()), torch.ones(4, 1, 6, 5, dtype=torch.bool)


def changed(tensor: Tensor, index, value) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"images": None}, TypeError, "images must be a tensor"),
        ({"images": (IMAGES * 255).byte()}, TypeError, r"floating point tensor, got torch.uint8; convert it, by .float\(\)"),
        ({"images": IMAGES[0]}, ValueError, r"images must be images \(N, C, H, W\), got a tensor of shape \(3, 6, 5\)"),
        ({"images": IMAGES[:0]}, ValueError, r"shape \(0, 3, 6, 5\)"),
        ({"images": changed(IMAGES, (2, 1, 0, 0), torch.nan)}, ValueError, r"Kept pixels of image\(s\) 2 are not finite"),
        ({"images": changed(IMAGES, (slice(1, 3), 1, 0, 0), torch.inf)}, ValueError, r"image\(s\) 1, 2 are not finite"),
        ({"keep": None}, TypeError, "keep must be a boolean tensor, got None"),
        ({"keep": KEEP.float()}, TypeError, "boolean mask .*, got a tensor of torch.float32; compare first: keep > 0.5"),
        ({"keep": KEEP.long()}, TypeError, r"keep.bool\(\) for zeros and ones"),
        ({"keep": KEEP[:3]}, ValueError, r"keep has shape \(3, 1, 6, 5\) .* one mask per image, \(4, 1, 6, 5\) or \(4, 6, 5\)"),
        ({"keep": KEEP.mT}, ValueError, r"shape \(4, 1, 5, 6\)"),
        ({"keep": KEEP.expand(4, 3, 6, 5)}, ValueError, r"shape \(4, 3, 6, 5\)"),
        ({"keep": KEEP[0, 0]}, ValueError, r"shape \(6, 5\)"),
        ({"keep": changed(KEEP, 2, False)}, ValueError, r"no pixel of image\(s\) 2:"),
        ({"keep": ~KEEP}, ValueError, r"no pixel of image\(s\) 0, 1, 2, 3: there is nothing to impute from"),
        ({"noise": -0.1}, ValueError, "noise must be a standard deviation, .* got -0.1"),
        ({"noise": math.nan}, ValueError, "noise must be"),
        ({"noise": math.inf}, ValueError, "noise must be"),
        ({"tolerance": 0}, ValueError, "tolerance must be a positive number, got 0"),
        ({"tolerance": -1.0}, ValueError, "tolerance must be a positive number"),
        ({"tolerance": math.nan}, ValueError, "tolerance must be a positive number"),
    ],
)
def test_bad_input_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        noisy_linear_imputation(**{"images": IMAGES, "keep": KEEP, **change})
