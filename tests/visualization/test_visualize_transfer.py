"""Maps side by side, tested by their artists and data, and against Captum's own visualizer."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, visualization
from matplotlib.figure import Figure
from PIL import Image

from captum_kd import TransferAttributions
from captum_kd.visualization import visualize_transfer
from figures import assert_legible

N = 3


def pictures() -> torch.Tensor:
    return torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def maps(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    values = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    return {"Grad-CAM": values, "distilled": 2 * values, **changes}


def panels(figure: Figure, columns: int) -> np.ndarray:
    return np.array(figure.axes, dtype=object).reshape(N + 1, columns)


def test_one_row_an_image_and_one_column_a_map():
    figure = visualize_transfer(pictures(), maps(), row_labels=["a", "b", "c"])
    axes = panels(figure, 3)
    assert [axis.get_title() for axis in axes[0]] == ["input", "Grad-CAM", "distilled"]
    assert [axis.get_ylabel() for axis in axes[:N, 0]] == ["a", "b", "c"]
    # Captum draws 8-bit pictures.
    np.testing.assert_allclose(axes[1, 0].images[0].get_array() / 255, pictures()[1].permute(1, 2, 0), atol=1 / 255)


def test_images_of_pillow():
    pixels = (pictures() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(each) for each in pixels]
    found, expected = (panels(visualize_transfer(each, maps()), 3)[1, 0].images[0].get_array() for each in (images, pictures()))
    np.testing.assert_allclose(found, expected, atol=1)
    assert visualize_transfer([each.convert("L") for each in images], maps()).axes
    with pytest.raises(ValueError, match="images must be of one size, got 2 sizes"):
        visualize_transfer([*images[:2], images[2].resize((8, 8))], maps())
    for wrong in ([], ["file.png"], images[0]):
        with pytest.raises(TypeError, match="images must be a tensor .* or a list of PIL images"):
            visualize_transfer(wrong, maps())


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
    assert captions == [["all\nzero"], ["nothing\npositive"], []]


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
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.rand(N, 2, 8, 8)}, "images must have shape"),
        ({"images": 255 * torch.rand(N, 3, 8, 8)}, "between 0 and 1.*mean= and std=.*divide by 255"),
        ({"maps": {"m": torch.rand(N + 1, 1, 4, 4)}}, "column 'm' of maps has 4 maps for 3 inputs"),
        ({"maps": {"m": torch.full((N, 1, 4, 4), float("nan"))}}, "column 'm' of maps has non-finite values"),
        ({"masks": torch.ones(N, 3, 3)}, "masks must have shape"),
        ({"columns": ["residual"]}, "residual"),
        ({"row_labels": ["one"]}, "row_labels"),
        ({"scale": "row"}, "scale must be .* or .*, got 'row'"),
        ({"sign": "both"}, "sign must be .* or .*, got 'both'"),
        ({"method": "masked_image"}, "method must be .* or .*, got 'masked_image'"),
        ({"outlier_perc": 100.0}, "outlier_perc"),
        ({"panel_size": 0.0}, "panel_size"),
        ({"maps": {"input": torch.rand(N, 1, 4, 4)}}, "title of its own"),
        ({"kept": {"distilled": torch.ones(N, 16, 16, dtype=torch.bool)}}, "title of its own"),
        ({"kept": {"kept": torch.ones(N, 8, 8, dtype=torch.bool)}}, "column 'kept' must have shape"),
        ({"kept": {"kept": torch.rand(N, 1, 16, 16)}}, "the images' shape"),
        ({"kept": {"kept": 4 * torch.rand(N, 3, 16, 16)}}, r"mean= and std="),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        visualize_transfer(**{"images": pictures(), "maps": maps(), **arguments})


def test_images_must_be_tensors():
    with pytest.raises(TypeError, match="images must be a tensor"):
        visualize_transfer(pictures().numpy(), maps())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"maps": TransferAttributions([torch.rand(N, 1, 4, 4)], [torch.rand(N, 1, 4, 4)])},
            "'distilled' of maps is a list of 1",
        ),
        ({"maps": torch.rand(N, 1, 4, 4)}, "maps must map column titles"),
        ({"kept": torch.ones(N, 16, 16, dtype=torch.bool)}, "kept must map column titles"),
        ({"kept": {"kept": torch.ones(N, 16, 16, dtype=torch.long)}}, "use kept.bool"),
        ({"kept": {"kept": [True]}}, "'kept' must be a tensor"),
        ({"masks": [True]}, "masks must be a tensor"),
        ({"masks": torch.ones(N, 16, 16, dtype=torch.complex64)}, "masks must be real, got torch.complex64"),
        ({"images": torch.ones(N, 3, 16, 16, dtype=torch.complex64)}, "images must be real, got torch.complex64"),
    ],
)
def test_wrong_types_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        visualize_transfer(**{"images": pictures(), "maps": maps(), **arguments})


def heat(axis) -> np.ndarray:
    """A panel's map in units of its scale, between -1 or 0 and 1."""
    image = axis.images[-1]
    return np.clip(np.asarray(image.get_array()) / image.get_clim()[1], -1.0, 1.0)


