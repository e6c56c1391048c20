"""Checkpoints, preprocessing, choice of inputs and layers."""

from __future__ import annotations

import argparse
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_and_data import write_images
from PIL import Image
from torch import nn

from captum_kd.command.checkpoints import classes_in_file, load_weights, read_tensors
from captum_kd.command.errors import CommandError, needed
from captum_kd.command.images import balanced, read_images
from captum_kd.command.layers import parse_layer
from captum_kd.command.preprocessing import Preprocessing
from captum_kd.command.specs import LoadedModel, Spec, parse_spec
from models import ConvNet

KIND = Preprocessing((12, 12), 12, (0.5,) * 3, (0.25,) * 3)
STUDENT = ConvNet(seed=1)
MODEL = LoadedModel("kd", "student", Spec(None, "hf", "x", None, None), STUDENT, KIND, None, None)


def loaded(file: Path, part: Any = None) -> nn.Module:
    model = ConvNet(seed=9)
    load_weights(model, file, read_tensors(file), part, "ConvNet")
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own: own,
        lambda own: {"state_dict": {f"model.{name}": value for name, value in own.items()}, "epoch": 3},  # Lightning
        lambda own: {"model": own, "args": argparse.Namespace(lr=0.1), "best_value": 0.5, "optimizer": {"state": {0: {}}}},
        lambda own: {"model_state_dict": {f"module.{name}": value for name, value in own.items()}},
        lambda own: {f"_orig_mod.{name}": value for name, value in own.items()},
    ],
)
def test_wrapped_state_dicts_are_found(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(STUDENT.state_dict()), tmp_path / "kd.pt")
    found = loaded(tmp_path / "kd.pt").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in STUDENT.state_dict().items())


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(STUDENT.state_dict(), tmp_path / "kd.safetensors")
    assert torch.equal(loaded(tmp_path / "kd.safetensors").fc.weight, STUDENT.fc.weight)


