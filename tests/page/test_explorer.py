"""The explorer's HTML without JavaScript and its data, decoded as the script decodes them."""

import json
import re
from base64 import b64decode
from html import unescape
from io import BytesIO
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from captum_kd.attr import InputMaps
from captum_kd.page import explorer as module
from captum_kd.page.explorer import explorer
from explorer_pages import HOSTILE, image_maps, random, report_inputs, text_maps


def data_of(maps: InputMaps, inputs: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explorer(maps, inputs)[1])
    return found


def decoded(data: dict[str, Any], layer: str, pair: tuple[str, str], title: str) -> npt.NDArray[Any]:
    """(N, h, w) values of maps."""
    (places,) = (each[2] for each in data["pairs"][data["layers"].index(layer)] if tuple(each[:2]) == pair)
    stored = data["maps"][places[data["titles"].index(title)]]
    tops = np.frombuffer(b64decode(stored["tops"]), "<f4")
    levels = np.frombuffer(b64decode(stored["levels"]), np.int8).reshape(-1, int(stored["height"]), int(stored["width"]))
    return levels / 127 * tops[:, None, None]


# ----------------------------------------------------------------------------- maps


def test_maps_are_kept_at_their_own_resolution_within_half_a_level():
    maps = image_maps()
    data = data_of(maps)
    for layer, pairs in maps.maps.items():
        for pair, of_pair in pairs.items():
            for title, values in of_pair.items():
                found = decoded(data, layer, pair, title)
                step = values.abs().amax((1, 2, 3))[:, None, None].numpy() / 127
                assert found.shape == tuple(values[:, 0].shape)
                assert (np.abs(found - values[:, 0].numpy()) <= 0.5001 * step).all()


def test_equal_maps_are_kept_once():
    data = data_of(image_maps())
    # Two layers and three pairs with net and distilled maps of their own; one Grad-CAM of each Student at each layer.
    assert len(data["maps"]) == 2 * 3 * 2 + 2 * 2
    places = {tuple(pair[:2]): pair[2] for pair in data["pairs"][0]}
    assert places["kd", "base"][2] == places["kd", "base 2"][2] != places[HOSTILE, "base"][2]


@pytest.mark.parametrize("values", [torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 1e300, dtype=torch.float64)])
def test_extreme_maps_have_finite_values(values):
    data = data_of(image_maps(4, maps={"a": {("s", "b"): {"m": values}}}))
    assert np.isfinite(decoded(data, "a", ("s", "b"), "m")).all()


def test_half_precision_maps():
    values = random(4, 1, 2, 2).half()
    data = data_of(image_maps(4, maps={"a": {("s", "b"): {"m": values}}}))
    assert np.allclose(decoded(data, "a", ("s", "b"), "m"), values[:, 0].float().numpy(), atol=0.02)


def test_titles_that_only_some_pairs_have_are_missing_elsewhere():
    maps = {"a": {("s", "b"): {"net": random(4, 1, 2, 2)}, ("s", "c"): {"distilled": random(4, 1, 2, 2, seed=1)}}}
    data = data_of(image_maps(4, maps=maps))
    assert data["titles"] == ["net", "distilled"]
    assert [pair[2] for pair in data["pairs"][0]] == [[0, None], [None, 1]]


def test_layers_without_maps_are_left_out():
    maps = {"empty": {}, "a": {("s", "b"): {"net": random(4, 1, 2, 2)}}}
    html, text = explorer(image_maps(4, maps=maps))
    data = json.loads(text)
    assert data["layers"] == ["a"] and data["pairs"] == [[["s", "b", [0]]]]
    assert "Maps at a, Student s" in html


def test_scales_are_shared_in_groups_and_only_maps_of_gains_have_a_unit():
    data = data_of(image_maps())
    assert data["titles"] == ["net", "distilled", "Grad-CAM"]
    assert data["scales"] == [0, 0, 2]
    assert data["units"] == ["gain of J per position", "gain of J per position", ""]


def test_maps_that_are_not_said_to_have_a_unit_have_none():
    assert data_of(image_maps(units=None))["units"] == ["", "", ""]
    assert data_of(image_maps(units={"Grad-CAM": "a logit"}))["units"] == ["", "", "a logit"]


