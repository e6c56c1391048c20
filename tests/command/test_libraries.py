"""Models of torchvision, timm and transformers from files with random weights, and the layer that auto names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_and_data import write_images
from torch import nn

from captum_kd.command.errors import CommandError
from captum_kd.command.layers import last_layer, parse_layer, resolve_layers
from captum_kd.command.parser import main
from captum_kd.command.preprocessing import Preprocessing
from captum_kd.command.specs import LoadedModel, Spec, load_model, parse_spec

pytestmark = pytest.mark.slow
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "sky", "sea", "sun", "a", "is", "the"]


def bare(module: nn.Module) -> LoadedModel:
    return LoadedModel("kd", "student", Spec(None, "hf", "x", None, None), module.eval(), None, None, None)


def test_torchvision_with_as_many_classes_as_the_file(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    torch.save({"model": models.resnet18(num_classes=7).state_dict()}, tmp_path / "kd.pt")  # as torchdistill saves
    found = load_model(parse_spec(f"torchvision:resnet18@{tmp_path}/kd.pt"), "kd", "student", False)
    assert found.module.fc.out_features == 7
    assert found.preprocessing == Preprocessing((224, 224), 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert last_layer(found, torch.randn(2, 3, 64, 64)) == "layer4"
    with pytest.raises(CommandError, match="Close matches: resnet18"):
        load_model(parse_spec("torchvision:resnet_18"), "kd", "student", False)
    with pytest.raises(CommandError, match="neither a file nor weights of resnet18: IMAGENET1K_V1"):
        load_model(parse_spec("torchvision:resnet18@IMAGENET"), "kd", "student", False)


def test_timm_with_as_many_classes_as_the_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "deit_tiny_distilled_patch16_224"
    torch.save({"state_dict": timm.create_model(name, num_classes=4).state_dict()}, tmp_path / "kd.pth")
    found = load_model(parse_spec(f"timm:{name}@{tmp_path}/kd.pth"), "kd", "student", False)
    assert found.module.num_classes == 4
    assert found.preprocessing is not None and found.preprocessing.size == (224, 224) and found.preprocessing.resize == 248
    # The classifiers read the class token and the distillation token.
    assert last_layer(found, torch.randn(2, 3, 224, 224)) == "blocks.10"


def test_auto_names_the_block_before_where_the_classifier_reads_the_class_token_alone() -> None:
    vision = pytest.importorskip("torchvision").models.VisionTransformer
    own: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    student = vision(**own)
    nn.init.normal_(student.heads.head.weight)  # torchvision's head begins at zero
    assert last_layer(bare(student), IMAGES) == "encoder.layers.encoder_layer_1"
    timm = pytest.importorskip("timm")
    small: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    for pool, block in (("token", "blocks.1"), ("avg", "blocks.2")):
        made = timm.create_model("vit_tiny_patch16_224", global_pool=pool, **small)
        assert last_layer(bare(made), IMAGES) == block
    assert not any(module._forward_hooks for module in made.modules())


def test_auto_finds_known_networks_inside_others_and_names_a_layer_for_unknown_ones() -> None:
    models = pytest.importorskip("torchvision").models

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = models.resnet18(num_classes=3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.backbone(x)

    images = torch.randn(2, 3, 64, 64)
    assert last_layer(bare(Wrapped()), images) == "backbone.layer4"
    unknown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(CommandError, match="--layers 0"):
        last_layer(bare(unknown), images)
    layers = resolve_layers([parse_layer("auto"), parse_layer("kd:backbone.layer4[-1]")], [bare(Wrapped())], images)
    assert layers == {"backbone.layer4": {"kd": "backbone.layer4"}, "backbone.layer4.1": {"kd": "backbone.layer4.1"}}


def write_bert(folder: Path, seed: int, kind: str = "Bert", **more: Any) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), num_labels=2, **{**sizes, **more})
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(vocabulary)).save_pretrained(folder)
    return folder


def test_texts_from_a_table(tmp_path: Path) -> None:
    specs = []
    for seed, (role, name) in enumerate((("student", "kd"), ("base", "plain"), ("teacher", "teacher"))):
        folder = write_bert(tmp_path / name, seed)
        specs += [f"--{role}", f"hf:{folder}"]
    generator = torch.Generator().manual_seed(0)
    lines = ["label\ttext"]
    for number in range(80):
        words = [WORDS[5 + int(i)] for i in torch.randint(8, (4 + number % 3,), generator=generator)]
        lines.append(f"{number % 2}\t{' '.join([*words, 'red' if number % 2 else 'blue'])}")
    (tmp_path / "test.tsv").write_text("\n".join([*lines, "1\t", "broken"]))
    assert main(["compare", *specs, "--data", str(tmp_path / "test.tsv"), "--maps", "4", "--no-progress", "--output",
                 str(tmp_path / "out")]) == 0  # fmt: skip
    settings = json.loads((tmp_path / "out/report.json").read_text())["settings"]
    assert settings["n"] == 80 and settings["command"]["left_out"] == 2
    assert set(settings["layers"]["bert.encoder.layer.1"].values()) == {"bert.encoder.layer.1"}
    saved = torch.load(tmp_path / "out/maps.pt", weights_only=True)
    assert saved["tokens"][0][0] == "[CLS]"


def test_layers_lists_a_texts_model(tmp_path: Path, capsys: Any) -> None:
    assert main(["layers", f"hf:{write_bert(tmp_path / 'kd', 0)}", "--text", "--depth", "4"]) == 0
    said = capsys.readouterr().out
    assert "--layers auto takes bert.encoder.layer.1." in said and "<- auto" in said


def test_texts_without_their_option_are_refused_with_it(tmp_path: Path, capsys: Any) -> None:
    spec = f"hf:{write_bert(tmp_path / 'kd', 0)}"
    assert main(["layers", spec]) == 1
    assert "If it is one of texts: --data FILE.tsv, layers with --text." in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    for name in ("test", "train"):
        (tmp_path / f"data/{name}.tsv").write_text("label\ttext\n")
    out = str(tmp_path / "out")
    for split, named in (([], "test"), (["--split", "train"], "train")):
        given = ["compare", "--student", spec, "--base", spec, "--data", str(tmp_path / "data"), *split]
        assert main([*given, "--output", out]) == 1
        assert f"for texts name one, such as {tmp_path / 'data' / named}.tsv." in capsys.readouterr().err


def test_a_transformer_without_a_head_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_bert(tmp_path / "kd", 0)
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(folder)
    with pytest.raises(CommandError, match="not trained as a classifier"):
        load_model(parse_spec(f"hf:{folder}"), "kd", "student", True)


def test_images_with_a_transformer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    names = {0: "eel", 1: "dog", 2: "cat"}
    for seed, name in enumerate(("kd", "plain")):
        torch.manual_seed(seed)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
            id2label=names, label2id={value: key for key, value in names.items()},
        )  # fmt: skip
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / name)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / name)
    write_images(tmp_path / "photos", count=30)
    assert main(["compare", "--student", f"hf:{tmp_path}/kd", "--base", f"hf:{tmp_path}/plain", "--data",
                 str(tmp_path / "photos"), "--maps", "3", "--no-progress", "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    settings = json.loads((tmp_path / "out/report.json").read_text())["settings"]
    assert settings["class_names"] == ["eel", "dog", "cat"]
    assert "16 px, bilinear, mean 0.5 0.5 0.5" in settings["command"]["models"]["student"]
    assert list(settings["layers"]) == ["vit.layers.1"]
