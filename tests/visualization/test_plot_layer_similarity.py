"""Heat maps of the similarity of layers."""

from typing import Any, Optional

import numpy as np
import pytest
from matplotlib.figure import Figure

from captum_kd.metrics import LayerSimilarity
from captum_kd.visualization import plot_layer_similarity


def made(matrix: list[list[Optional[float]]], measures: tuple[str, ...] = ("fss", "cka"), name: str = "layer") -> LayerSimilarity:
    layers_a, layers_b = ([f"{name}{i}" for i in range(count)] for count in (len(matrix), len(matrix[0])))
    settings: dict[str, Any] = {"n": 50, "is_one_model": False, "layers": {"model_a": layers_a, "model_b": layers_b}}
    return LayerSimilarity(tuple(layers_a), tuple(layers_b), {each: matrix for each in measures}, [], settings)


def marks(figure: Figure, filled: bool) -> list[tuple[int, int]]:
    """(row, column) of the dots, or of the circles."""
    lines = [line for line in figure.axes[0].lines if (line.get_markerfacecolor() != "none") is filled]
    return [(int(line.get_ydata()[0]), int(line.get_xdata()[0])) for line in lines]


def overlapping(labels: list[Any], figure: Figure) -> int:
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    return sum(one.overlaps(other) for one, other in zip(boxes, boxes[1:]))


def test_values_marks_and_names():
    figure = plot_layer_similarity(made([[0.9, 0.2], [0.8, 0.1]]), "fss", names=("Student", "Teacher"), title="Two $ networks")
    axis = figure.axes[0]
    assert np.allclose(axis.images[0].get_array(), [[0.9, 0.2], [0.8, 0.1]])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("layers of Teacher", "layers of Student")
    assert marks(figure, True) == [(0, 0), (1, 0)] and marks(figure, False) == [(0, 0), (0, 1)]
    assert axis.images[0].get_clim() == (0.0, 1.0)


def test_all_measures_have_a_panel():
    titles = [axis.get_title() for axis in made([[0.9, 0.2]]).plot().axes]
    assert titles[:2] == ["FSS, 50 inputs", "CKA, 50 inputs"]


def test_zero_is_white_and_negative_values_are_orange():
    figure = plot_layer_similarity(made([[1.0, 0.0, -0.3]]), "fss")
    image = figure.axes[0].images[0]
    red, green, blue = (image.to_rgba(np.array([value]))[0, :3] for value in (-0.3, 0.0, 1.0))
    assert green.min() > 0.94 and red[0] > red[2] + 0.2 and blue[2] > blue[0] + 0.2
    assert "below 0" in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


def test_missing_values_are_hatched_and_unmarked():
    figure = plot_layer_similarity(made([[None, None], [0.3, 0.4]]), "fss")
    assert [patch.get_hatch() for patch in figure.axes[0].patches] == ["////"] * 2
    assert marks(figure, True) == [(1, 1)]
    plot_layer_similarity(made([[None]]), "fss").draw_without_rendering()


def leads(figure: Figure) -> tuple[list[str], list[str]]:
    """The numbers beside the rows and above the columns."""
    rows, columns = figure.axes[0].child_axes
    return tuple([each.get_text() for each in labels] for labels in (rows.get_yticklabels(), columns.get_xticklabels()))


def legend(found: LayerSimilarity) -> list[str]:
    return [text.get_text() for text in plot_layer_similarity(found).axes[-2].get_legend().get_texts()]


def test_the_lead_over_the_runner_up_is_written_beside_every_match():
    found = made([[0.9, 0.899, -0.2], [0.3, None, None]], ("fss",))
    assert leads(plot_layer_similarity(found)) == (["+.001", ""], ["+.600", "", ""])
    assert leads(plot_layer_similarity(made([[1.0, -0.25], [0.3, 0.5]], ("fss",)))) == (["+1.250", "+.200"], ["+.700", "+.750"])
    assert "+.123: lead over the runner-up" in legend(found)
    assert len(legend(made([[0.5]], ("fss",)))) == 2  # there is no runner-up


def test_matches_that_hardly_lead_have_no_mark():
    found = made([[0.9, 0.885, 0.1], [0.3, 0.2, 0.33]], ("fss",))  # leads of .015 and .03
    figure = plot_layer_similarity(found)
    assert marks(figure, True) == [(1, 2)] and marks(figure, False) == [(0, 0), (0, 1), (1, 2)]
    assert "no mark: lead below .02; another seed may differ" in legend(found)
    assert not any("no mark" in each for each in legend(made([[0.9, 0.2], [0.3, 0.8]], ("fss",))))


@pytest.mark.parametrize("count", [1, 3, 50])
def test_every_name_is_drawn_without_overlap(count):
    figure = plot_layer_similarity(made([[0.5] * count] * count, ("cka",), "features.block"))
    axis = figure.axes[0]
    assert len(axis.get_xticklabels()) == len(axis.get_yticklabels()) == count
    assert overlapping(axis.get_yticklabels(), figure) == overlapping(axis.get_xticklabels(), figure) == 0
    beside, above = axis.child_axes
    assert overlapping(beside.get_yticklabels(), figure) == overlapping(above.get_xticklabels(), figure) == 0


def test_errors():
    with pytest.raises(TypeError, match="result must be a LayerSimilarity"):
        plot_layer_similarity([[0.5]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="names must be two strings"):
        plot_layer_similarity(made([[0.5]]), names=("one",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="measure"):
        plot_layer_similarity(made([[0.5]], ("fss",)), "cka")
