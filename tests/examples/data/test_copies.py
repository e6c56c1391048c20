"""Copies by their contents: what counts as one, and that the quick search finds what a slow one finds."""

import itertools

import pytest
import torch
from distillation.data.copies import _candidates, copy_pairs, distances, groups, invariants, pairs_of_equal, thumbnails
from distillation.data.decoding import decode
from PIL import Image

from pictures import encoded, picture

TRANSPOSES = [None, *Image.Transpose]


def thumbnail(image, size=48, **options):
    return thumbnails(torch.from_numpy(decode(encoded(image, **options), size))[None])


def turned(small):
    """The eight versions, made one by one."""
    return [version.rot90(k, (-2, -1)) for version in (small, small.flip(-1)) for k in range(4)]


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_a_turned_copy_saved_anew_is_found(transpose):
    image = picture(1)
    copy = image if transpose is None else image.transpose(transpose)
    small = torch.cat([thumbnail(image, quality=95), thumbnail(copy, quality=60), thumbnail(picture(2))])
    assert copy_pairs(small).tolist() == [[0, 1]]


def test_a_smaller_or_lighter_copy_is_found():
    image = picture(1, (96, 96))
    lighter = image.point(lambda value: 0.8 * value + 40)
    small = torch.cat([thumbnail(image), thumbnail(image.resize((60, 60))), thumbnail(lighter)])
    assert sorted(copy_pairs(small).tolist()) == [[0, 1], [0, 2], [1, 2]]


def test_other_images_are_not_copies():
    small = torch.cat([thumbnail(picture(number)) for number in range(40)])
    assert len(copy_pairs(small)) == 0


def test_a_small_object_on_plain_ground_is_told_from_another():
    images = []
    for box in ((10, 10, 22, 22), (18, 6, 24, 30)):
        image = Image.new("RGB", (48, 48), (90, 140, 200))
        image.paste((40, 40, 40), box)
        images.append(thumbnail(image))
    assert len(copy_pairs(torch.cat(images))) == 0


def test_thumbnails_of_turned_images_are_turned_thumbnails():
    pixels = torch.from_numpy(decode(encoded(picture(3)), 50))[None]
    for version, small in zip(turned(pixels), turned(thumbnails(pixels))):
        assert torch.allclose(thumbnails(version.contiguous()), small, atol=1e-5)


def test_compression_of_an_empty_image_makes_no_pattern():
    plain = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    assert thumbnails(plain).abs().max() == 0


def test_invariants_stay_under_rotation_and_are_no_further_apart_than_images():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 16, 16, generator=generator)
    second = first + torch.linspace(0, 2, 50)[:, None, None] * torch.randn(50, 16, 16, generator=generator)
    apart = (invariants(first) - invariants(second)).norm(dim=1)
    assert (apart <= distances(first, second) + 1e-5).all()
    for version in turned(second):
        assert torch.allclose(invariants(version), invariants(second), atol=1e-5)


@pytest.mark.parametrize("threshold", [0.2, 0.6, 1.0])
def test_the_search_finds_every_pair(threshold, monkeypatch):
    # Blocks smaller than the data, and all distances around the threshold.
    monkeypatch.setattr("distillation.data.copies.BLOCK", 8)
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(8, 16, 16, generator=generator).repeat(4, 1, 1)
    small = small + torch.linspace(0, 0.8, 32)[:, None, None] * torch.randn(32, 16, 16, generator=generator)
    small = torch.stack([turned(image)[i % 8] for i, image in enumerate(small)])
    expected = [
        [i, j]
        for i, j in itertools.combinations(range(32), 2)
        if min(float((small[i] - version).square().mean().sqrt()) for version in turned(small[j])) <= threshold
    ]
    assert len(expected) >= 1
    candidates = torch.cat(list(_candidates(small, threshold, False))).sort(1).values
    near = candidates[distances(small[candidates[:, 0]], small[candidates[:, 1]]) <= threshold]
    assert sorted(near.tolist()) == expected
    found = copy_pairs(small, threshold)
    assert {*map(tuple, found.tolist())} <= {*map(tuple, expected)}
    assert torch.equal(groups(32, found), groups(32, torch.tensor(expected)))


def test_links_make_groups_over_several_steps():
    numbers = groups(6, torch.tensor([[0, 3], [3, 5], [1, 2]])).tolist()
    assert numbers[0] == numbers[3] == numbers[5] and numbers[1] == numbers[2]
    assert len(set(numbers)) == 3
    assert len(groups(3, torch.empty((0, 2), dtype=torch.int64)).unique()) == 3


def test_equal_keys_are_linked():
    assert pairs_of_equal(["a", "b", "a", "a"]).tolist() == [[0, 2], [2, 3]]
    assert pairs_of_equal([]).shape == (0, 2)


@pytest.mark.parametrize("noise", [1, 3])
def test_thousands_of_copies_of_one_image_give_few_pairs(noise):
    """All pairs would be two million."""
    plain = torch.randint(100, 100 + noise, (2000, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs = copy_pairs(thumbnails(plain))
    assert len(pairs) < 50_000 and groups(2000, pairs).max() == 0
