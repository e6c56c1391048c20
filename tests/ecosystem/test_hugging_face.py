"""Hugging Face's image classifiers as they are: outputs that are dictionaries, batches of pixel values, pandas."""

import pytest
import torch
from models import ConvNet

from captum_kd import UniCAM
from captum_kd.metrics import Localization, compare_transfer, feature_similarity_score, keep_curve, relevance_score

transformers = pytest.importorskip("transformers")

N, SIZE = 10, 32

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only .* inputs")

VIT = {
    "image_size": SIZE, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
CONVOLUTIONAL = {"hidden_sizes": [8, 12], "depths": [1, 1], "num_labels": 3}

# Name, configuration, layer and the grid that its map has.
MODELS = {
    "ViT": (VIT, "vit.layers.1", (4, 4)),
    "DeiT": (VIT, "deit.layers.1", (4, 4)),
    "Beit": (VIT, "beit.layers.1", (4, 4)),
    "ResNet": ({**CONVOLUTIONAL, "embedding_size": 8}, "resnet.encoder.stages.1", (4, 4)),
    "ConvNext": ({**CONVOLUTIONAL, "num_stages": 2}, "convnext.encoder.stages.1", (4, 4)),
    "Swin": (
        {"image_size": SIZE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4},
        "swin.layernorm",
        (4, 4),
    ),
}


def model(name, seed=0):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**MODELS[name][0], "num_labels": 3})
    return getattr(transformers, f"{name}ForImageClassification")(config).eval()


def pixels(n=N, size=(SIZE, SIZE)):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(5))


def batches(size=5):
    whole = {"pixel_values": pixels(), "labels": torch.arange(N) % 3}
    return [{key: value[i : i + size] for key, value in whole.items()} for i in range(0, N, size)]


@pytest.mark.parametrize("name", MODELS)
def test_maps_of_a_hugging_face_student_and_a_convolutional_base(name):
    layer, grid = MODELS[name][1:]
    unicam = UniCAM(model(name), layer, ConvNet(seed=2), "conv2")
    maps = unicam.attribute_transfer(pixels(), torch.arange(N) % 3)
    assert maps.distilled.shape == (N, 1, *grid) and maps.residual.shape == (N, 1, SIZE // 2, SIZE // 2)
    assert all(torch.isfinite(m).all() and m.any() for m in maps)


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_hugging_face_models(name):
    layer = MODELS[name][1]
    student, base = model(name, 1), model(name, 2)
    whole, y = pixels(), torch.arange(N) % 3
    similarity = feature_similarity_score(student, layer, base, layer, whole)
    torch.testing.assert_close(feature_similarity_score(student, layer, student, layer, whole), torch.tensor(1.0))
    assert -1 <= similarity < 1
    distilled = relevance_score(student, layer, whole, y, given=(base, layer))
    assert torch.isfinite(distilled) and distilled != relevance_score(student, layer, whole, y)


@pytest.mark.filterwarnings("error:.*maps are constant")
@pytest.mark.parametrize("name", ["ViT", "Swin"])
@pytest.mark.parametrize("localize", ["gradcam", "unicam"])
def test_reports_over_loaders_of_pixel_values_open_in_pandas(name, localize, tmp_path):
    pandas = pytest.importorskip("pandas")
    # Behind ViT's last block logits read the class token alone: Grad-CAM needs tokens that are still attended to.
    layer = "vit.layers.0" if name == "ViT" else MODELS[name][1]
    reference = (pixels(6), torch.arange(6) % 3) if localize == "unicam" else None
    report = compare_transfer(
        {"student": model(name, 1)}, {"base": model("ResNet", 2)},
        {"last": {"student": layer, "base": "resnet.encoder.stages.1"}}, batches(),
        localize=Localization(localize, reference=reference), confidence=0.9, n_permutations=19, show_progress=False,
    )  # fmt: skip
    report.to_csv(tmp_path / "report.csv")
    frame = pandas.read_csv(tmp_path / "report.csv")
    assert len(frame) == len(report.rows) == 5
    assert pandas.api.types.is_integer_dtype(frame["n"]) and (frame["n"] == N).all()
    for column in ("value", "low", "high", "unique_share", "p_value"):
        assert pandas.api.types.is_float_dtype(frame[column]), column
    for column in ("student", "base", "layer", "score"):
        assert pandas.api.types.is_string_dtype(frame[column]), column
    values = frame.set_index("score")["value"]
    assert values.notna().all() and values["fss"] == report.rows[0]["value"]
    tidy = pandas.DataFrame(report.to_dict()["rows"])
    pandas.testing.assert_frame_equal(tidy[["score", "value"]], frame[["score", "value"]], check_dtype=False)


def test_keep_curves_read_the_logits_of_a_dictionary():
    student, whole = model("ViT"), pixels()
    maps = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    curve = keep_curve(student, whole, torch.arange(N) % 3, maps, shares=(0.5,))
    plain = keep_curve(lambda x: student(x).logits, whole, torch.arange(N) % 3, maps, shares=(0.5,))
    assert torch.equal(torch.as_tensor(curve.accuracy), torch.as_tensor(plain.accuracy))


@pytest.mark.parametrize("size", [(32, 48), (64, 32)])
def test_tokens_merged_two_by_two_keep_the_grid_of_an_oblong_image(size):
    """Swin merges 2 x 2 tokens as (N, T, C): no layer shows the later grids, and none is a square."""
    x = pixels(size=size)
    maps = UniCAM(model("Swin", 1), "swin.layernorm", model("Swin", 2)).attribute(x, torch.arange(N) % 3)
    assert maps.shape == (N, 1, size[0] // 8, size[1] // 8)
    changed = x.clone()
    changed[:, :, :8, -8:] += 3
    student = model("Swin", 1)
    seen = []
    unicam = UniCAM(student, "swin.layernorm", model("Swin", 2), feature_transform=lambda a: seen.append(a) or a.mean((2, 3)))
    first = []
    for images in (x, changed):
        first.append(len(seen))
        unicam.attribute(images, torch.arange(N) % 3)
    change = (seen[first[1]] - seen[first[0]]).square().sum((0, 1))
    assert divmod(int(change.argmax()), size[1] // 8) == (0, size[1] // 8 - 1)
