"""Class names, data frames, the HTML of notebooks and saved reports."""

from __future__ import annotations

import csv
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from population import batches, compare, data, related
from torch.utils.data import DataLoader, Subset, TensorDataset

from captum_kd.metrics import TransferReport
from captum_kd.visualization import plot_classes

NAMES = ["cat", "a | <b>dog</b>", "=fish"]


class Named(TensorDataset):
    classes = NAMES


def loader(**attributes: Any) -> DataLoader[Any]:
    dataset = Named(*data())
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return DataLoader(Subset(dataset, range(33)), batch_size=11)


def pair(batches_of_data: Any, **options: Any) -> Any:
    return compare(related(1), related(2), ["conv2", "conv3"], batches_of_data, **options)


@pytest.fixture(scope="module")
def report() -> Any:
    models = {f"s{seed}": related(seed) for seed in (1, 2)}, {f"b{seed}": related(seed) for seed in (3, 4)}
    return compare(
        *models, ["conv2", "conv3"], batches(11), teacher=related(5), placebo_teachers={"p": related(6)}, class_names=NAMES,
        by_class=True, by_input=True, predictions=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (batches(11), {}, None),
        (batches(11), {"class_names": NAMES}, NAMES),
        (loader(), {}, NAMES),
        (loader(), {"class_names": ["x", "y", "z"]}, ["x", "y", "z"]),
        (loader(classes=["one", "two"]), {}, None),  # there are three labels
        (loader(classes=[1, 2, 3]), {}, None),
        (loader(target_transform=int), {}, None),
        (loader(), {"unpack": tuple}, None),
        (loader(), {"labels": False, "unpack": lambda batch: (batch[0], None)}, None),
    ],
)
def test_class_names_come_from_the_argument_or_from_a_data_set_that_they_fit(source: Any, options: Any, expected: Any) -> None:
    assert pair(source, **options).settings["class_names"] == expected


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [("cat", TypeError, "list of strings"), ([1], TypeError, "list of strings"), ([], ValueError, "empty"),
     (["cat", "dog"], ValueError, "label 2")],
)  # fmt: skip
def test_unfit_class_names_are_an_error(names: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        pair(batches(11), class_names=names)


def test_class_names_are_in_texts_tables_and_figures(report: Any) -> None:
    text, markdown = str(report), report.to_markdown()
    assert "Classes: 0 cat: 11, 1 a | <b>dog</b>: 11, 2 =fish: 11" in text
    assert any(line.startswith("0 cat  ") for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 100
    assert "| 1 a \\| &lt;b&gt;dog&lt;/b&gt; | 11 |" in markdown and "<b>" not in markdown
    for table, key in (("classes", "group"), ("inputs", "label")):
        found = list(csv.DictReader(io.StringIO(report.to_csv(table=table))))
        assert {(row[key], row["class_name"]) for row in found} == {("0", "cat"), ("1", NAMES[1]), ("2", "'=fish")}
    assert "class_name" not in report.to_csv() and "class_name" not in json.dumps(report.classes)
    labels = [label.get_text() for label in plot_classes(report).axes[0].get_yticklabels()]
    assert any(label.startswith("cat (11)") for label in labels)


def test_names_of_classes_are_not_those_of_other_groups() -> None:
    found = pair(batches(11), class_names=NAMES, groups_of_inputs=[0] * 20 + [1] * 13)
    assert "class_name" not in found.to_csv(table="classes") and "0 cat  " not in str(found)
    assert all("cat" not in label.get_text() for label in plot_classes(found).axes[0].get_yticklabels())


@pytest.mark.parametrize("table", ["rows", "classes", "inputs", "similarities"])
def test_data_frames_have_the_columns_and_values_of_the_csv(report: Any, table: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = report.to_dataframe(table)
    read = pandas.read_csv(io.StringIO(report.to_csv(table=table)), float_precision="round_trip")
    assert list(frame.columns) == list(read.columns) and len(frame) == len(read)
    numeric = frame.select_dtypes("number")
    assert len(numeric.columns) and numeric.astype(float).equals(read[list(numeric.columns)].astype(float))


def test_data_frames_without_pandas_or_table_are_an_error(report: Any, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match="table"):
        report.to_dataframe("pairs")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="install pandas"):
        report.to_dataframe()


class Tags(HTMLParser):
    """The tags and texts of a piece of HTML; every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_the_verdict_and_one_table(report: Any) -> None:
    found = Tags(report._repr_html_())
    assert all(sentence in found.text for sentence in report.verdict)
    assert found.seen == {"div", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "p"}
    value = sum(row["value"] for row in report.rows if (row["layer"], row["score"]) == ("conv3", "rs_distilled")) / 4
    assert f"{value:.3f}" in found.text


def test_stars_in_a_notebook_are_those_of_the_tests(report: Any) -> None:
    starred = TransferReport(**report.to_dict())
    assert "*" not in "".join(line for line in starred._repr_html_().splitlines() if "<td" in line)
    for test in starred.seed_control["tests"]:
        test["decision"] = test["score"] in ("rs_distilled", "teacher_distilled")
    lines = [line for line in starred._repr_html_().splitlines() if "<td" in line]
    # With placebo Teachers, only their t test gives the share a star.
    assert [line.count("*") for line in lines] == [1, 1]


def test_names_are_text_in_a_notebook() -> None:
    hostile = '<img src=x onerror=alert(1)>"\'&</td>'
    models = {hostile: related(1)}, {"b1": related(3), "b2": related(4)}
    found = compare(*models, {hostile: "conv2"}, batches(11), groups={hostile: [hostile]})
    tags = Tags(found._repr_html_())
    assert "img" not in tags.seen and hostile in tags.text


def test_saved_reports_are_read_back(report: Any, tmp_path: Path) -> None:
    text = report.to_json(tmp_path / "report.json")
    for source in (text, tmp_path / "report.json", str(tmp_path / "report.json")):
        found = TransferReport.from_json(source)
        assert found.to_dict() == report.to_dict()
        assert str(found) == str(report) and found.to_markdown() == report.to_markdown()
        assert found.verdict == report.verdict and found._repr_html_() == report._repr_html_()
        assert found.to_csv(table="classes") == report.to_csv(table="classes")


def test_other_files_are_no_reports(report: Any, tmp_path: Path) -> None:
    content = report.to_dict()
    wrong = {
        "is not JSON": '{"rows": ',
        "lacks rows, notes, settings": '{"folds": []}',
        "unknown part 'more'": json.dumps({**content, "more": 1}),
        "rows of the text must be a list": json.dumps({**content, "rows": {}}),
        r"rows\[0\] of the text lacks value": json.dumps({**content, "rows": [{"student": "a", "base": "b", "layer": "c",
                                                          "score": "fss"}]}),
        "settings of the text lacks n, ": json.dumps({**content, "settings": {}}),
        "seed_control of the text lacks groups, pairs": json.dumps({**content, "seed_control": {"tests": []}}),
    }  # fmt: skip
    for words, text in wrong.items():
        with pytest.raises(ValueError, match=words):
            TransferReport.from_json(text)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "image.json").write_bytes(bytes(torch.arange(200, dtype=torch.uint8)))
    for name, words in {"list.json": "holds a list", "image.json": "is not JSON"}.items():
        with pytest.raises(ValueError, match=words):
            TransferReport.from_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        TransferReport.from_json(tmp_path / "absent.json")
    with pytest.raises(TypeError, match="path or the text"):
        TransferReport.from_json(content)  # type: ignore[arg-type]
