"""The explorer of maps in Chromium: every control does what its label says."""

import re
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Browser, Page
from torch import Tensor

from captum_kd.attr import InputMaps
from captum_kd.visualization._panels import scale_tops
from explorer_pages import HOSTILE, image_maps, page, random, report_inputs, text_maps

pytestmark = pytest.mark.browser

Open = Callable[..., Page]


@pytest.fixture()
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; in the end there must be no message on its console, no dialog and no request."""
    problems: list[str] = []
    contexts = []

    def opened(maps: InputMaps, inputs: Optional[dict[str, Any]] = None, *, width: int = 1280, **options: Any) -> Page:
        tmp_path.joinpath("page.html").write_text(page(maps, inputs), encoding="utf-8")
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: problems.append(dialog.message))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
        tab.goto(f"file://{tmp_path}/page.html")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def panel(tab: Page, title: str) -> Any:
    return tab.locator(f'figure.panel[data-title="{title}"]')


def canvas_pixels(tab: Page, title: str) -> Tensor:
    """(H, W, 3) bytes."""
    content = panel(tab, title).locator("canvas").evaluate("canvas => canvas.toDataURL().split(',')[1]")
    return torch.from_numpy(np.array(Image.open(BytesIO(b64decode(content))).convert("RGB"))).int()


def choice(tab: Page, label: str) -> Any:
    return tab.get_by_role("combobox", name=label, exact=True)


def choose(tab: Page, label: str, option: str) -> None:
    choice(tab, label).select_option(label=option)


def set_opacity(tab: Page, value: float) -> None:
    tab.get_by_label("Opacity of the map").fill(str(value))


def thumbnails(tab: Page) -> list[int]:
    """The inputs in the order in which they are shown."""
    return [int(button.get_attribute("data-input") or -1) for button in tab.locator(".strip button").all()]


def value_below(tab: Page, title: str) -> tuple[str, float, str]:
    """Where, how much, in which unit."""
    text = panel(tab, title).locator(".value").text_content() or ""
    found = re.fullmatch(r"(.*): ([+\u2212]?[0-9.e\u2212-]+) ?(.*)", text)
    assert found is not None, text
    return found[1], float(found[2].replace("\u2212", "-")), found[3]


def hover(tab: Page, title: str, x: float, y: float) -> None:
    box = panel(tab, title).locator("canvas").bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


# ----------------------------------------------------------------------------- maps


def test_opacity_goes_from_the_image_to_the_map(opened):
    maps = image_maps(masks=None)
    tab = opened(maps)
    assert maps.images is not None
    set_opacity(tab, 0)
    expected = (maps.images[0] * 255).round().byte().permute(1, 2, 0).repeat_interleave(10, 0).repeat_interleave(10, 1)
    assert (canvas_pixels(tab, "net") == expected).all()
    set_opacity(tab, 1)
    first = canvas_pixels(tab, "net")
    tab.locator(".strip button").nth(1).click()
    tab.locator(".strip button").nth(0).click()
    assert (canvas_pixels(tab, "net") == first).all()
    # The color at the largest value is the end of the scale, red or blue; no pixel of the image shines through.
    values = maps.maps["layer3"]["kd", "base"]["net"][0, 0]
    row, column = divmod(int(values.abs().argmax()), 4)
    red, _, blue = first[row * 80 + 40, column * 80 + 40].tolist()
    assert (red > blue) == bool(values[row, column] > 0)
    set_opacity(tab, 0.5)
    between = canvas_pixels(tab, "net")
    assert not (between == expected).all() and not (between == first).all()


def test_blocks_have_one_color_and_smooth_maps_are_interpolated(opened):
    tab = opened(image_maps(masks=None))
    set_opacity(tab, 1)
    smooth = canvas_pixels(tab, "net")
    tab.get_by_label("smooth").uncheck()
    blocks = canvas_pixels(tab, "net")
    assert all(len(block.reshape(-1, 3).unique(dim=0)) == 1 for rows in blocks.split(80) for block in rows.split(80, 1))
    assert (smooth[40::80, 40::80] - blocks[40::80, 40::80]).abs().max() <= 4
    assert len(smooth[:80, :80].reshape(-1, 3).unique(dim=0)) > 10


def test_smooth_maps_are_those_of_captums_interpolation(opened):
    values = torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]])
    tab = opened(image_maps(1, maps={"a": {("s", "b"): {"m": values}}}, masks=None, predictions=None))
    set_opacity(tab, 1)
    expected = torch.nn.functional.interpolate(values, (320, 320), mode="bilinear")[0, 0]
    colors = torch.from_numpy(colormaps["RdBu_r"](((expected + 1) / 2).numpy())[..., :3] * 255)
    assert (canvas_pixels(tab, "m") - colors).abs().max() < 4


def test_toggles_hide_maps(opened):
    tab = opened(image_maps())
    for title in ("net", "distilled", "Grad-CAM"):
        assert panel(tab, title).is_visible()
        tab.get_by_label(title, exact=True).uncheck()
        assert not panel(tab, title).is_visible()
        tab.get_by_label(title, exact=True).check()
        assert panel(tab, title).is_visible()


def test_a_map_that_the_pair_lacks_cannot_be_chosen(opened):
    maps = {"a": {("s", "b"): {"net": random(4, 1, 2, 2)}, ("s", "c"): {"distilled": random(4, 1, 2, 2)}}}
    tab = opened(image_maps(4, maps=maps))
    assert panel(tab, "net").is_visible() and not panel(tab, "distilled").is_visible()
    assert tab.get_by_label("distilled", exact=True).is_disabled()
    choose(tab, "Base", "c")
    assert panel(tab, "distilled").is_visible() and not panel(tab, "net").is_visible()


def test_the_outline_can_be_hidden(opened):
    tab = opened(image_maps())
    set_opacity(tab, 0)
    with_outline = canvas_pixels(tab, "net")
    assert with_outline[80, 120].tolist() == [255, 255, 255]  # the mask's upper border
    tab.get_by_label("outline of the object").uncheck()
    assert not (canvas_pixels(tab, "net") == with_outline).all()


# ----------------------------------------------------------------------------- values


PAIRS = [("kd", "base", "layer3"), ("kd", "base 2", "layer4"), (HOSTILE, "base", "layer4")]
GAIN = "gain of J per position"


@pytest.mark.parametrize("student, base, layer", PAIRS)
def test_hovering_shows_the_value_of_the_chosen_map(opened, student, base, layer):
    maps = image_maps()
    tab = opened(maps)
    choose(tab, "Student", student)
    choose(tab, "Base", base)
    choose(tab, "Layer", layer)
    tab.locator(".strip button").nth(5).click()
    for title, row, column, unit in [("net", 0, 3, GAIN), ("distilled", 2, 1, GAIN), ("Grad-CAM", 1, 2, "")]:
        values = maps.maps[layer][student, base][title][5, 0]
        height, width = values.shape
        hover(tab, title, (column + 0.5) / width, (row + 0.5) / height)
        where, value, in_unit = value_below(tab, title)
        assert where == f"row {row + 1} of {height}, column {column + 1} of {width}"
        # Half a level, and half of the last of three digits.
        assert value == pytest.approx(float(values[row, column]), abs=float(values.abs().max()) / 253, rel=0.005)
        assert in_unit == unit
        assert all(panel(tab, other).locator(".cell").is_visible() for other in ("net", "distilled", "Grad-CAM"))
    tab.mouse.move(0, 0)
    assert not panel(tab, "net").locator(".cell").is_visible()


def test_arrow_keys_read_values_without_a_pointer(opened):
    maps = image_maps()
    tab = opened(maps)
    panel(tab, "net").locator("canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
    assert value_below(tab, "net")[0] == "row 2 of 4, column 2 of 4"
    assert value_below(tab, "Grad-CAM")[0] == "row 2 of 3, column 2 of 3"


def ends(tab: Page, title: str) -> list[str]:
    found: list[str] = panel(tab, title).locator(".ends span").all_text_contents()
    return found


def test_scales_are_of_all_images_or_of_this_one(opened):
    maps = image_maps()
    tab = opened(maps)
    arrays = {title: values[:, 0].numpy() for title, values in maps.maps["layer3"]["kd", "base"].items()}
    groups = [["net", "distilled"], ["Grad-CAM"]]
    for option, chosen in (("all images", slice(None)), ("this image", slice(0, 1))):
        choose(tab, "Color scale of", option)
        # Titles of a group have different numbers of values, but of one grid here.
        tops = scale_tops({title: values[chosen] for title, values in arrays.items()}, groups, "all", 2.0)
        for title in arrays:
            low, zero, high = ends(tab, title)
            assert (low, zero) == (high.replace("+", "\u2212"), "0")
            assert float(high) == pytest.approx(tops[title][0], rel=0.012)
        assert ends(tab, "net") == ends(tab, "distilled") != ends(tab, "Grad-CAM")


# ----------------------------------------------------------------------------- inputs


def test_sorting(opened):
    tab = opened(image_maps(), report_inputs())
    assert thumbnails(tab) == list(range(8))
    choose(tab, "Sorted by", "class")
    assert thumbnails(tab) == [0, 3, 6, 1, 4, 7, 2, 5]
    choose(tab, "Sorted by", "largest part in distilled")
    assert thumbnails(tab) == list(range(8))[::-1]
    assert "it is unknown whether another seed" in (tab.locator(".note").first.text_content() or "")
    assert "rank 8 of 8" in (tab.locator(".facts").first.text_content() or "")
    choose(tab, "Sorted by", "right and wrong predictions")
    # Student right, Base wrong: 4, 6; both right: 0, 2; both wrong: 5, 7; Student wrong, Base right: 1, 3
    assert thumbnails(tab) == [4, 6, 0, 2, 5, 7, 1, 3]
    assert tab.locator(".note").first.text_content() == ""
    # Parts are not known at the other layer.
    choose(tab, "Sorted by", "largest part in distilled")
    choose(tab, "Layer", "layer4")
    assert thumbnails(tab) == list(range(8))
    assert choice(tab, "Sorted by").input_value() == "order"


def test_filters(opened):
    tab = opened(image_maps())
    shown = {
        "Student right, Base wrong (2)": [4, 6], "Student wrong, Base right (2)": [1, 3], "both right (2)": [0, 2],
        "both wrong (2)": [5, 7], "all (8)": list(range(8)),
    }  # fmt: skip
    for option, inputs in shown.items():
        choose(tab, "Inputs", option)
        assert thumbnails(tab) == inputs
        assert int(tab.locator('.strip [aria-pressed="true"]').get_attribute("data-input") or -1) in inputs
    choose(tab, "Inputs", "both right (2)")
    choose(tab, "Base", "base 2")  # has no predictions
    assert thumbnails(tab) == list(range(8))


def test_a_filter_without_inputs_says_so(opened):
    labels = torch.arange(8) % 3
    tab = opened(image_maps(predictions={"kd": labels, "base": labels}))
    choose(tab, "Inputs", "both wrong (0)")
    assert thumbnails(tab) == []
    assert tab.get_by_text("No image of this kind.").is_visible() and not panel(tab, "net").is_visible()
    choose(tab, "Inputs", "all (8)")
    assert panel(tab, "net").is_visible()


def test_arrow_keys_choose_the_input(opened):
    tab = opened(image_maps())
    tab.locator(".strip button").first.focus()
    for key, expected in [("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("End", 7), ("ArrowRight", 7), ("Home", 0)]:
        tab.keyboard.press(key)
        assert tab.locator('.strip [aria-pressed="true"]').get_attribute("data-input") == str(expected)
        assert tab.evaluate("document.activeElement.dataset.input") == str(expected)


def test_true_class_and_predictions_are_beside_the_image(opened):
    tab = opened(image_maps())
    tab.locator(".strip button").nth(4).click()
    rows = [row.locator("th, td").all_text_contents() for row in tab.locator(".facts tr").all()]
    assert rows[:2] == [["true class", "dog", ""], ["kd (Student)", "dog", "right"]]
    assert rows[2:] == [["base (Base)", HOSTILE, "wrong"], ["teacher", "dog", "right"]]


def test_missing_pairs_cannot_be_chosen(opened):
    tab = opened(image_maps())
    choose(tab, "Base", "base 2")
    choose(tab, "Student", HOSTILE)
    assert choice(tab, "Base").input_value() == "base"
    assert choice(tab, "Base").locator("option").all_text_contents() == ["base"]


# ----------------------------------------------------------------------------- texts


def test_words_have_the_colors_and_values_of_their_maps(opened):
    maps = text_maps()
    tab = opened(maps)
    words = panel(tab, "net").locator("[data-word]")
    assert words.all_text_contents() == ["[CLS]", "where", "is", "mozambique", "?", "[SEP]"]
    values = maps.maps["encoder.1"]["kd", "base"]["net"][0, 0]
    words.nth(3).hover()
    where, value, unit = value_below(tab, "net")
    largest = max(abs(float(values[3:6].sum())), float(values.abs().max()))
    assert (where, unit) == ("mozambique", "gain of J per word")
    assert value == pytest.approx(float(values[3:6].sum()), abs=largest / 253, rel=0.005)
    assert value_below(tab, "residual")[0] == "mozambique"
    color = words.nth(3).evaluate("word => getComputedStyle(word).backgroundColor")
    red, _, blue = map(int, re.findall(r"\d+", color))
    assert (red > blue) == (value > 0)
    assert tab.get_by_label("Opacity of the map").count() == 0
    tab.get_by_label("net", exact=True).uncheck()
    assert not panel(tab, "net").is_visible()


def test_arrow_keys_read_words(opened):
    tab = opened(text_maps())
    panel(tab, "net").locator(".words").focus()
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    assert value_below(tab, "net")[0] == "mozambique"


# ----------------------------------------------------------------------------- everybody


@pytest.mark.parametrize("width", [390, 768, 1280, 1600])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("make", [image_maps, text_maps])
def test_nothing_is_wider_than_the_page(opened, make, color_scheme, width):
    tab = opened(make(), report_inputs(), width=width, color_scheme=color_scheme)
    if make is image_maps:
        choose(tab, "Student", HOSTILE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_without_javascript_shows_a_picture(opened):
    tab = opened(image_maps(), java_script_enabled=False)
    picture = tab.get_by_role("img")
    assert picture.count() == 1 and picture.is_visible()
    assert "the first 6 of 8 inputs" in tab.locator("figcaption").inner_text()
    tab = opened(text_maps(), java_script_enabled=False)
    assert tab.get_by_text("mozambique").first.is_visible()


@pytest.mark.parametrize("make", [image_maps, text_maps])
def test_every_control_has_a_label(opened, make):
    tab = opened(make(), report_inputs())
    for role in ("combobox", "slider", "checkbox", "button"):
        for control in tab.get_by_role(role).all():  # type: ignore[arg-type]
            assert re.match(rf"- '?{role} \"[^\"]", control.aria_snapshot()) is not None


def test_the_label_of_a_map_follows_the_choice(opened):
    maps = image_maps()
    tab = opened(maps)
    for place, layer, base in [(0, "layer3", "base"), (5, "layer4", "base 2")]:
        choose(tab, "Layer", layer)
        choose(tab, "Base", base)
        tab.locator(".strip button").nth(place).click()
        values = maps.maps[layer]["kd", base]["net"][place, 0]
        row, column = divmod(int(values.abs().argmax()), 4)
        name = f"image {place + 1}, {['cat', 'dog', HOSTILE][place % 3]}"
        label = panel(tab, "net").locator("canvas").get_attribute("aria-label") or ""
        assert label.startswith(f"net map of {name}, Student kd given Base {base} at {layer}: largest value ")
        assert label.endswith(f"at row {row + 1} of 4, column {column + 1} of 4")


def test_hostile_names_stay_text(opened):
    maps = {HOSTILE: {(HOSTILE, "__proto__"): {HOSTILE: random(8, 1, 2, 2), "__proto__": random(8, 1, 2, 2)}}}
    predictions = {"__proto__": torch.zeros(8).long(), HOSTILE: torch.ones(8).long()}
    tab = opened(image_maps(maps=maps, predictions=predictions), width=390)
    assert tab.locator('img[src="x"]').count() == 0
    assert tab.locator("figcaption", has_text=HOSTILE).is_visible()
    assert "__proto__ (Base)" in (tab.locator(".facts").first.text_content() or "")