# ----------------------------------------------------------------------------- size


def test_sixty_images_of_thirty_pairs_at_three_layers_stay_below_three_megabytes():
    n, titles = 60, ["net", "distilled", "residual", "Grad-CAM of Student", "Grad-CAM of Base", "Grad-CAM of Teacher"]
    maps: dict[str, Any] = {}
    for layer in range(3):
        own = {title: random(n, 1, 8, 8, seed=layer) for title in titles[3:]}
        maps[f"layer{layer}"] = {
            (f"kd{student}", f"base{base}"): {
                "net": random(n, 1, 8, 8, seed=100 * layer + 10 * student + base),
                "distilled": random(n, 1, 8, 8, seed=1000 + 100 * layer + 10 * student + base),
                "residual": random(n, 1, 8, 8, seed=2000 + 100 * layer + 10 * student + base),
                "Grad-CAM of Student": own["Grad-CAM of Student"] + student,
                "Grad-CAM of Base": own["Grad-CAM of Base"] + base,
                "Grad-CAM of Teacher": own["Grad-CAM of Teacher"],
            }
            for student in range(6)
            for base in range(5)
        }
    smooth = torch.nn.functional.interpolate(random(n, 3, 28, 28), 224, mode="bicubic") / 4 + 0.5
    html, text = explorer(InputMaps(maps, smooth.clamp(0, 1)))
    data = json.loads(text)
    assert len(text) + len(html) < 3_000_000
    assert {(each["height"], each["width"]) for each in data["maps"]} == {("8", "8")}
    assert data["note"] == ""


def test_maps_that_do_not_fit_become_means_and_the_page_says_so(monkeypatch):
    values = random(4, 1, 32, 24)
    maps = image_maps(4, maps={"a": {("s", "b"): {"m": values}}})
    assert decoded(data_of(maps), "a", ("s", "b"), "m").shape == (4, 32, 24)
    monkeypatch.setattr(module, "ROOM", 20_000)
    data = data_of(maps)
    assert "more than 16 \u00d7 16 positions are shown as means" in data["note"]
    found = decoded(data, "a", ("s", "b"), "m")
    assert found.shape == (4, 16, 16)
    # Rows 0 and 1, and the columns 0 and 1 (24 columns in 16 blocks: 1.5 each, rounded outwards).
    assert found[0, 0, 0] == pytest.approx(float(values[0, 0, :2, :2].mean()), abs=float(values.abs().max()) / 127)


def test_small_maps_stay_as_they_are_if_there_is_no_room(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 0)
    data = data_of(image_maps())
    assert data["note"] == "" and data["maps"][0]["height"] == "4"


# ----------------------------------------------------------------------------- inputs


def test_images_are_webp_of_at_most_160_pixels():
    data = data_of(image_maps(2, side=300, indices=None))
    pictures = [Image.open(BytesIO(b64decode(each))) for each in data["images"]]
    assert [(each.format, each.size) for each in pictures] == [("WEBP", (160, 160))] * 2


def test_small_images_are_kept_without_loss():
    maps = image_maps(2)
    assert maps.images is not None
    (picture, _) = (np.asarray(Image.open(BytesIO(b64decode(each)))) for each in data_of(maps)["images"])
    assert (picture == (maps.images[0] * 255).round().byte().permute(1, 2, 0).numpy()).all()


def test_gray_images_are_accepted():
    assert len(data_of(image_maps(2, images=torch.rand(2, 1, 32, 32)))["images"]) == 2


def test_images_that_are_not_between_0_and_1_are_an_error():
    images = torch.rand(8, 3, 32, 32)
    images[7, 0, 0, 0] = 3.0  # not among the images of the static picture
    with pytest.raises(ValueError, match="between 0 and 1, got values from .* to 3. Undo the normalization"):
        explorer(image_maps(images=images))


