"""UniCAM on every family of image classifiers: one call with a layer's name, and the map lies on the image's grid."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("transformers")
torchvision = pytest.importorskip("torchvision")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "scripts"))

import architectures  # noqa: E402
from families import Family, Misfit  # noqa: E402

ENTRIES = architectures.all_families()
FAMILIES = [entry for entry in ENTRIES if isinstance(entry, Family)]
MISFITS = [entry for entry in ENTRIES if isinstance(entry, Misfit)]
PUBLISHED = (DOCS / "architectures.md").read_text().splitlines()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library} {family.name}")
def test_a_layers_name_is_enough_for_a_map_on_the_images_grid(family):
    look = architectures.look_at(family)
    h, w = look.canonical.shape[2:]
    assert look.distilled.shape == (5, 1, h, w)
    assert look.single.shape == (1, 1, h, w)
    assert look.residual.shape == (5, 1, *(side // 16 for side in family.size))
    for maps in (look.distilled, look.residual, look.single):
        assert torch.isfinite(maps).all() and maps.any()
    along, sideways = architectures.drifts(look.canonical)
    assert along > sideways
    assert architectures.row(family, look) in PUBLISHED
