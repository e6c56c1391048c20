"""Keep curves, tested by their artists and data."""

from typing import NamedTuple, Optional

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kd.metrics import KeepCurve
from captum_kd.visualization import plot_keep_curve
from figures import assert_legible

SHARES = torch.arange(1, 10, dtype=torch.float64) / 10


class Curve(NamedTuple):
    shares: Tensor
    accuracy: Tensor
    area: Tensor
    area_standard_error: Optional[Tensor] = None


def curve(steepness: float, error: Optional[float] = None, **changes: object) -> Curve:
    accuracy = 0.9 * (1 - (1 - SHARES) ** steepness)
    values = Curve(SHARES, accuracy, accuracy.mean(), None if error is None else torch.tensor(error))
    return values._replace(**changes)


def curves() -> dict[str, Curve]:
    return {"distilled": curve(5.0, 0.012), "residual": curve(2.5, 0.0141), "Grad-CAM": curve(4.0), "random": curve(1.0)}


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


def test_accuracy_is_drawn_against_the_share_kept():
    axis = plot_keep_curve(curves()).axes[0]
    assert len(axis.lines) == 4
    for line, expected in zip(axis.lines, curves().values()):
        np.testing.assert_allclose(line.get_xdata(), expected.shares)
        np.testing.assert_allclose(line.get_ydata(), expected.accuracy)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("share of each input kept", "accuracy")


def test_legend_gives_each_area_with_its_standard_error_if_it_has_one():
    areas = [float(one.area) for one in curves().values()]
    assert legend(plot_keep_curve(curves())) == [
        f"distilled, area {areas[0]:.3f} ± 0.012",
        f"residual, area {areas[1]:.3f} ± 0.014",
        f"Grad-CAM, area {areas[2]:.3f}",
        f"random, area {areas[3]:.3f}",
    ]


def test_plain_numbers_without_a_standard_error_will_do():
    class Plain:
        shares, accuracy, area = [0.25, 0.5], (0.4, 0.8), 0.6

    figure = plot_keep_curve({"plain": Plain()})
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.4, 0.8])
    assert legend(figure) == ["plain, area 0.600"]


def test_accuracy_on_whole_images_is_a_level_line():
    figure = plot_keep_curve(curves(), whole_accuracy=0.93)
    line = figure.axes[0].lines[-1]
    np.testing.assert_allclose(line.get_ydata(), [0.93, 0.93])
    assert legend(figure)[-1] == "whole inputs, accuracy 0.930"
    assert figure.axes[0].get_ylim()[1] > 0.93


def test_axis_shows_markers_at_the_limits_and_no_accuracies_beyond():
    axis = plot_keep_curve({"all or nothing": curve(1.0, accuracy=torch.tensor([0.0, 1.0]), shares=SHARES[:2])}).axes[0]
    low, high = axis.get_ylim()
    assert -0.05 < low < 0.0 and 1.0 < high < 1.05


def test_curves_differ_in_color_marker_and_dash():
    lines = plot_keep_curve({str(i): curve(i + 1.0) for i in range(4)}).axes[0].lines
    for looks in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(line, looks)() for line in lines}) == 4
    many = plot_keep_curve({str(i): curve(i + 1.0) for i in range(20)}).axes[0].lines
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in many}) == 20


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("title", [None, "What is kept by each map, and what it is worth to the Student's accuracy"])
def test_figures_are_legible_and_legends_cover_no_data(n, title):
    names = ["distilled", "a name so long that it does not fit on one line of the legend below the panel"]
    figure = plot_keep_curve({f"{names[i % 2]} {i}": curve(i + 1.0, 0.01) for i in range(n)}, whole_accuracy=0.95, title=title)
    assert_legible(figure)


def test_figures_stay_out_of_pyplot():
    before = plt.get_fignums()
    plot_keep_curve(curves())
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": torch.ones(3)}, "one accuracy for each share"),
        ({"shares": torch.tensor(0.5), "accuracy": torch.tensor(0.5)}, "one accuracy for each share"),
        ({"accuracy": 100 * torch.ones(9)}, "accuracy of curve 'c' must be between 0 and 1"),
        ({"accuracy": torch.full((9,), float("nan"))}, "accuracy of curve 'c' must be between 0 and 1"),
        ({"shares": 100 * SHARES}, "shares of curve 'c' must be between 0 and 1"),
        ({"shares": SHARES.flip(0)}, "must increase"),
        ({"area": torch.tensor(float("nan"))}, "area of curve 'c' must be one finite number"),
        ({"area_standard_error": torch.ones(2)}, "area_standard_error of curve 'c' must be one finite number"),
        ({"area_standard_error": -0.1}, "not negative"),
    ],
)
def test_bad_curves_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        plot_keep_curve({"c": curve(2.0, **changes)})


def test_no_curves_and_impossible_accuracies_are_named():
    with pytest.raises(ValueError, match="empty"):
        plot_keep_curve({})
    with pytest.raises(ValueError, match="whole_accuracy"):
        plot_keep_curve(curves(), whole_accuracy=93.0)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="curves must map names"):
        plot_keep_curve(curve(2.0))
    with pytest.raises(TypeError, match="lacks .*accuracy"):
        plot_keep_curve({"c": object()})


def test_bands_are_one_standard_error_of_each_accuracy():
    correct = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.3], [0.8]])
    axis = plot_keep_curve({"a": KeepCurve.of([0.2, 0.6], correct), "b": curve(2.0)}).axes[0]
    (band,) = axis.collections
    outline = band.get_paths()[0].vertices
    for share, right in zip((0.2, 0.6), correct.double()):
        error = float(right.std() / 50**0.5)
        ends = sorted({round(y, 9) for x, y in outline if x == pytest.approx(share)})
        assert ends == pytest.approx([float(right.mean()) - error, float(right.mean()) + error])


def test_chance_is_a_level_line_with_its_name():
    figure = plot_keep_curve(curves(), whole_accuracy=0.93, chance=0.1)
    np.testing.assert_allclose([line.get_ydata()[0] for line in figure.axes[0].lines[-2:]], [0.93, 0.1])
    assert legend(figure)[-2:] == ["whole inputs, accuracy 0.930", "most frequent class, accuracy 0.100"]
    assert_legible(figure)
    assert legend(plot_keep_curve(curves(), chance=0.5))[-1] == "most frequent class, accuracy 0.500"
    with pytest.raises(ValueError, match="chance must be"):
        plot_keep_curve(curves(), chance=1.5)


def test_the_first_eight_curves_have_eight_colors():
    lines = plot_keep_curve({str(i): curve(i + 1.0) for i in range(8)}).axes[0].lines
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 8
