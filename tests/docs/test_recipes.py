"""The maps and the loss of docs/recipes.md are what the page says of them."""

from typing import Any

import pytest
import torch
from pages import DOCS, blocks
from test_code_blocks import everything


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The namespace after the page's blocks that make maps and the loss."""
    page = DOCS / "recipes.md"
    start = page.read_text().split("## A map of several layers")[0].count("\n")
    namespace = everything()
    for block in blocks(page, "python"):
        if block.line > start:
            exec(block.text, namespace)
    return namespace


def test_the_mean_over_layers_adds_up_to_the_mean_gain(made: dict[str, Any]) -> None:
    gains = torch.stack([net.flatten(1).sum(1) for net in made["nets"]])
    assert gains[0].abs().min() > 0 and made["mean_net"].shape == (64, 1, 32, 32)
    torch.testing.assert_close(made["mean_net"].flatten(1).sum(1), gains.mean(0), rtol=1e-4, atol=1e-5)


def test_the_first_component_has_the_sign_of_the_map(made: dict[str, Any]) -> None:
    channels, smooth = made["channels"], made["smooth"]
    assert smooth.shape == (64, 1, *channels.shape[2:])
    total = channels.sum(1, keepdim=True)
    assert ((total - total.mean((2, 3), keepdim=True)) * smooth).sum((1, 2, 3)).min() >= 0
    # No direction of channels has a larger variance over positions.
    centered = made["centered"]
    largest = torch.linalg.matrix_norm(centered.double(), ord=2)
    torch.testing.assert_close(smooth.flatten(1).norm(dim=1).double(), largest, rtol=1e-4, atol=0)


def test_mirror_images_have_the_mirrored_average(made: dict[str, Any]) -> None:
    assert made["average"].shape == made["maps"].shape
    sums = [made[name].flatten(1).sum(1) for name in ("average", "maps", "mirrored")]
    torch.testing.assert_close(sums[0], (sums[1] + sums[2]) / 2, rtol=1e-4, atol=1e-5)


def test_the_loss_makes_networks_differ(made: dict[str, Any]) -> None:
    pictures, classes, other, different = (made[name] for name in ("pictures", "classes", "other", "different"))
    alone = made["trained"](1)
    with torch.no_grad():
        plain = made["distance_correlation"](alone[:6](pictures[1200:]), other[:6](pictures[1200:]))
        accuracy = (different(pictures[1200:]).argmax(1) == classes[1200:]).double().mean()
    assert made["fss"] < 0.6 < 0.8 < plain and accuracy > 0.8
