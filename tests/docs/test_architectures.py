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
PUBLISHED = (DOCS / "architectures.md").read_text().partition("## Text, audio and time series")[0].splitlines()


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


def test_the_published_table_has_no_other_rows():
    rows = [line for line in PUBLISHED if line.startswith(tuple(f"| {library} |" for library in architectures.LIBRARIES))]
    assert len(rows) == len(ENTRIES)
    named = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in rows}
    assert named == {(entry.library, entry.name) for entry in ENTRIES}
    assert {architectures.misfit_row(misfit) for misfit in MISFITS} <= set(rows)


def listed(library):
    """The families of a library in the table, variants aside."""
    return {entry.name.split(" (")[0] for entry in ENTRIES if entry.library == library}


def test_every_module_of_timm_has_a_row():
    """timm's own list, so that a new family shows; an older timm may lack some."""
    import timm

    assert set(timm.list_modules()) <= listed("timm")


def test_every_module_of_torchvisions_classifiers_has_a_row():
    builders = map(torchvision.models.get_model_builder, torchvision.models.list_models(module=torchvision.models))
    assert {builder.__module__.rsplit(".", 1)[-1] for builder in builders} <= listed("torchvision")


def test_every_image_classifier_of_transformers_has_a_row():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSES

    names = {name for entry in CLASSES.values() for name in ([entry] if isinstance(entry, str) else entry)}
    families = {name.split("ForImageClassification")[0] for name in names}
    assert families <= listed("transformers")


def test_a_change_that_moves_with_the_image_is_told_from_one_that_does_not():
    """On a map that is transposed, mirrored or shuffled the corners' changes do not follow the image's."""
    images = architectures.changed_corners((24, 24))
    pooled = torch.nn.functional.avg_pool2d(images, 4)
    along, sideways = architectures.drifts(pooled)
    assert along > 1 and sideways < 0.1
    shuffled = pooled.flatten(2)[:, :, torch.randperm(36, generator=torch.Generator().manual_seed(0))].reshape_as(pooled)
    for wrong in (pooled.mT, pooled.flip(3), pooled.flip(2), pooled.flatten(1).reshape(5, 36, 3).mT.reshape_as(pooled), shuffled):
        along, sideways = architectures.drifts(wrong)
        assert along < max(sideways, 0.5)
