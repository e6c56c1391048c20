"""Images as networks take them, normalized by channel."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_visualize_transfer import maps, panels, pictures
from torch import Tensor

from captum_kd.perturb import keep_relevant
from captum_kd.visualization import visualize_transfer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalized(images: Tensor, mean: Any = MEAN, std: Any = STD) -> Tensor:
    return (images - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)


def shown(images: Any, **options: Any) -> np.ndarray:
    """The drawn images and, if there are any, kept images."""
    figure = visualize_transfer(images, {}, **options)
    columns = 1 + len(options.get("kept", ()))
    return np.stack([[np.asarray(axis.images[0].get_array()) for axis in row] for row in panels(figure, columns)[:3]])


@pytest.mark.parametrize("form", [tuple, list, torch.tensor, np.array, lambda values: torch.tensor(values).view(1, 3, 1, 1)])
def test_mean_and_std_undo_the_normalization(form: Any) -> None:
    found = shown(normalized(pictures()), mean=form(MEAN), std=form(STD))
    np.testing.assert_allclose(found.astype(float), shown(pictures()).astype(float), atol=1)  # 8 bits


def test_one_number_is_that_of_all_channels() -> None:
    found = shown(normalized(pictures()[:, :1], [0.5], [0.25]), mean=0.5, std=0.25)
    np.testing.assert_allclose(found.astype(float), shown(pictures()[:, :1]).astype(float), atol=1)


def test_kept_images_are_normalized_likewise_and_masks_are_not() -> None:
    images, values = normalized(pictures()), maps()["distilled"]
    kept, mask = keep_relevant(images, values), torch.rand(3, 16, 16) < 0.5
    found = shown(images, kept={"kept": kept, "mask": mask}, mean=MEAN, std=STD)
    restored = kept * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    expected = shown(pictures(), kept={"kept": restored, "mask": mask})
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=1)


def test_images_of_pillow_are_not_normalized() -> None:
    pixels = (pictures() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(each) for each in pixels]
    np.testing.assert_array_equal(shown(images, mean=MEAN, std=STD), shown(images))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, r"between 0 and 1, got values from -.*Pass mean= and std= if they are normalized"),
        ({"mean": MEAN}, ValueError, "mean and std belong together; .* std is missing"),
        ({"std": 0.2}, ValueError, "mean and std belong together; .* mean is missing"),
        ({"mean": (0.5, 0.5), "std": 0.2}, ValueError, r"one for each of the 3 channels, got \(0.5, 0.5\)"),
        ({"mean": "imagenet", "std": 0.2}, TypeError, "mean must be a number or one for each of the 3 channels, got 'imagenet'"),
        ({"mean": 0.5, "std": float("nan")}, ValueError, "std must be a number"),
        ({"mean": MEAN, "std": (0.2, 0.2, 0.0)}, ValueError, "std must be positive"),
        ({"mean": 0.0, "std": 10.0}, ValueError, "between 0 and 1 after mean and std are undone.*mean and std of your transform"),
    ],
)
def test_errors_name_the_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        visualize_transfer(normalized(pictures()), maps(), **options)
