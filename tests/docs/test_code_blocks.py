"""Every Python block of README.md and docs/*.md runs.

Blocks of a page run in order, in one namespace and in an empty folder. What a page takes for granted is made here: all
pages have the names in :func:`everything` (tiny models, 64 images of 32 x 32 in 4 classes), and the page on text those of
``text_models``; a page that makes one of them itself has its own from there on.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import text_models
import torch
from models import TinyResNet
from pages import PAGES, blocks
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import global_average_pool

ROWS, CLASSES, SIDE = 64, 4, 32

torchvision = pytest.importorskip("torchvision")
pytest.importorskip("sklearn")  # examples that a page imports need what examples need
pytest.importorskip("lightning")
pytest.importorskip("torchdistill")


def everything() -> dict[str, Any]:
    """The names that pages use without making them."""
    labels = torch.arange(ROWS) % CLASSES
    images = pictures(labels, seed=0)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    names = ["student", "student_1", "student_2", "student_3", "base", "base_1", "base_2", "base_3", "teacher"]
    names += [*(f"placebo_{place}" for place in range(1, 5)), "untrained"]
    masks = torch.zeros(ROWS, SIDE, SIDE, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    return {
        **{name: TinyResNet(seed).eval() for seed, name in enumerate(names)},
        "vit_student": transformer(0),
        "vit_base": transformer(1),
        "cnn_base": TinyResNet(20).eval(),
        "feature_extractor": lambda x: global_average_pool(x[:, :, ::4, ::4]).flatten(1),
        "images": images,
        "image": images[:1],
        "labels": labels,
        "masks": masks,
        "reference_images": pictures(labels, seed=1),
        "reference_labels": labels,
        "loader": loader,
        "small_batches": DataLoader(TensorDataset(images, labels), batch_size=8),
        "loader_of_dicts": [{"picture": picture, "kind": kind} for picture, kind in loader],
        "layers": ["layer3", "layer4"],
    }


def pictures(labels: Tensor, seed: int) -> Tensor:
    """Noise with a patch whose color and place tell the class, between 0 and 1."""
    drawn = torch.rand(len(labels), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for picture, label in zip(drawn, labels.tolist()):
        picture[label % 3, 4 * label : 4 * label + 12, 8:20] = 1.0
    return drawn


def transformer(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torchvision.models.vision_transformer.VisionTransformer(
        image_size=SIDE, patch_size=8, num_layers=12, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=CLASSES
    ).eval()


@pytest.mark.filterwarnings("ignore")  # tiny untrained models earn the package's warnings
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name == "quantus.md":
        pytest.importorskip("quantus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))  # classes that a page defines need a module
    # A newcomer pastes this page in order and has nothing else.
    namespace = {"__name__": "page", **({} if page.name == "start.md" else everything())}
    if page.name == "text.md":
        text_models.save_models(tmp_path)
        namespace |= text_models.everything()
    for block in blocks(page, "python"):
        # The same lines as on the page, so that an error names the right one.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(page), "exec"), namespace)


def test_most_pages_have_blocks() -> None:
    assert sum(bool(blocks(page, "python")) for page in PAGES) >= 8
