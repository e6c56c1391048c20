"""The figure of classes, tested by its dots."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
import torch

from captum_kd.metrics import TransferReport, compare_transfer
from captum_kd.visualization import plot_classes
from figures import assert_legible
from models import ConvNet

IMAGES = torch.randn(60, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.cat([torch.arange(57) % 3, torch.full((3,), 3)])


def report(students: int, bases: int, **options: Any) -> TransferReport:
    return compare_transfer(
        {f"s {i}": ConvNet(seed=i) for i in range(students)},
        {f"b {i}": ConvNet(seed=10 + i) for i in range(bases)},
        ["conv2", "conv3"], [(IMAGES, LABELS)], teacher=ConvNet(seed=20), show_progress=False, by_class=True,
        confidence=0.9, n_permutations=0, **options,
    )  # fmt: skip


def drawn(figure: Any) -> dict[str, dict[str, float]]:
    """By the marker, the value of each class by its label."""
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    found: dict[str, dict[str, float]] = {}
    for line in axis.lines:
        if line.get_marker() in ("o", "s"):
            found.setdefault(line.get_marker(), {})[names[int(line.get_ydata()[0])]] = float(line.get_xdata()[0])
    return found


def test_dots_are_means_over_the_pairs_and_squares_the_nulls() -> None:
    found = report(2, 2)
    assert found.classes is not None
    figure = plot_classes(found, layer="conv2", class_names=["cat", "dog", "frog"], title="All classes")
    assert_legible(figure)
    rows = [row for row in found.classes["rows"] if (row["layer"], row["score"]) == ("conv2", "rs_distilled")]
    dots = drawn(figure)
    for group, name in enumerate(["cat (19)", "dog (19)", "frog (19)"]):
        values = [row["value"] for row in rows if row["group"] == group]
        assert dots["o"][name] == pytest.approx(sum(values) / 4)
        (null,) = (
            null["value"]
            for null in found.classes["nulls"]
            if (null["layer"], null["score"], null["group"]) == ("conv2", "rs_distilled", group)
        )
        assert dots["s"][name] == pytest.approx(null)
    assert list(dots["o"].values()) == sorted(dots["o"].values(), reverse=True)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[-1] == "3 (3)" and "3 (3)" not in dots["o"]
    assert len([each for each in figure.axes[0].collections if len(each.get_segments())]) == 12


def test_differences_from_the_base_have_no_null_that_is_zero_by_construction() -> None:
    row = {"student": "s", "base": "b", "layer": "predictions", "score": "accuracy_over_base", "group": 0, "n": 30}
    rows = [{**row, "value": 0.1, "low": None, "high": None, "p_value": None, "adjusted_p_value": None}]
    nulls = [{"layer": "predictions", "score": "accuracy_over_base", "group": 0, "value": 0.0}]
    classes = {"of": "class", "groups": [{"group": 0, "inputs": 30}], "rows": rows, "nulls": nulls, "tests": []}
    dots = drawn(plot_classes({"classes": classes}, "accuracy_over_base"))
    assert dots["o"]["0 (30)"] == 0.1 and isnan(dots["s"]["0 (30)"])


def test_without_two_bases_the_square_is_the_residual_score() -> None:
    found = report(1, 1)
    assert found.classes is not None and found.classes["nulls"] == []
    figure = plot_classes(found.to_dict(), "teacher_distilled")
    assert_legible(figure)
    values = {
        row["group"]: row["value"]
        for row in found.classes["rows"]
        if (row["layer"], row["score"]) == ("conv3", "teacher_residual")
    }
    assert drawn(figure)["s"]["1 (19)"] == pytest.approx(values[1])


@pytest.mark.parametrize("classes", [1, 38])
def test_many_classes_of_long_names_are_legible(classes: int) -> None:
    row = {"student": "s", "base": "b", "layer": "layer4", "p_value": None, "adjusted_p_value": None, "n": 30}
    rows = [
        {**row, "score": "rs_student", "group": each, "value": each / 40, "low": each / 50, "high": each / 30}
        for each in range(classes)
    ]
    groups = [{"group": each, "inputs": 30, "note": None} for each in range(classes)]
    report = {"classes": {"of": "class", "groups": groups, "rows": rows, "nulls": [], "tests": []}}
    names = {each: f"Tomato leaf with spider mites, two-spotted spider mite $x_{each}$" for each in range(classes)}
    figure = plot_classes(report, "rs_student", class_names=names)
    assert_legible(figure)
    assert figure.get_size_inches()[0] == 7.0


def test_bad_arguments() -> None:
    found = report(1, 1)
    with pytest.raises(TypeError, match="TransferReport"):
        plot_classes(found.rows)
    with pytest.raises(ValueError, match="score must be one of rs_student"):
        plot_classes(found, "fss")
    with pytest.raises(ValueError, match="layer must be one of conv2, conv3"):
        plot_classes(found, layer="conv1")
    with pytest.raises(TypeError, match="class_names must be a list"):
        plot_classes(found, class_names="cat")
    with pytest.raises(TypeError, match=r"class_names\[0\]"):
        plot_classes(found, class_names={0: 7})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="by_class=True"):
        plot_classes({**found.to_dict(), "classes": None})
