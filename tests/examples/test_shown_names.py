"""Names of classes, layers and networks in a run's tables, page and output."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest
from distillation.page import sections
from distillation.results import _print
from distillation.tables import Table
from report_pages import small_report

NAME = "=<b>|\x1b[1m\u202e\ud800&"
SHOWN = "=<b>|\\x1b[1m\\u202e\\ud800&"


def table() -> Table:
    return Table("name", "title", "note", ["layer", "value"], [[NAME, -0.5]])


def test_markdown_and_csv_escape_names_and_keep_numbers() -> None:
    assert "| =&lt;b&gt;\\|\\\\x1b\\[1m\\\\u202e\\\\ud800&amp; | -0.500 |" in table().to_markdown().splitlines()
    ((_, _), (name, value)) = csv.reader(io.StringIO(table().to_csv()))
    assert name == "'" + NAME.replace("\ud800", "\\ud800") and value == "-0.5"


def test_the_terminal_gets_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    _print(table())
    assert capsys.readouterr().out.splitlines()[1] == f"  {SHOWN}  -0.500"


def test_the_page_shows_names_as_text() -> None:
    fold: dict[str, Any] = {"images": {NAME: 3, "held_out": 3}, "chance": 0.5, "accuracy": {NAME: 0.4}}
    fold["scores"] = [{"teacher": NAME}]
    group = {"name": NAME, "students": [NAME], "is_control": True, "teacher": NAME}
    plan = {"guides": [], "groups": [group], "bases": [NAME]}
    parts: dict[str, Any] = dict(settings={}, plan=plan, versions={}, machine={}, seconds={})
    record = {"task": NAME, "unit": "images", "notes": [NAME], "folds": [fold], **parts}
    report: Any = small_report()
    scores = [SimpleNamespace(teacher=NAME, reports={"whole": report}) for _ in range(2)]
    measured: Any = [SimpleNamespace(scores=scores, shown=None)]
    text = report.to_html(sections=list(sections(record, [table()], [], measured)), title=NAME)
    text.encode("utf-8")
    shown = SHOWN.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert text.count(shown) >= 8 and "<b>" not in text and not set("\x1b\u202e") & set(text)
