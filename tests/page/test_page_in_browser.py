"""A report's page in Chromium: widths, tables, words, points, files, keyboard, and without JavaScript."""

import gzip
import json
import re
from pathlib import Path
from typing import Any, Callable

import pytest

from captum_kd.page import PageTable, Section
from explorer_pages import image_maps
from report_pages import HOSTILE, full_report, small_report

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
OWN = PageTable(
    ["name", "number"], [["b", 2.0], ["a", None], ["c 10", -1.5], ["c 9", 10]], "Own", "FSS and the placebo Teachers of it."
)


@pytest.fixture(scope="module")
def full() -> str:
    return full_report().to_html(maps=image_maps())


@pytest.fixture(scope="module")
def small() -> str:
    return small_report().to_html(sections=[Section("Own part", [OWN], "verdict")])


def own_table(tab: Any) -> list[list[str]]:
    return [row.locator("td").all_text_contents() for row in tab.locator("#section-own-part tbody tr").all()]


@pytest.mark.parametrize("width", [390, 768, 1280, 1600])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page(opened_page: Open, full: str, color_scheme: str, width: int):
    tab = opened_page(full, width=width, color_scheme=color_scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened_page: Open, full: str, color_scheme: str):
    """WCAG 2.2, level AA: 4.5 for the text of each kind of element, outside of pictures."""
    tab = opened_page(full, color_scheme=color_scheme)
    found = tab.evaluate("""() => {
        const channels = (color) => color.match(/[\\d.]+/g).map(Number);
        const light = (color) => {
            const [r, g, b] = color.slice(0, 3).map((part) => part / 255)
                .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const behind = (element) => {
            for (let each = element; each; each = each.parentElement) {
                const color = channels(getComputedStyle(each).backgroundColor);
                if (color.length < 4 || color[3] > 0) return color;
            }
        };
        return [...document.querySelectorAll("h1, h2, h3, p, li, a, th, td, summary, figcaption, dt, dd, button, label")]
            .filter((each) => each.textContent.trim() && !each.closest("svg, canvas"))
            .map((each) => {
                const pair = [light(channels(getComputedStyle(each).color)), light(behind(each))].sort((a, b) => b - a);
                return [(pair[0] + .05) / (pair[1] + .05), each.tagName, each.className];
            }).filter(([contrast]) => contrast < 4.5).slice(0, 5);
    }""")
    assert found == []


def test_a_click_sorts_a_table_and_missing_values_are_last(opened_page: Open, small: str):
    tab = opened_page(small)
    before = own_table(tab)
    tab.get_by_role("button", name="Sort by number").click()
    assert [row[1] for row in own_table(tab)] == ["-1.500", "2.000", "10", "\u2013"]
    assert tab.locator('#section-own-part [aria-sort="ascending"]').text_content().startswith("number")
    tab.get_by_role("button", name="Sort by number").press("Enter")
    assert [row[1] for row in own_table(tab)] == ["10", "2.000", "-1.500", "\u2013"]
    tab.get_by_role("button", name="Sort by name").click()
    assert [row[0] for row in own_table(tab)] == ["a", "b", "c 9", "c 10"]
    assert tab.locator("#section-own-part [aria-sort]").count() == 1 and len(before) == 4


def test_tables_unfold(opened_page: Open, full: str):
    tab = opened_page(full)
    summary = tab.locator("summary", has_text="Seed control").first
    table = tab.get_by_role("region", name="Seed control", exact=True)
    assert not table.is_visible()
    summary.focus()
    tab.keyboard.press("Enter")
    assert table.is_visible()
    summary.click()
    assert not table.is_visible()


@pytest.mark.parametrize("by", ["pointer", "keyboard"])
def test_definitions_are_shown_on_hover_and_focus(opened_page: Open, small: str, by: str):
    tab = opened_page(small)
    word, tip = tab.locator("#section-own-part a.word", has_text="placebo Teachers"), tab.locator("#tip")
    assert not tip.is_visible()
    word.hover() if by == "pointer" else word.focus()
    assert tip.text_content() == tab.locator("#word-placebo-teacher + dd").text_content()
    assert tip.is_visible() and word.get_attribute("aria-describedby") == "tip"
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    word.click()
    assert tab.url.endswith("#word-placebo-teacher")


def test_points_of_drawings_have_words(opened_page: Open, full: str):
    tab = opened_page(full)
    drawing, tip = tab.locator("svg.drawing").first, tab.locator("#tip")
    drawing.locator(".point use").first.hover(force=True)
    first = tip.text_content()
    assert tip.is_visible() and re.search(r": -?\d\.\d{3}$", first)
    tab.mouse.move(0, 0)
    drawing.focus()
    tab.keyboard.press("ArrowRight")
    assert tip.is_visible() and tab.locator("#live").text_content() == tip.text_content() == first
    tab.keyboard.press("ArrowRight")
    assert tip.text_content() != first
    tab.keyboard.press("Tab")
    assert drawing.locator(".current").count() == 0


@pytest.mark.parametrize("has_scripts", [True, False])
def test_files_have_their_content(opened_page: Open, small: str, has_scripts: bool):
    tab = opened_page(small, java_script_enabled=has_scripts)
    report = small_report()
    for name, check in [
        ("rows.csv", lambda text: text == report.to_csv()),
        ("report.json", lambda text: json.loads(text) == json.loads(report.to_json())),
        ("own.csv", lambda text: text.splitlines()[0] == "name,number"),
    ]:
        with tab.expect_download() as waiting:
            tab.locator("a.file", has_text=name).click()
        content = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename == (name if has_scripts else f"{name}.gz")
        assert check((content if has_scripts else gzip.decompress(content)).decode())


def test_contents_lead_to_sections(opened_page: Open, full: str):
    tab = opened_page(full)
    for link in tab.get_by_role("navigation", name="Contents").get_by_role("link").all():
        link.click()
        assert tab.evaluate("document.querySelector(':target') !== null"), link.text_content()


def test_hostile_names_stay_text(opened_page: Open, full: str):
    tab = opened_page(full)
    assert tab.locator('img[src="x"]').count() == 0
    assert tab.get_by_text(HOSTILE.replace("\u202e", "\\u202e")).first.is_visible()


def test_the_page_can_be_read_without_javascript(opened_page: Open, full: str):
    tab = opened_page(full, java_script_enabled=False)
    for sentence in full_report().verdict:
        assert sentence.replace("\u202e", "\\u202e") in tab.locator("#verdict").inner_text()
    assert tab.locator("#maps img").first.is_visible() and tab.locator("svg.drawing").first.is_visible()
    tab.locator("summary", has_text="Seed control").first.click()
    assert tab.get_by_role("region", name="Seed control", exact=True).is_visible()


def test_the_explorer_works_inside_the_page(opened_page: Open, full: str):
    tab = opened_page(full)
    assert tab.locator("#maps canvas").count() > 1
    tab.get_by_role("combobox", name="Layer", exact=True).select_option(label="layer4")
    assert tab.locator("#maps canvas").first.is_visible()


def test_landmarks_and_names(opened_page: Open, full: str):
    tab = opened_page(full)
    for role, count in (("main", 1), ("navigation", 1), ("banner", 1)):
        assert tab.get_by_role(role).count() == count
    tree = tab.locator("body").aria_snapshot()
    assert not re.search(r"- (button|link|combobox|slider|checkbox|region)\s*(:|$)", tree, flags=re.M)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the verdict"
