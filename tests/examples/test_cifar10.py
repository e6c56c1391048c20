"""The photographs example, on real images where they are to be had and on folders made here otherwise."""

import json
import os
from pathlib import Path

import cifar10
import pytest
import torch
from distillation import image_folder
from distillation.task import DataError
from PIL import Image

TINY = "--teacher-images 80 --train-images 80 --test-images 30 --references 30 --epochs 1 --teacher-epochs 1 --rows 2"
CLASSES = ("cat", "dog", "ship")


def make_folder(root: Path, size: int = 32, images: int = 30) -> Path:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = torch.randint(0, 150, (size, size, 3), generator=generator)
                pixels[..., label] += 100
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i:04}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = os.environ.get(image_folder.ENVIRONMENT)
    if root is not None:
        return Path(root) / "cifar10"
    return make_folder(tmp_path_factory.mktemp("photographs"))


def test_writes_figures_and_a_report(folder, tmp_path):
    cifar10.main([*TINY.split(), "--data", str(folder), "--no-progress", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    rows = report["scores"]["rows"]
    assert len(rows) == 3 * 12 and all(-1 <= row["value"] <= 1 for row in rows)
    assert report["scores"]["seed_control"] is None and "train a second Base" in report["scores"]["notes"][-1]
    assert report["counts"]["train"] == 80 and report["counts"]["reference"] == 30
    assert report["localization"] is None  # nobody knows where the evidence is in a photograph
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def test_reads_every_image_of_a_folder(tmp_path):
    train, test, classes = image_folder.read_folders(make_folder(tmp_path, images=7), 32, progress=False)
    assert train.count == test.count == 21 and classes == list(CLASSES)
    assert train.labels.bincount().tolist() == [7, 7, 7]
    brightest = train.inputs().mean((2, 3)).argmax(1)
    assert torch.equal(brightest, train.labels)


def test_larger_images_are_cropped_to_size(tmp_path):
    train, _, _ = image_folder.read_folders(make_folder(tmp_path, size=50, images=2), 32, progress=False)
    assert train.pixels.shape == (6, 3, 32, 32)


def test_reference_and_test_share_no_image(tmp_path):
    data = image_folder.read_folders(make_folder(tmp_path, images=20), 32, progress=False)
    task = image_folder.folder_task("x", data, 0, train=30, teacher=60, reference=20)
    together = torch.cat([task.reference.pixels, task.test.pixels]).flatten(1)
    assert len(together.unique(dim=0)) == 60
    assert task.reference.labels.bincount().tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "test").rename(root / "validation"), "no folder 'test'"),
        (lambda root: (root / "test" / "cat").rename(root / "test" / "lynx"), "differ in the classes"),
        (lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()], "dog"),
    ],
)
def test_wrong_layout_is_explained(tmp_path, spoil, message):
    root = make_folder(tmp_path / "data", images=2)
    spoil(root)
    with pytest.raises(DataError, match=message):
        image_folder.read_folders(root, 32, progress=False)


def test_missing_folder_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cifar10.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)])
    assert "nowhere" in capsys.readouterr().err


def test_variable_names_the_folder(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv(image_folder.ENVIRONMENT, str(tmp_path))
    assert image_folder.find_folder(None, "cifar10") == tmp_path / "cifar10"


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(image_folder, "CIFAR10", refuse)
    with pytest.raises(DataError, match="no route.*--data"):
        image_folder.download_cifar10(tmp_path)


def test_too_few_test_images_are_refused(tmp_path):
    data = image_folder.read_folders(make_folder(tmp_path, images=3), 32, progress=False)
    with pytest.raises(DataError, match="9 test images are too few"):
        image_folder.folder_task("x", data, 0, train=5, teacher=5, reference=8)
