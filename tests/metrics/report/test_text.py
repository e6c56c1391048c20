"""Names that would act in Markdown, spreadsheets, terminals, web pages and figures are shown and do nothing."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import warnings
from typing import Any

import pytest
from population import batches, compare, related

from captum_kd._utils.text import as_markdown, as_spreadsheet_text, one_line, printable
from captum_kd._utils.warnings import warn_user
from captum_kd.metrics import TransferReport
from captum_kd.visualization import plot_keep_curve, plot_layer_scores

NAMES = [
    "a | b", "two\nlines", "`code`", "[link](http://x)", "![i](x)", "<script>alert(1)</script>", "&lt;b&gt;", "*bold*",
    "__dunder__", "~~gone~~", "# head", "- item", "1. item", "+ item", "---", "a\\|b", "$\\frac$", "$x$ and $y$", "=1+1", "+1",
    "-1+2", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", 'say "hi", you', "\x1b[31mred\x1b[0m", "\x9b31m", "bell\x07", "null\0",
    "\u202eright", "\u2066in\u2069", "\ud800", "half\udfff", "\u2028line", "\ufeffmark", "tag\U000e0041", "_lead", "h\u00e4user",
    "\u6a21\u578b", "\U0001f468\u200d\U0001f469",
]  # fmt: skip


def row(name: str, layer: str = "layer", value: float = -0.25) -> dict[str, Any]:
    numbers = dict(value=value, low=None, high=None, p_value=None, n=33, unique_share=None)
    return dict(student=name, base="base", layer=layer, score="fss", **numbers)


def report(name: str) -> TransferReport:
    settings = dict(n=33, class_counts={"0": 33}, localize=None, population="all", estimator="unbiased", confidence=None)
    answer = dict(group=None, score="fss", layer=name, statistic=None, decision=None, sentence=f"{name}: yes", caveats=[])
    return TransferReport([row(name, name)], {"tests": [answer]}, [name, f"A note on {name}."], settings)


def is_harmless(text: str) -> bool:
    """Whether a terminal shows every letter, and UTF-8 has it."""
    text.encode("utf-8")
    return all(c in "\n\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.parametrize("name", NAMES)
def test_json_keeps_names_to_the_letter(name: str, tmp_path: Any) -> None:
    text = report(name).to_json(tmp_path / "report.json")
    assert json.loads(text) == json.loads((tmp_path / "report.json").read_text("utf-8")) == report(name).to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_printed_reports_show_names_and_do_nothing_else(name: str) -> None:
    text = str(report(name))
    assert is_harmless(text) and one_line(name) in text
    assert len(text.splitlines()) == len(str(report("name")).splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_csv_holds_no_formula_and_numbers_stay_numbers(name: str, tmp_path: Any) -> None:
    text = report(name).to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes().decode() == text
    (read,) = csv.DictReader(io.StringIO(text, newline=""))
    assert read["value"] == "-0.25" and read["base"] == "base"
    for found in (read["student"], read["layer"]):
        assert found[0] not in "=+-@\t\r\n" and found.removeprefix("'").encode() == as_plain(name)


def as_plain(name: str) -> bytes:
    return name.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a | b", "a \\| b"),
        ("two\nlines", "two lines"),
        ("`code`", "\\`code\\`"),
        ("[link](x)", "\\[link\\](x)"),
        ("<b>", "&lt;b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("__dunder__", "\\_\\_dunder\\_\\_"),
        ("layer_4.conv_1", "layer_4.conv_1"),
        ("a\\|b", "a\\\\\\|b"),
        ("# head", "\\# head"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("1.5", "1.5"),
        ("-0.5", "-0.5"),
        ("$x$", "\\$x\\$"),
        ("\x1b[0m", "\\\\x1b\\[0m"),
        ("https://host/a", "https\\://host/a"),
        ("www.host.org", "www\\.host.org"),
    ],
)
def test_markdown_is_escaped(name: str, shown: str) -> None:
    assert as_markdown(name) == shown
    assert f"| {shown} | base | {shown} | -0.250 |" in report(name).to_markdown().splitlines()
    assert f"- {shown}" in report(name).to_markdown().splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_the_lines_and_cells_of_any_report(name: str) -> None:
    text, usual = report(name).to_markdown(), report("name").to_markdown()
    assert is_harmless(text) and text.count("\n") == usual.count("\n")
    (line,) = [line for line in text.splitlines() if "-0.250" in line]
    assert len(line.replace("\\\\", "").replace("\\|", "").split("|")) == 6


@pytest.mark.parametrize("name", NAMES)
def test_rendered_markdown_shows_the_name(name: str) -> None:
    renderer = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = renderer.parse(report(name).to_markdown())
    inline = [token for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in token.children) for token in inline if "-0.250" not in token.content]
    assert shown.count(one_line(name)) == 3  # two cells, one note
    assert {child.type for token in inline for child in token.children} <= {"text", "text_special", "strong_open", "strong_close"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name in NAMES if not set("\u6a21\U0001f468\uff1d") & set(name)])
def test_figures_draw_names_as_they_are(name: str) -> None:
    class Curve:
        shares, accuracy, area = [0.1, 0.5], [0.2, 0.3], 0.2

    long = f"{'x' * 47}{name}{'y' * 60}{name}"  # lines break inside of it
    layers = plot_layer_scores([row(name, name), row(long, name)], title=name)
    kept = plot_keep_curve({name: Curve(), long: Curve()}, title=name)
    for figure in (layers, kept):
        figure.savefig(io.BytesIO(), format="png")
    legends = [axis.get_legend() for axis in kept.axes if axis.get_legend() is not None]
    texts = [text for legend in legends for text in legend.get_texts()]
    titles = [axis.title for axis in layers.axes if axis.title.get_text()]
    assert len(texts) == len(titles) == 2
    for text in (*texts, kept._suptitle, layers._suptitle, *titles):
        shown, is_formula = text._preprocess_math(text.get_text())
        assert not is_formula and "".join(printable(name).split()) in "".join(shown.split())


def test_warnings_hold_no_control_characters() -> None:
    with pytest.warns(UserWarning) as caught:
        warn_user("at \x1b[2J\u202elayer")
    assert str(caught[0].message) == "at \\x1b[2J\\u202elayer"


def test_names_travel_from_models_to_the_report() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare({"=a|\ud800": related(1)}, {"\x1b[1m": related(2)}, {"<i>": "conv2"}, batches(9))
    assert found.rows[0]["student"] == "=a|\ud800" and found.settings["models"]["\x1b[1m"] == "base"
    assert "| =a\\|\\\\ud800 | \\\\x1b\\[1m | &lt;i&gt; |" in found.to_markdown()
    assert "Student: =a|\\ud800. Base: \\x1b[1m." in str(found)
    assert "\r\n'=a|\\ud800," in found.to_csv()


def test_joiners_and_line_breaks_stay() -> None:
    assert printable("a\u200db\nc") == "a\u200db\nc" and as_spreadsheet_text(-1.5) == -1.5 and as_spreadsheet_text(None) is None
