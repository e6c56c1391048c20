"""The figure of seed control, tested by its dots and words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from captum_kd.metrics import Comparisons, TransferReport, compare_transfer
from captum_kd.visualization import plot_seed_control
from captum_kd.visualization.seed_control import MARKS, NULL, SCORES
from figures import assert_legible
from models import ConvNet

IMAGES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3
LAYERS = ["conv1", "conv2", "conv3"]


@pytest.fixture(scope="module")
def report() -> TransferReport:
    return compare_transfer(
        {f"s {i}": ConvNet(seed=i) for i in range(3)}, {f"b {i}": ConvNet(seed=10 + i) for i in range(2)}, LAYERS,
        [(IMAGES, LABELS)], teacher=ConvNet(seed=20), show_progress=False,
        comparisons=Comparisons(groups={"one technique": ["s 0", "s 1"], "$x$": ["s 2"]}),
    )  # fmt: skip


def panels(figure: Any) -> list[Any]:
    return [axis for axis in figure.axes if axis.axison]


def test_dots_are_means_over_the_removed_bases_and_the_null_is_named(report: TransferReport) -> None:
    figure = plot_seed_control(report, title="Seeds")
    assert_legible(figure)
    lines = [panels(figure)[i : i + 3] for i in range(0, 9, 3)]  # no placebo Teachers: three of the five questions
    assert len(panels(figure)) == 9
    assert [axis.get_title() for axis in lines[0]] == LAYERS
    assert [label.get_text() for label in lines[0][0].get_yticklabels()] == [NULL, "one technique", r"\$x\$"]
    assert report.seed_control is not None
    for score, line in zip(SCORES, lines):
        for layer, axis in zip(LAYERS, line):
            scores = {
                (row["model"], row["given"]): row["value"]
                for row in report.seed_control["pairs"] if (row["score"], row["layer"]) == (score, layer)
            }  # fmt: skip
            dots = {int(marks.get_ydata()[0]): list(marks.get_xdata()) for marks in axis.lines if marks.get_marker() in "os"}
            assert dots[0] == pytest.approx([scores["b 0", "b 1"], scores["b 1", "b 0"]])
            assert dots[1] == pytest.approx([(scores[f"s {i}", "b 0"] + scores[f"s {i}", "b 1"]) / 2 for i in range(2)])
            assert len(dots[2]) == 1
        assert len({axis.get_xlim() for axis in line}) == 1


@pytest.mark.parametrize("decision", MARKS)
def test_the_word_beside_students_is_the_tests_decision(report: TransferReport, decision: Any) -> None:
    content = report.to_dict()
    for test in content["seed_control"]["tests"]:
        test["decision"] = decision
    words = [text.get_text() for axis in panels(plot_seed_control(content)) for text in axis.texts]
    assert words == [MARKS[decision]] * (18 if MARKS[decision] else 0)


def test_chosen_scores_and_many_layers() -> None:
    layers = {f"place {i}": f"conv{i % 3 + 1}" for i in range(6)}
    found = compare_transfer(
        {"s 0": ConvNet(seed=0), "s 1": ConvNet(seed=1)}, {"b 0": ConvNet(seed=2), "b 1": ConvNet(seed=3)}, layers,
        [(IMAGES, LABELS)], show_progress=False,
    )  # fmt: skip
    figure = plot_seed_control(found, scores=["fss"])
    assert_legible(figure)
    assert [axis.get_title() for axis in panels(figure)] == list(layers)
    with pytest.raises(ValueError, match="scores must be some of"):
        plot_seed_control(found, scores=["teacher_distilled"])


def test_reports_without_seed_control_are_refused(report: TransferReport) -> None:
    with pytest.raises(ValueError, match="two or more Students and Bases"):
        plot_seed_control({**report.to_dict(), "seed_control": None})
    with pytest.raises(TypeError, match="TransferReport"):
        plot_seed_control([1, 2])
    assert report.plot("seeds").get_figwidth() == 7.0
