"""Changes of training images."""

import pytest
import torch
from distillation.augmentation import augment
from distillation.randomness import derived, own_randomness


def pictures(count: int = 6, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_none_leaves_images_alone():
    images = pictures()
    assert augment(images, "none") is images


def test_shift_gives_each_image_one_of_its_98_mirrored_and_moved_versions():
    images = pictures(count=20)
    with own_randomness(1):
        changed = augment(images, "shift")
    found = set()
    for image, result in zip(images, changed):
        hits = []
        for mirrored in (False, True):
            source = image.flip(2) if mirrored else image
            for down in range(-3, 4):
                for right in range(-3, 4):
                    rows = (torch.arange(32) + down).clamp(0, 31)
                    columns = (torch.arange(32) + right).clamp(0, 31)
                    if torch.equal(source[:, rows][:, :, columns], result):
                        hits.append((mirrored, down, right))
        assert len(hits) == 1
        found.update(hits)
    assert len(found) > 10  # not one change for all


def test_shift_moves_larger_images_further():
    column = torch.zeros(300, 3, 64, 64)
    column[..., 32] = 1
    with own_randomness(1):
        places = augment(column, "shift")[:, 0, 0].argmax(1)
    assert places.min() == 31 - 6 and places.max() == 32 + 6


@pytest.mark.parametrize("kind", ["mirror", "shift", "crop", "asirra", "paper"])
def test_draws_from_torchs_generator_alone(kind):
    images = pictures()
    results = []
    for seed in (1, 1, 2):
        with own_randomness(seed):
            results.append(augment(images, kind))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("kind", ["crop", "asirra", "paper"])
def test_each_image_is_changed_in_its_own_way_and_keeps_the_range(kind):
    images = pictures(count=1).expand(8, -1, -1, -1)
    with own_randomness(3):
        changed = augment(images, kind)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= 0 and changed.max() <= 1
    assert all(not torch.equal(changed[i], changed[j]) for i in range(8) for j in range(i))


def test_mirror_gives_each_image_or_its_mirror_image():
    images = pictures(count=40)
    with own_randomness(3):
        changed = augment(images, "mirror")
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, changed)]
    same = [torch.equal(after, before) for before, after in zip(images, changed)]
    assert all(a != b for a, b in zip(mirrored, same)) and 5 < sum(mirrored) < 35


def test_an_unknown_augmentation_is_an_error():
    with pytest.raises(ValueError, match="none, mirror, shift, crop, asirra, paper"):
        augment(pictures(), "blur")


def test_derived_seeds_differ_where_sums_do_not():
    seeds = {derived(seed, epoch, step) for seed in range(5) for epoch in range(5) for step in range(5)}
    assert len(seeds) == 125


def test_own_randomness_puts_the_generator_back_also_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        with own_randomness(4):
            torch.rand(3)
            raise KeyError
    assert torch.equal(before, torch.get_rng_state())
