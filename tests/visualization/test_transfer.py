"""Figures, tested by their artists and data."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from captum_kd.visualization import plot_layer_scores, visualize_transfer

N = 3


def pictures() -> torch.Tensor:
    return torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def maps(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    values = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    return {"Grad-CAM": values, "distilled": 2 * values, **changes}


def panels(figure: Figure, columns: int) -> np.ndarray:
    return np.array(figure.axes, dtype=object).reshape(N + 1, columns)


def rows(**changes: object) -> list[dict[str, object]]:
    return [
        {"student": "S", "base": "B", "layer": layer, "score": score, "value": value, **changes}
        for layer, step in (("layer1", 0.0), ("layer2", 0.1))
        for score, value in (("fss", 0.9 - step), ("rs_student", 0.3 + step), ("rs_residual", 0.1 + step))
    ]


def test_one_row_an_image_and_one_column_a_map():
    figure = visualize_transfer(pictures(), maps(), row_labels=["a", "b", "c"])
    axes = panels(figure, 3)
    assert [axis.get_title() for axis in axes[0]] == ["input", "Grad-CAM", "distilled"]
    assert [axis.get_ylabel() for axis in axes[:N, 0]] == ["a", "b", "c"]
    np.testing.assert_allclose(axes[1, 0].images[0].get_array(), pictures()[1].permute(1, 2, 0).numpy())


def test_maps_are_enlarged_to_the_image():
    axes = panels(visualize_transfer(pictures(), maps()), 3)
    assert axes[0, 1].images[-1].get_array().shape[:2] == (16, 16)


def test_columns_choose_and_order():
    axes = panels(visualize_transfer(pictures(), maps(), columns=["distilled", "input"]), 2)
    assert [axis.get_title() for axis in axes[0]] == ["distilled", "input"]


def test_empty_map_says_so_and_maps_without_positive_values_too():
    values = maps()["Grad-CAM"].clone()
    values[0] = 0
    values[1] = -1
    axes = panels(visualize_transfer(pictures(), {"map": values}), 2)
    captions = [[text.get_text() for text in axis.texts] for axis in axes[:N, 1]]
    assert captions == [["all zero"], ["nothing positive"], []]


def test_shared_scale_makes_a_stronger_column_brighter():
    def brightness(scale: str) -> list[float]:
        figure = visualize_transfer(
            pictures(), maps(), columns=["Grad-CAM", "distilled"], method="heat_map", scale=scale, outlier_perc=0.0
        )
        images = [axis.images[0] for axis in panels(figure, 2)[0]]
        return [float(np.asarray(image.norm(image.get_array())).mean()) for image in images]

    weak, strong = brightness("shared")
    assert strong == pytest.approx(2 * weak, rel=1e-3)
    weak, strong = brightness("column")
    assert strong == pytest.approx(weak, rel=1e-3)


def test_masks_are_outlined_in_every_panel():
    masks = torch.zeros(N, 16, 16, dtype=torch.bool)
    masks[:, 4:9, 4:9] = True
    with_outline = panels(visualize_transfer(pictures(), maps(), masks=masks), 3)[:N]
    without = panels(visualize_transfer(pictures(), maps()), 3)[:N]
    assert all(len(a.collections) == len(b.collections) + 1 for a, b in zip(with_outline.flat, without.flat))


def test_figures_stay_out_of_pyplot():
    before = plt.get_fignums()
    visualize_transfer(pictures(), maps())
    plot_layer_scores(rows())
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.rand(N, 2, 8, 8)}, "images must have shape"),
        ({"images": 255 * torch.rand(N, 3, 8, 8)}, "between 0 and 1"),
        ({"maps": {"m": torch.rand(N + 1, 1, 4, 4)}}, "'m' must have shape"),
        ({"maps": {"m": torch.full((N, 1, 4, 4), float("nan"))}}, "'m' are not finite"),
        ({"masks": torch.ones(N, 3, 3)}, "masks must have shape"),
        ({"columns": ["residual"]}, "residual"),
        ({"row_labels": ["one"]}, "row_labels"),
        ({"scale": "row"}, "scale must be one of"),
        ({"sign": "negative"}, "sign must be one of"),
        ({"method": "masked_image"}, "method must be one of"),
        ({"outlier_perc": 100.0}, "outlier_perc"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        visualize_transfer(**{"images": pictures(), "maps": maps(), **arguments})


def test_images_must_be_tensors():
    with pytest.raises(TypeError, match="images must be a tensor"):
        visualize_transfer(pictures().numpy(), maps())


def test_scores_are_drawn_where_they_belong():
    figure = plot_layer_scores(rows(low=0.0, high=0.5))
    similarity, relevance = figure.axes
    assert similarity.get_ylabel() == "Feature similarity (FSS)" and relevance.get_ylabel() == "Relevance (RS)"
    np.testing.assert_allclose(similarity.lines[0].get_ydata(), [0.9, 0.8])
    np.testing.assert_allclose(relevance.lines[0].get_ydata(), [0.3, 0.4])
    assert [tick.get_text() for tick in relevance.get_xticklabels()] == ["layer1", "layer2"]
    interval = relevance.collections[0].get_segments()[0]
    np.testing.assert_allclose(interval[:, 1], [0.0, 0.5])


def test_missing_values_leave_a_gap():
    records = rows()
    records[0]["value"] = None
    values = plot_layer_scores(records).axes[0].lines[0].get_ydata()
    assert np.isnan(values[0]) and values[1] == pytest.approx(0.8)


def test_several_students_stand_side_by_side_on_one_scale():
    figure = plot_layer_scores(rows() + rows(student="T"))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["S and B", "T and B"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


@pytest.mark.parametrize(
    ("records", "message"),
    [([], "empty"), (rows(score="cka"), "Unknown score"), (rows() + rows(), "Two rows"), ([{"layer": "a"}], "lacks")],
)
def test_bad_rows_are_named(records, message):
    with pytest.raises(ValueError, match=message):
        plot_layer_scores(records)
