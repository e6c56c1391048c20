"""The page of a report: its order, its size, and that names stay text."""

import base64
import csv
import gzip
import io
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from captum_kd.metrics import KeepCurve, TransferReport
from captum_kd.page import Download, Folded, PageTable, Paragraphs, Picture, Section
from captum_kd.page.figures import drawing
from captum_kd.page.glossary import GLOSSARY, with_links
from captum_kd.page.render import PAGE_LIMIT
from explorer_pages import image_maps
from report_pages import HOSTILE, full_report, small_report


class Reader(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Optional[str]]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, Optional[str]]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def full() -> str:
    return full_report().to_html(maps=image_maps(60, 224, 14))


def files_in(page: str) -> dict[str, str]:
    """The downloads of a page that have content."""
    return {
        str(link["download"]).removesuffix(".gz"): gzip.decompress(
            base64.b64decode(str(link["href"]).partition("base64,")[2])
        ).decode()
        for link in Reader(page).of("a")
        if "download" in link
    }


def test_the_verdict_comes_first(full):
    order = ['id="verdict"', 'id="maps"', 'id="curves"', 'id="tables"', 'id="settings"', 'id="downloads"', 'id="glossary"']
    places = [full.index(each) for each in order]
    assert places == sorted(places)
    text = "".join(Reader(full[places[0] : places[1]]).text)
    for sentence in full_report().verdict:
        assert sentence.replace("\u202e", "\\u202e") in text


def test_cautions_are_beside_the_verdict_and_other_notes_at_the_end(full):
    report = full_report()
    first = report.settings["cautions"]
    assert first and len(report.notes) > first
    verdict = "".join(Reader(full[: full.index('id="maps"')]).text)
    end = "".join(Reader(full[full.index('id="settings"') :]).text)
    for number, note in enumerate(report.notes):
        assert (note.replace("\u202e", "\\u202e") in (verdict if number < first else end)), note


def test_names_stay_text(full):
    reader = Reader(full)
    assert not [tag for tag, attributes in reader.tags if any(name.startswith("on") for name in attributes)]
    assert all(str(each["src"]).startswith("data:") for each in reader.of("img"))
    assert "\u202e" not in full
    assert '<img src=x onerror=alert(1)></script>"\'\\u202eabc' in "".join(reader.text)


def test_nothing_is_loaded(full):
    reader = Reader(full)
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "poster"):
            if attributes.get(name) is not None:
                assert str(attributes[name]).startswith(("#", "data:")), (tag, attributes[name])
    styles = "".join(re.findall(r"<style>(.*?)</style>", full, flags=re.S))
    assert "url(" not in styles and "@import" not in styles


def test_ids_are_unique_and_links_lead_somewhere(full):
    reader = Reader(full)
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    targets = [str(each["href"])[1:] for tag in ("a", "use") for each in reader.of(tag) if str(each.get("href")).startswith("#")]
    targets += [str(each["xlink:href"])[1:] for each in reader.of("use") if "xlink:href" in each]
    assert targets and set(targets) <= set(ids)