def test_one_of_several_networks_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    other = ConvNet(seed=5)
    both = {f"{name}.{key}": value for name, net in (("student", STUDENT), ("teacher", other)) for key, value in
            net.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": both}, tmp_path / "kd.ckpt")
    with pytest.raises(CommandError, match=r"2 networks.*kd.ckpt#state_dict.student or kd.ckpt#state_dict.teacher"):
        loaded(tmp_path / "kd.ckpt")
    assert torch.equal(loaded(tmp_path / "kd.ckpt", "teacher").fc.weight, other.fc.weight)
    with pytest.raises(CommandError, match="no such network"):
        loaded(tmp_path / "kd.ckpt", "assistant")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, capsys: Any) -> None:
    torch.save({"model": STUDENT.state_dict(), "hparams": Evil()}, tmp_path / "kd.pt")
    with pytest.raises(CommandError, match=r"Pickled objects can run code.*torch.save\(model.state_dict"):
        read_tensors(tmp_path / "kd.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CommandError):
        read_tensors(tmp_path / "plain.pt")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no weights", b"hi", None])
def test_damaged_files_are_named(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "kd.pt"
    if content is None:
        torch.save(STUDENT.state_dict(), file)
        content = file.read_bytes()[:500]
    file.write_bytes(content)
    with pytest.raises(CommandError, match="kd.pt"):
        read_tensors(file)


def test_mismatches_are_said_in_words(tmp_path: Path) -> None:
    own = STUDENT.state_dict()
    torch.save({**own, "fc.weight": torch.zeros(7, 5), "fc.bias": torch.zeros(7)}, tmp_path / "seven.pt")
    with pytest.raises(CommandError, match=r"2 have another shape \(fc.bias: \(7,\) in the file, \(3,\) in the model"):
        loaded(tmp_path / "seven.pt")
    assert classes_in_file(STUDENT, read_tensors(tmp_path / "seven.pt"), tmp_path / "seven.pt", None) == 7
    own.pop("conv1.weight")
    torch.save({**own, "stem.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CommandError, match=r"1 of the model's 8 tensors are missing \(conv1.weight\); 1 tensors of the"):
        loaded(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torchvision:resnet18", Spec(None, "torchvision", "resnet18", None, None)),
        ("kd 1=torchvision:resnet18@a=b.pt", Spec("kd 1", "torchvision", "resnet18", "a=b.pt", None)),
        ("timm:x.fb_in1k@kd.ckpt#student", Spec(None, "timm", "x.fb_in1k", "kd.ckpt", "student")),
        ("t=hf:me/model@1", Spec("t", "hf", "me/model@1", None, None)),
        ("a/models.py:make@w.pt", Spec(None, "a/models.py", "make", "w.pt", None)),
        ("kd=C:\\x\\models.py:make@C:\\w.pt", Spec("kd", "C:\\x\\models.py", "make", "C:\\w.pt", None)),
    ],
)
def test_specifications(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


@pytest.mark.parametrize("text", ["resnet18", "models.py", "tf:resnet", "models.py:1x", ""])
def test_what_is_no_specification(text: str) -> None:
    with pytest.raises(ValueError, match="no specification"):
        parse_spec(text)


def test_layers() -> None:
    assert parse_layer("layer4") == (None, "layer4", {})
    assert parse_layer("last=layer4,teacher:blocks[-1]") == ("last", "layer4", {"teacher": "blocks[-1]"})
    assert parse_layer("last=a:x,b:y") == ("last", None, {"a": "x", "b": "y"})


def test_images_without_system_files_and_broken_ones(tmp_path: Path) -> None:
    write_images(tmp_path, count=12)
    (tmp_path / "dog/000.png").write_bytes(b"")
    (tmp_path / "dog/001.png").write_bytes((tmp_path / "dog/002.png").read_bytes()[:90])
    data = read_images(tmp_path, None, None, 0, [], [MODEL])
    assert len(data) == 34 and data.labels.bincount().tolist() == [12, 10, 12]
    assert sorted(each.name for each in data.left_out) == ["000.png", "001.png"]
    assert data.inputs(range(3)).shape == (3, 3, 12, 12)


def test_parts_are_asked_for(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part, count=3)
    with pytest.raises(CommandError, match="--split test"):
        read_images(tmp_path, None, None, 0, [], [MODEL])
    assert len(read_images(tmp_path, "test", None, 0, [], [MODEL])) == 9
    with pytest.raises(CommandError, match="--split train"):
        (tmp_path / "test").rename(tmp_path / "other")
        read_images(tmp_path, None, None, 0, [], [MODEL])


def test_labels_follow_the_order_of_the_models_outputs(tmp_path: Path) -> None:
    write_images(tmp_path, count=3)
    data = read_images(tmp_path, None, None, 0, [["eel", "ant", "dog", "cat"]], [MODEL])
    assert data.class_names == ["eel", "ant", "dog", "cat"]
    assert sorted(set(data.labels.tolist())) == [0, 2, 3]
    assert read_images(tmp_path, None, None, 0, [["ant", "bee"]], [MODEL]).class_names == ["cat", "dog", "eel"]


def test_limits_are_balanced_and_leave_out_classes_before_they_get_too_small() -> None:
    queues = {label: list(range(20)) for label in range(10)}
    chosen, _ = balanced(queues, 100, random.Random(0), lambda example: True)
    assert torch.tensor([label for label, _ in chosen]).bincount().tolist() == [10] * 10
    chosen, _ = balanced(queues, 20, random.Random(0), lambda example: True)
    counts = torch.tensor([label for label, _ in chosen]).bincount()
    assert len(chosen) == 20 and sorted(counts[counts > 0].tolist()) == [5] * 4


def test_pixels_are_those_of_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(torch.randint(0, 256, (50, 71, 3), dtype=torch.uint8).numpy())
    kind = Preprocessing((24, 24), 28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic")
    expected = transforms.Compose(
        [
            transforms.Resize(28, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(24), transforms.ToTensor(),
            transforms.Normalize(kind.mean, kind.std),
        ]
    )(image)  # fmt: skip
    torch.testing.assert_close(kind.normalized(kind.pixels(image)[None])[0], expected)


def test_own_values_keep_the_share_of_the_crop() -> None:
    kind = Preprocessing((224, 224), 256, (0.5,) * 3, (0.5,) * 3)
    assert kind.changed(112, None, (0.1,)) == Preprocessing((112, 112), 128, (0.5,) * 3, (0.1,))


def test_a_crop_of_ones_own() -> None:
    kind = Preprocessing((224, 224), 256, (0.5,) * 3, (0.5,) * 3)
    assert kind.changed(64, None, None, 64) == Preprocessing((64, 64), 64, (0.5,) * 3, (0.5,) * 3)


def test_missing_packages_are_named_with_what_to_install() -> None:
    with pytest.raises(CommandError, match=r"pip install 'captum_kd\[models\]'"):
        needed("no_such_package", "models", "timm:x")
