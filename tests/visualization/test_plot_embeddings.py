"""Inputs as points, tested by their artists and data."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from captum_kd.metrics import InputEmbeddings
from captum_kd.visualization import plot_embeddings
from figures import assert_legible


def embeddings(models=3, classes=10, each=6, method="mds", labeled=True):
    labels = torch.arange(classes).repeat(each)
    generator = torch.Generator().manual_seed(0)
    names = [f"Student of ResNet-50 number {i}" for i in range(models)]
    points = {
        name: 2.0**i * torch.randn(len(labels), 2, generator=generator, dtype=torch.float64) for i, name in enumerate(names)
    }
    shares = {name: 0.1 + 0.07 * i if method == "mds" else None for i, name in enumerate(names)}
    return InputEmbeddings(points, shares, labels if labeled else None, method, dict.fromkeys(names, "layer4"), "flatten")


def panels(figure):
    return [axis for axis in figure.axes if axis.axison]


def notes(figure):
    return " ".join(text.get_text() for text in figure.texts)


def legend(figure):
    return [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]


def test_points_stand_where_they_belong_in_the_color_of_their_class():
    found = embeddings()
    figure = plot_embeddings(found)
    for axis, (name, points) in zip(panels(figure), found.coordinates.items()):
        assert axis.get_title().replace("\n", " ") == name
        assert axis.get_xlabel() == f"{found.shares[name]:.0%} of the variance"
        for label, line in enumerate(axis.lines):
            np.testing.assert_array_equal(line.get_xydata(), points[found.labels == label])
        low, high = (np.array([axis.get_xlim(), axis.get_ylim()])[:, side] for side in (0, 1))
        assert (points.numpy() > low).all() and (points.numpy() < high).all()
        np.testing.assert_allclose(*(high - low))
    assert legend(figure) == [str(label) for label in range(10)]
    colors = {to_rgba(line.get_color()) for line in panels(figure)[0].lines}
    assert len(colors) == 10


def test_38_classes_have_their_own_style_and_name():
    names = [f"Tomato___bacterial_spot_{i}" for i in range(38)]
    figure = plot_embeddings(embeddings(classes=38), class_names=names)
    styles = {(to_rgba(line.get_color()), line.get_marker()) for line in panels(figure)[0].lines}
    assert len(styles) == 38 and legend(figure) == names
    assert_legible(figure)


def test_classes_that_are_absent_keep_the_names_of_the_others():
    found = embeddings(classes=3)
    found.labels[found.labels == 1] = 4
    assert legend(plot_embeddings(found, class_names=list("abcde"))) == ["a", "c", "e"]


def test_what_the_picture_does_not_show_is_stated():
    assert "inputs that look close may be far apart" in notes(plot_embeddings(embeddings()))
    shown = notes(plot_embeddings(embeddings(method="tsne")))
    assert "Distances between clusters and sizes of clusters mean nothing." in shown
    assert not any(axis.get_xlabel() for axis in panels(plot_embeddings(embeddings(method="tsne"))))


def test_scales():
    own, shared = (plot_embeddings(embeddings(), same_scale=same) for same in (False, True))
    widths = [[float(np.diff(axis.get_xlim())[0]) for axis in panels(figure)] for figure in (own, shared)]
    assert len(set(np.round(widths[0], 9))) == 3 and len(set(np.round(widths[1], 9))) == 1
    assert "Each panel has its own scale." in notes(own) and "All panels have one scale." in notes(shared)


def test_constant_features_leave_an_empty_panel():
    found = embeddings(models=2)
    name = list(found.coordinates)[1]
    found.coordinates[name].zero_()
    found.shares[name] = None
    first, second = panels(plot_embeddings(found))
    assert first.lines and not second.lines and second.get_xlabel() == "constant features"


def test_inputs_without_labels_have_one_color_and_no_legend():
    figure = plot_embeddings(embeddings(labeled=False))
    assert [len(axis.lines) for axis in panels(figure)] == [1, 1, 1] and len(figure.axes) == 3
    assert_legible(figure)


@pytest.mark.parametrize("models", [1, 2, 4, 9])
@pytest.mark.parametrize("method", ["mds", "tsne"])
def test_every_figure_is_legible(models, method):
    figure = embeddings(models, method=method).plot(
        class_names=[f"class $x_{i}$" for i in range(10)], title="The test images in the last layer of each network"
    )
    assert figure.get_figwidth() <= 7.0
    assert_legible(figure)


def test_bad_input():
    found = embeddings()
    with pytest.raises(TypeError, match="embeddings must be the result of input_embeddings"):
        plot_embeddings(found.coordinates)
    with pytest.raises(ValueError, match="it has 3 names and the labels go from 0 to 9"):
        plot_embeddings(found, class_names=list("abc"))
    with pytest.raises(TypeError, match="class_names must be a list of names"):
        plot_embeddings(found, class_names=range(10))
    with pytest.raises(TypeError, match="class_names must be a list of names"):
        plot_embeddings(found, class_names="abcdefghij")
    with pytest.raises(ValueError, match="leave out class_names"):
        plot_embeddings(embeddings(labeled=False), class_names=list("abc"))
    with pytest.raises(TypeError, match="same_scale"):
        plot_embeddings(found, same_scale="yes")
