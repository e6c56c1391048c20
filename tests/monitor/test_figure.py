"""Figures of trainings."""

from typing import Any

import pytest
from matplotlib.collections import FillBetweenPolyCollection

from captum_kd.monitor import plot_process
from captum_kd.monitor.transfer_monitor import COLUMNS

SCORES = ("fss_student_teacher", "fss_base_teacher", "rs_student", "teacher_distilled")


def history(shift: float = 0.0, layers: tuple[str, ...] = ("layer1", "layer2"), epochs: int = 4) -> list[dict[str, Any]]:
    keys = [(layer, score) for layer in layers for score in SCORES] + [("predictions", "agreement_student_teacher")]
    shifts = {"fss_base_teacher": 0.0}  # of a trained Base, so the same in every history
    return [
        {"epoch": epoch, "base": base, "layer": layer, "score": score, "value": epoch / 10 + shifts.get(score, shift) + extra}
        for epoch in range(epochs)
        for base, extra in (("b 1", 0.0), ("b 2", 0.02), ("all Bases", 5.0))
        for layer, score in keys
    ]


def panels(figure: Any) -> list[Any]:
    return [axis for axis in figure.axes if axis.axison]


def lines(axis: Any, color: str) -> list[Any]:
    return [line for line in axis.lines if line.get_color() == color]


def test_lines_are_means_over_bases_and_seeds_with_a_band() -> None:
    figure = plot_process({"logits": [history(), history(0.2)], "hints": history(0.5)}, null=[history(-0.1), history(-0.3)])
    drawn = panels(figure)
    assert len(drawn) == 3 * 2 + 1
    first = drawn[0]
    blue, gray = lines(first, "#0072B2"), lines(first, "0.5")
    assert list(blue[0].get_xdata()) == [0, 1, 2, 3]
    assert list(blue[0].get_ydata()) == pytest.approx([0.11, 0.21, 0.31, 0.41])
    assert list(gray[0].get_ydata()) == pytest.approx([-0.19, -0.09, 0.01, 0.11])
    assert len([each for each in first.collections if isinstance(each, FillBetweenPolyCollection)]) == 2
    legend = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    assert legend == ["logits, mean and range of 2", "hints", "no Teacher (null), mean and range of 2", "mean of 2 trained Bases"]
    assert figure.get_size_inches()[0] <= 7


def test_chosen_scores_many_layers_and_hostile_names() -> None:
    layers = tuple(f"${'x' * 20}{place}" for place in range(7))
    figure = plot_process(history(layers=layers), scores=["rs_student"], title="A $title")
    figure.canvas.draw()
    assert len(panels(figure)) == 7


def test_seeds_with_other_epochs_share_the_common_ones() -> None:
    figure = plot_process([history(epochs=4), history(epochs=3)])
    assert list(lines(panels(figure)[0], "#0072B2")[0].get_xdata()) == [0, 1, 2]


def test_a_figure_without_a_null_says_so() -> None:
    figure = plot_process(history())
    (legend,) = (axis.get_legend() for axis in figure.axes if axis.get_legend())
    assert legend.get_texts()[-1].get_text() == "without null=, this cannot show transfer"


def test_groups_of_other_bases_are_noticed() -> None:
    other = [{**each, "value": each["value"] + 0.01 * (each["score"] == "fss_base_teacher")} for each in history()]
    with pytest.warns(UserWarning, match="fss_base_teacher of 'b 1' at layer1 is 0.000 in one group and 0.010 in another"):
        plot_process(history(), null=other)
    plot_process({"a": [history(), other], "b": [other, history()]}, null=[other, history()])  # such as two folds


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="without measurements"):
        plot_process({"a": [history(), []]})
    with pytest.raises(ValueError, match="empty mapping"):
        plot_process({})
    with pytest.raises(TypeError, match="students must be a TransferMonitor"):
        plot_process("history.csv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no training has the score 'accuracy_student'"):
        plot_process(history(), scores=["accuracy_student"])
    with pytest.raises(TypeError, match="scores must be a list"):
        plot_process(history(), scores="rs_student")
    with pytest.raises(ValueError, match="lacks base"):
        plot_process([{key: 0 for key in COLUMNS if key != "base"}])
    with pytest.raises(ValueError, match="value must be a finite number, got 'high'"):
        plot_process([{**history()[0], "value": "high"}])
