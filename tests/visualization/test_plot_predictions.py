"""The figure of predictions, tested by its dots."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from captum_kd.metrics import Comparisons, TransferReport, compare_transfer
from captum_kd.visualization import plot_predictions
from figures import assert_legible
from models import ConvNet

IMAGES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


def report(students: int, bases: int, teacher: bool = True, **options: Any) -> TransferReport:
    return compare_transfer(
        {f"s {i}": ConvNet(seed=i) for i in range(students)},
        {f"b {i}": ConvNet(seed=10 + i) for i in range(bases)},
        "conv3", [(IMAGES, LABELS)], teacher=ConvNet(seed=20) if teacher else None, predictions=True, show_progress=False,
        confidence=0.9, n_permutations=0, **options,
    )  # fmt: skip


def dots(figure: Any, title: str) -> dict[str, list[float]]:
    """The values of a panel by the name of the group."""
    (axis,) = [axis for axis in figure.axes if axis.get_title() == title]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    return {
        names[int(line.get_ydata()[0])]: list(line.get_xdata()) for line in axis.lines if len(line.get_xdata())
    }


def test_each_network_has_a_dot_and_bases_are_compared_with_bases() -> None:
    groups = {"one": ["s 0", "s 1"], "other": ["s 2"]}
    found = report(3, 2, comparisons=Comparisons(groups=groups))
    figure = plot_predictions(found, title="All of them")
    assert_legible(figure)
    values = {(row["score"], row["student"], row["base"]): row["value"] for row in found.rows}
    shown = dots(figure, "Accuracy")
    assert list(shown) == ["Bases", "one", "other", "Teacher"]
    assert shown["one"] == [values["accuracy_student", name, "b 0"] for name in groups["one"]]
    assert shown["Bases"] == [values["accuracy_base", "s 0", name] for name in ("b 0", "b 1")]
    assert shown["Teacher"] == [values["accuracy_teacher", "s 0", "b 0"]]
    assert found.seed_control is not None
    pairs = [row for row in found.seed_control["pairs"] if row["score"] == "shared_errors"]
    null = [row["value"] for row in pairs if {row["model"], row["given"]} == {"b 0", "b 1"}]
    assert sorted(dots(figure, "Errors shared\nwith the Teacher\nwhere a Base is right")["Bases"]) == sorted(null)


def test_one_pair_has_intervals_and_no_panel_without_its_score() -> None:
    figure = plot_predictions(report(1, 1, teacher=False))
    titles = [axis.get_title() for axis in figure.axes if axis.axison]
    assert titles == ["Accuracy", "Calibration error (ECE)"]
    assert len(figure.axes[0].collections) == 2  # intervals of Student and Base
    with pytest.raises(ValueError, match="no predictions"):
        plot_predictions(compare_transfer(ConvNet(seed=1), ConvNet(seed=2), "conv3", [(IMAGES, LABELS)], show_progress=False))


def test_reports_draw_it_by_name() -> None:
    found = report(1, 2, by_class=True)
    assert len(found.plot("predictions").axes) == 6
    assert "RS" in found.plot("classes", title="Classes").axes[0].get_xlabel()
    assert found.plot("models").axes
    assert len(found.plot().axes) < 12
    with pytest.raises(ValueError, match="what must be"):
        found.plot("accuracy")