def test_outlines_are_the_bits_of_the_masks():
    maps = image_maps(2)
    assert maps.masks is not None
    outlines = data_of(maps)["outlines"]
    bits = np.unpackbits(np.frombuffer(b64decode(outlines["bits"]), np.uint8))[: 2 * 32 * 32].reshape(2, 32, 32)
    assert (outlines["height"], outlines["width"]) == (32, 32)
    assert (bits == maps.masks.numpy()).all()


def test_classes_have_their_names_or_numbers():
    data = data_of(image_maps(3, class_names=["cat"]))
    assert data["classes"] == {"0": "cat", "1": "class 1", "2": "class 2"}


def test_parts_of_inputs_are_found_by_their_indices():
    (order,) = (each for each in data_of(image_maps(3), report_inputs(8))["orders"] if each["text"] == "part in distilled")
    assert order["layers"] == [[0.0, 0.01, 0.02], [None, None, None]]
    assert "it is unknown whether another seed" in order["cautions"][0] and order["cautions"][1] == ""


def test_parts_of_groups_of_students_have_the_name_of_the_group():
    inputs = report_inputs(3)
    inputs["rows"] += [{**row, "group_of_students": HOSTILE, "distilled": 1.0} for row in inputs["rows"]]
    texts = [each["text"] for each in data_of(image_maps(3), inputs)["orders"]]
    assert f"part in distilled ({HOSTILE})" in texts


def test_without_indices_or_parts_there_is_no_such_order():
    assert data_of(image_maps(indices=None), report_inputs())["orders"] == []
    assert data_of(image_maps())["orders"] == []


# ----------------------------------------------------------------------------- texts


def test_pieces_are_joined_and_their_values_added():
    maps = text_maps()
    data = data_of(maps)
    assert [word[0] for word in data["words"][0]] == ["[CLS]", "where", "is", "mozambique", "?", "[SEP]"]
    values = maps.maps["encoder.1"]["kd", "base"]["net"][0, 0]
    expected = [values[0], values[1], values[2], values[3:6].sum(), values[6], values[7]]
    found = decoded(data, "encoder.1", ("kd", "base"), "net")[0, 0]
    assert np.allclose(found[:6], expected, atol=float(max(map(abs, expected))) / 254 * 1.001)
    assert data["units"] == ["gain of J per word"] * 2


def test_sentences_are_shown_without_javascript():
    html, _ = explorer(text_maps())
    assert re.search(r'title="moz ##amb ##ique: [^"]*">mozambique<', html)
    assert unescape(html).count(HOSTILE.replace(" ", "_")) > 0 and "<img" not in html
    assert "<h3" in html and "text 1, place" in html


# ----------------------------------------------------------------------------- without JavaScript


def test_the_first_inputs_are_shown_as_a_picture_with_words_for_it():
    html, _ = explorer(image_maps())
    picture = re.search(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]+)">', html)
    assert picture is not None
    assert Image.open(BytesIO(b64decode(picture[1]))).format == "WEBP"
    alt = unescape(picture[2])
    assert "Maps at layer3, Student kd given Base base: the first 6 of 8 inputs." in alt
    assert "image 1, cat, kd: cat, base: cat" in alt


def test_names_cannot_become_markup():
    maps = image_maps(
        maps={HOSTILE: {(HOSTILE, "\u202ebase"): {HOSTILE: random(8, 1, 2, 2)}}}, predictions={HOSTILE: torch.zeros(8).long()}
    )
    html, text = explorer(maps, report_inputs())
    assert html.count("<img") == 1 and "</script" not in html and "\u202e" not in html
    assert "<" not in text and json.loads(text)["layers"] == [HOSTILE]
    assert json.loads(text)["pairs"][0][0][1] == "\\u202ebase"


def test_nothing_is_changed():
    maps = image_maps()
    before = maps.maps["layer3"]["kd", "base"]["net"].clone()
    state = torch.random.get_rng_state()
    explorer(maps, report_inputs())
    assert torch.equal(before, maps.maps["layer3"]["kd", "base"]["net"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_script_and_the_style_are_beside_the_module():
    from importlib.resources import files

    for name in (*module.SCRIPTS, *module.STYLES):
        assert files("captum_kd.page").joinpath(name).is_file()