@pytest.mark.parametrize("sign", ["positive", "all", "absolute_value", "negative"])
@pytest.mark.parametrize("outlier_perc", [0.0, 30.0])
def test_scale_of_each_map_is_what_captum_shows(sign, outlier_perc):
    values = torch.randn(N, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    figure = visualize_transfer(
        pictures(), {"map": values}, sign=sign, scale="map", method="heat_map", outlier_perc=outlier_perc
    )
    large = LayerAttribution.interpolate(values.double(), (16, 16), "bilinear")
    for i in range(N):
        _, axis = visualization.visualize_image_attr(
            large[i].permute(1, 2, 0).numpy(), sign=sign, outlier_perc=max(outlier_perc, 1e-9), use_pyplot=False
        )
        ours = panels(figure, 2)[i, 1]
        np.testing.assert_allclose(heat(ours), np.asarray(axis.images[0].get_array()), atol=1e-6)
        assert (ours.images[-1].get_clim()[0] < 0) == (axis.images[0].get_clim()[0] < 0)


def test_column_scale_cuts_the_largest_values_of_all_rows_together():
    values = torch.zeros(N, 1, 16, 16)
    values[0, 0, 0, :10] = 1.0
    values[1, 0, 0, :9] = 9.0
    values[2, 0, 0, 0] = 100.0
    # In ascending order the values reach 40 % of their sum, 191, at one of the nines.
    axes = panels(visualize_transfer(pictures(), {"m": values}, outlier_perc=60.0, method="heat_map"), 2)
    assert [heat(axes[i, 1]).max() for i in range(N)] == pytest.approx([1 / 9, 1.0, 1.0])
    assert [text.get_text() for text in axes[N, 1].get_xticklabels()] == ["0", "9"]


def test_blended_maps_fade_where_they_are_empty_and_leave_the_gray_as_it_is():
    values = torch.zeros(N, 1, 16, 16)
    values[:, :, 4:8, 4:8] = 1.0
    dim = 0.5 * pictures()
    axis = panels(visualize_transfer(dim, {"m": values}, alpha_overlay=0.6), 2)[0, 1]
    gray, overlay = axis.images
    np.testing.assert_allclose(gray.norm(gray.get_array()), dim[0].mean(0), atol=1 / 255)
    np.testing.assert_allclose(overlay.get_alpha(), 0.6 * values[0, 0])


def test_maps_far_below_captums_limit_are_drawn_without_a_warning(recwarn):
    axis = panels(visualize_transfer(pictures(), {"m": 1e-12 * maps()["distilled"]}), 2)[0, 1]
    assert len(axis.images) == 2 and not axis.texts and not recwarn.list


def test_column_of_empty_maps_has_no_bar():
    axes = panels(visualize_transfer(pictures(), maps(zero=torch.zeros(N, 1, 4, 4))), 4)
    assert [axis.axison for axis in axes[N]] == [False, True, True, False]


def test_transfer_attributions_become_two_columns():
    values = maps()
    figure = visualize_transfer(pictures(), TransferAttributions(values["Grad-CAM"], values["distilled"]))
    assert [axis.get_title() for axis in panels(figure, 3)[0]] == ["input", "distilled", "residual"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channel_dimension", [False, True])
def test_kept_mask_leaves_what_stays_and_pales_the_rest(channels, channel_dimension):
    images = pictures()[:, :channels]
    stays = torch.zeros(N, 16, 16, dtype=torch.bool)
    stays[:, :, :8] = True
    kept = stays[:, None] if channel_dimension else stays
    axes = panels(visualize_transfer(images, maps(), kept={"kept": kept}, columns=["input", "kept"]), 2)
    before, after = (np.asarray(axis.images[0].get_array(), dtype=float) for axis in axes[0])
    np.testing.assert_array_equal(after[:, :8], before[:, :8])
    removed = after[:, 8:]
    assert np.ptp(removed, axis=2).max() == 0.0
    # Pale, and hatched: two levels that the image's own shades do not bridge.
    levels = np.sort(removed[..., 0].ravel())
    assert levels.min() >= 0.5 * 255 and np.diff(levels).max() > 0.1 * 255


def test_perturbed_images_are_drawn_as_they_are_up_to_noise_beyond_the_limits():
    perturbed = pictures().flip(2)
    perturbed[0, 0, 0, 0] = 1.1
    perturbed[0, 1, 0, 0] = -0.1
    axis = panels(visualize_transfer(pictures(), maps(), kept={"imputed": perturbed}), 4)[0, 3]
    expected = perturbed[0].clamp(0, 1).permute(1, 2, 0)
    np.testing.assert_allclose(axis.images[0].get_array() / 255, expected, atol=1 / 255)


def test_images_of_which_nothing_is_kept_say_so():
    stays = torch.ones(N, 16, 16, dtype=torch.bool)
    stays[1] = False
    axes = panels(visualize_transfer(pictures(), {}, kept={"kept": stays}), 2)
    assert [[text.get_text() for text in axis.texts] for axis in axes[:N, 1]] == [[], ["nothing\nkept"], []]


def test_columns_pick_maps_kept_pixels_and_input_in_any_order():
    kept = {"kept": torch.ones(N, 16, 16, dtype=torch.bool)}
    figure = visualize_transfer(pictures(), maps(), kept=kept, columns=["kept", "distilled", "input"])
    assert [axis.get_title() for axis in panels(figure, 3)[0]] == ["kept", "distilled", "input"]


def test_arguments_are_left_as_they_were():
    images, values = pictures().requires_grad_(), maps()
    before = images.detach().clone(), values["distilled"].clone()
    visualize_transfer(images, values, kept={"k": images * 1.0})
    torch.testing.assert_close(images.detach(), before[0], rtol=0, atol=0)
    torch.testing.assert_close(values["distilled"], before[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("n", "size", "sign", "names"),
    [
        (1, (16, 16), "positive", ["distilled"]),
        (8, (12, 24), "positive", ["distilled", "residual"]),
        (2, (24, 12), "all", ["Grad-CAM of the Student", "distilled", "a_name_that_cannot_be_broken_well"]),
        (2, (16, 16), "negative", ["one", "two", "three", "four", "five", "six"]),
        (1, (16, 16), "all", ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]),
    ],
)
def test_text_is_legible_whatever_the_columns(n, size, sign, names):
    values = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    values[-1] = 0 if n > 1 else values[-1]
    figure = visualize_transfer(
        torch.rand(n, 3, *size), {name: 1e-3 * values for name in names}, sign=sign,
        row_labels=["true: a class of some length\nStudent: cat"] * n, title="A heading that says what these maps are of",
        kept={"kept": torch.zeros(n, *size, dtype=torch.bool)},
    )  # fmt: skip
    assert_legible(figure)


def test_figure_fits_a_page_by_default_and_follows_a_panel_size():
    many = {f"map {i}": maps()["distilled"] for i in range(6)}
    assert visualize_transfer(pictures(), many).get_figwidth() <= 7.05
    assert visualize_transfer(pictures(), many, panel_size=3.0).get_figwidth() > 21.0


def test_row_labels_may_be_numbers_and_names_may_hold_dollar_signs():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 4, 4)
    visualize_transfer(images, {"a $x^ b$": maps}, row_labels=[3, 5]).draw_without_rendering()


def integrated(residual: Any = None, adds_up: bool = True) -> TransferAttributions:
    values = torch.randn(N, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    found = TransferAttributions(values, values.flip(3) if residual is None else residual)
    return found._with_unit(
        isinstance(residual, list), relu_attributions=False, attr_dim_summation=True, adds_up=adds_up
    )


def bar_labels(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_xticklabels()]


def test_integrated_maps_show_net_first_with_both_signs_one_scale_and_a_unit():
    transfer = integrated()
    axes = panels(visualize_transfer(pictures(), transfer, method="heat_map", outlier_perc=0.0), 4)
    assert [axis.get_title() for axis in axes[0]] == ["input", "net", "distilled", "residual"]
    assert len({tuple(bar_labels(axis)) for axis in axes[N, 1:]}) == 1
    assert [axis.get_xlabel().replace("\n", " ") for axis in axes[N, 1:]] == ["gain of J per position"] * 3
    top = max(float(LayerAttribution.interpolate(each, (16, 16), "bilinear").abs().max()) for each in (transfer.net, *transfer))
    large = LayerAttribution.interpolate(transfer.net, (16, 16), "bilinear")[0, 0]
    np.testing.assert_allclose(heat(axes[0, 1]), large / top, atol=1e-5)
    # Zero is white.
    image = axes[0, 1].images[-1]
    assert min(image.cmap(image.norm(0.0))) > 0.95


def test_maps_of_another_layer_than_the_compared_one_have_no_unit():
    """They share a scale, but do not add up to a gain."""
    axes = panels(visualize_transfer(pictures(), integrated(adds_up=False), method="heat_map", outlier_perc=0.0), 4)
    assert [axis.get_title() for axis in axes[0]] == ["input", "net", "distilled", "residual"]
    assert len({tuple(bar_labels(axis)) for axis in axes[N, 1:]}) == 1
    assert [axis.get_xlabel() for axis in axes[N, 1:]] == [""] * 3


def test_several_bases_have_a_residual_column_each():
    residuals = [torch.rand(N, 1, 4, 4), torch.rand(N, 1, 2, 2)]
    axes = panels(visualize_transfer(pictures(), integrated(residuals), panel_size=2.0), 5)
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == ["input", "net", "distilled", "residual of Base 1", "residual of Base 2"]


def test_rectified_maps_have_no_net_column():
    values = maps()["distilled"]
    rectified = TransferAttributions(values, values)._with_unit(
        False, relu_attributions=True, attr_dim_summation=True, adds_up=True
    )
    axes = panels(visualize_transfer(pictures(), rectified), 3)
    assert [axis.get_title() for axis in axes[0]] == ["input", "distilled", "residual"]


def test_groups_share_a_scale_so_that_a_weak_null_looks_weak():
    net = maps()["distilled"]
    given = {"net": net, "null": 0.1 * net, "Grad-CAM": 50.0 * net}
    figure = visualize_transfer(
        pictures(), given, scale=[["net", "null"]], method="heat_map", outlier_perc=0.0, units={"null": "a unit"}
    )
    axes = panels(figure, 4)
    assert heat(axes[0, 2]).max() == pytest.approx(0.1 * heat(axes[0, 1]).max(), rel=1e-5)
    alone = panels(visualize_transfer(pictures(), {"Grad-CAM": net}, method="heat_map", outlier_perc=0.0), 2)
    np.testing.assert_allclose(heat(axes[0, 3]), heat(alone[0, 1]), atol=1e-6)
    assert bar_labels(axes[N, 1]) == bar_labels(axes[N, 2]) != bar_labels(axes[N, 3])
    assert [axis.get_xlabel() for axis in axes[N]] == ["", "", "a unit", ""]


def test_a_group_is_scaled_by_the_columns_that_are_drawn():
    given = {"net": maps()["distilled"], "null": 10.0 * maps()["distilled"]}
    both, alone = (
        panels(visualize_transfer(pictures(), given, scale=[["net", "null"]], columns=columns), len(columns))
        for columns in (["net", "null"], ["net"])
    )
    assert bar_labels(both[N, 0]) != bar_labels(alone[N, 0])


@pytest.mark.parametrize(
    ("value", "label"), [(0.00066, "6.6e-4"), (0.0011, "1.1e-3"), (0.012, "0.012"), (64.0, "64"), (2.0e6, "2.0e6")]
)
def test_labels_of_bars_are_short(value, label):
    values = torch.zeros(N, 1, 16, 16)
    values[..., 3, 3] = value
    figure = visualize_transfer(pictures(), {"m": values}, sign="all", panel_size=0.8, units={"m": "gain of J per position"})
    assert bar_labels(panels(figure, 2)[N, 1]) == [f"-{label}", "0", label]
    assert_legible(figure)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scale": 3}, TypeError, r"or groups of titles such as \[\['net', 'null'\]\], got 3"),
        ({"scale": ["net"]}, TypeError, "or groups of titles"),
        ({"scale": [["net"]]}, ValueError, r"some of \['Grad-CAM', 'distilled'\], each once; got \['net'\]"),
        ({"scale": [["distilled"], ["distilled"]]}, ValueError, "each once"),
        ({"units": "gain"}, TypeError, "units must be a mapping"),
        ({"units": {"net": "gain"}}, ValueError, "units must map titles of maps"),
        ({"units": {"distilled": 3}}, ValueError, "units must map titles of maps"),
    ],
)
def test_wrong_groups_and_units_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        visualize_transfer(pictures(), maps(), **arguments)