def test_headings_do_not_skip_a_level(full):
    levels = [int(tag[1]) for tag, _ in Reader(full).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def test_downloads_are_what_the_report_writes(full):
    report, files = full_report(), files_in(full)
    assert files["rows.csv"] == report.to_csv()
    assert json.loads(files["report.json"]) == json.loads(report.to_json())
    for table in ("classes", "inputs", "similarities"):
        assert files[f"{table}.csv"] == report.to_csv(table=table)


def test_large_downloads_are_left_out_and_named():
    report = small_report()
    noise = base64.b64encode(random.Random(0).randbytes(5_000_000)).decode()
    large = TransferReport(report.rows, None, report.notes, report.settings, {"tests": [], "shares": [noise]})
    page = large.to_html()
    assert "rows.csv" in files_in(page) and "report.json" not in files_in(page)
    assert "would make this page too large" in page


def test_a_page_with_everything_for_60_images_is_small(full):
    assert len(full.encode()) <= PAGE_LIMIT


def test_equal_reports_give_equal_pages():
    assert small_report().to_html() == small_report().to_html()


def test_a_report_of_two_networks_has_no_answers_but_scores():
    page = small_report().to_html(title="Two networks")
    text = "".join(Reader(page).text)
    assert "<title>Two networks</title>" in page
    assert "Answers" not in text and "Similarity and relevance" in text and 'id="maps"' not in page


def test_own_sections_are_shown_at_their_place(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    figure = Figure()
    figure.subplots().plot([0.0, 1.0], [0.25, 0.75], "o-", label="<b>own</b>")
    sections = [
        Section("Own <b>part</b>", [
            Paragraphs(["A <b>text</b>."]),
            PageTable(["name", "value"], [["=1+1", 0.123456], [None, 2]], "Own table", thumbnails=[b"\xff\xd8\xff0", b"RIFF0"]),
            Picture(tmp_path / "red.png", "A red field", is_photographic=True),
            Picture(figure, "A line"),
            Folded("Folded", [Download("own.txt", "content")]),
        ], "curves"),
        Section("Own <b>part</b>", [Paragraphs(["At the end."])], "settings"),
    ]  # fmt: skip
    page = small_report().to_html(sections=sections)
    assert page.index('id="curves"') < page.index('id="section-own-b-part-b"') < page.index('id="tables"')
    assert page.index('id="settings"') < page.index('id="section-own-b-part-b-2"')
    assert "Own <b>" not in page and "A <b>text" not in page and "data:image/webp" in page
    files = files_in(page)
    assert files["own.txt"] == "content"
    assert list(csv.reader(io.StringIO(files["own_table.csv"])))[1:] == [["'=1+1", "0.123456"], ["", "2"]]


def test_keep_curves_are_drawn():
    correct = torch.tensor([[True, False, False, False], [True, True, True, False]])
    curve = KeepCurve(
        torch.tensor([0.5, 1.0]), correct.float().mean(1), torch.tensor(0.5), torch.tensor(0.1), torch.rand(4), correct
    )
    page = small_report().to_html(curves={HOSTILE: curve})
    assert "Keep curves" in page and "50%: 0.250" in page


@pytest.mark.parametrize("make, error, message", [
    (lambda: Section("a", [], "middle"), ValueError, "place must be"),
    (lambda: PageTable(["a", "b"], [[1]]), ValueError, "2 columns, but row 0 has 1"),
    (lambda: PageTable(["a"], [[1]], thumbnails=[b"", b""]), ValueError, "1 rows, but 2 thumbnails"),
    (lambda: Section("a", ["text"]), TypeError, "blocks must be a list of Paragraphs"),
    (lambda: Paragraphs("text"), TypeError, "texts must be a list of texts"),
    (lambda: PageTable(["a"], [[[1]]]), TypeError, r"rows must hold texts, numbers or None, got \[1\] in row 0"),
    (lambda: small_report().to_html(sections=[Section("a", [PageTable(["a"], [[1]], thumbnails=[b"GIF"])])]), ValueError, "PNG"),
])  # fmt: skip
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ----------------------------------------------------------------------------- drawings


def test_points_have_the_words_of_their_values():
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], [0.125, 0.5], "o", label="net <b>")
    axis.set_xticks([0, 1], ["layer3", "layer4"])
    axis.set_title("kd")
    text = drawing(figure, "a", "alt")
    assert re.findall(r"<title>(.*?)</title>", text) == ["kd, net &lt;b&gt;, layer3: 0.125", "kd, net &lt;b&gt;, layer4: 0.500"]
    assert figure.axes[0].lines[0].get_gid() is None


def test_drawings_have_text_and_no_traces_of_this_machine():
    figure = Figure()
    figure.subplots().set_title("a title <i>")
    text = drawing(figure, "a", "what it shows")
    assert "a title &lt;i&gt;" in text and "<metadata" not in text and "Matplotlib" not in text
    assert all(each.startswith(".as") for each in re.findall(r"[^{}>]+(?={)", text))  # rules for this drawing only
    assert text == drawing(figure, "a", "what it shows")
    assert 'aria-label="what it shows"' in text


# ----------------------------------------------------------------------------- glossary


def test_every_word_is_linked_once_to_one_definition():
    found = with_links("FSS & RS, then FSS; a placebo Teacher, the Teacher, a Teacherless <b>.")
    assert re.findall(r'href="#([^"]*)">([^<]*)', found) == [
        ("word-fss", "FSS"), ("word-rs", "RS"), ("word-placebo-teacher", "placebo Teacher"), ("word-teacher", "Teacher"),
    ]  # fmt: skip
    assert "&amp;" in found and "&lt;b&gt;" in found
    assert len({term.anchor for term in GLOSSARY}) == len(GLOSSARY)
    spellings = [spelling for term in GLOSSARY for spelling in (term.word, *term.other)]
    assert len(set(spellings)) == len(spellings)


# ----------------------------------------------------------------------------- the package


def test_the_package_has_the_files_of_pages():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    named = {each.strip() for each in setup["options.package_data"]["captum_kd.page"].split(",")}
    folder = Path(with_links.__code__.co_filename).parent
    assert named == {path.name for path in folder.iterdir() if path.suffix not in (".py", ".pyc") and path.is_file()}


def test_without_jinja2_the_error_names_the_command():
    code = (
        "import sys; sys.modules['jinja2'] = None\nsys.path[:0] = ['tests']\n"
        "from report_pages import small_report\n"
        "try: small_report().to_html()\nexcept ImportError as error: print(error)"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "pip install 'captum_kd[page]'" in found.stdout
