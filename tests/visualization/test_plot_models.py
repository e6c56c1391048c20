"""Models as points, tested by their artists and data."""

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from scipy.spatial.distance import pdist, squareform

from captum_kd.visualization import plot_models
from figures import assert_legible

ROLES = {"student": 3, "base": 3, "teacher": 1, "placebo": 2}


def report(layers=("layer1", "layer2", "layer3"), roles=None, groups=None, dim=9, seed=0) -> dict[str, Any]:
    """A report's dictionary, with similarities of random directions that models of one role share in part."""
    rng = np.random.default_rng(seed)
    models = [(f"{role} {i}", role) for role, count in (roles or ROLES).items() for i in range(count)]
    found = {}
    for layer in layers:
        centers = {role: rng.normal(size=dim) for role in (roles or ROLES)}
        x = np.array([centers[role] + 0.5 * rng.normal(size=dim) for _, role in models])
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        found[layer] = (x @ x.T).tolist()
    names, kinds = zip(*models)
    control = None if groups is None else {"groups": [{"group": name, "students": each} for name, each in groups.items()]}
    return {"similarities": {"models": list(names), "roles": list(kinds), "layers": found}, "seed_control": control}


def panels(figure):
    return [axis for axis in figure.axes if axis.axison]


def points(axis):
    return np.array([line.get_xydata()[0] for line in axis.lines])


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts] + [text.get_text() for text in figure.texts]


def test_distances_in_the_figure_are_those_of_the_similarities():
    given = report(dim=3, roles={"student": 2, "base": 1})  # three points are in a plane
    for axis, matrix in zip(panels(plot_models(given)), given["similarities"]["layers"].values()):
        np.testing.assert_allclose(squareform(pdist(points(axis))) ** 2, 2 * (1 - np.array(matrix)), atol=1e-9)
        assert axis.get_xlabel() == "100% shown"


def test_the_share_is_that_of_the_squared_distances():
    given = report(["layer1"])
    (axis,) = panels(plot_models(given))
    squares = 2 - 2 * np.array(given["similarities"]["layers"]["layer1"])
    share = 2 * (pdist(points(axis)) ** 2).sum() / squares.sum()
    assert axis.get_xlabel() == f"{share:.0%} shown" and 0.3 < share < 0.95


def test_panels_have_one_scale_and_no_numbers():
    figure = plot_models(report())
    assert [axis.get_title() for axis in panels(figure)] == ["layer1", "layer2", "layer3"]
    assert len({tuple(axis.get_xlim()) + tuple(axis.get_ylim()) for axis in panels(figure)}) == 1
    assert not any(axis.get_xticks().size or axis.get_yticks().size for axis in panels(figure))
    sizes = np.array([axis.get_window_extent().size for axis in panels(figure)])
    np.testing.assert_allclose(sizes, sizes[0, 0])


def test_the_ruler_has_the_distance_that_it_names():
    figure = plot_models(report())
    (text,) = [text for text in texts(figure) if text.startswith("distance of two models with FSS ")]
    (ruler,) = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "|"]
    data = panels(figure)[0].transData.inverted().transform(ruler.get_transform().transform(ruler.get_xydata()))
    assert data[1, 0] - data[0, 0] == pytest.approx((2 * (1 - float(text.split()[-1]))) ** 0.5)


def test_equal_layers_look_alike_even_if_models_are_turned_around():
    given = report(["a"])
    order = list(reversed(range(9)))
    matrix = np.array(given["similarities"]["layers"]["a"])
    given["similarities"]["layers"]["b"] = matrix.tolist()
    first, second = panels(plot_models(given))
    np.testing.assert_allclose(points(first), points(second), atol=1e-9)
    turned = {**given["similarities"], "layers": {"a": matrix[order][:, order].tolist()}}
    (third,) = panels(plot_models({"similarities": turned}))
    np.testing.assert_allclose(pdist(points(third)[order]), pdist(points(first)), atol=1e-9)


def test_roles_and_groups_have_their_own_colors_and_markers():
    groups = {"hinton": ["student 0"], "hints": ["student 1"]}
    figure = plot_models(report(["layer1"], groups=groups))
    labels = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert labels == [
        "Student: hinton", "Student: hints", "Student without a group", "Base", "Teacher", "placebo Teacher",
    ]  # fmt: skip
    (axis,) = panels(figure)
    assert len({(to_rgba(line.get_markerfacecolor()), line.get_marker()) for line in axis.lines}) == len(labels)
    assert len({line.get_marker() for line in axis.lines}) == len(labels)


def test_models_without_features_are_named_instead_of_drawn():
    given = report(["layer1", "layer2"])
    matrix = given["similarities"]["layers"]["layer1"]
    for place in range(9):
        matrix[4][place] = matrix[place][4] = None
    first, second = panels(plot_models(given))
    assert len(first.lines) == 8 and len(second.lines) == 9
    assert "base 1" in first.get_xlabel() and "undefined" in first.get_xlabel() and "undefined" not in second.get_xlabel()


def test_a_layer_that_is_dead_in_all_models():
    given = report(["layer1", "layer2"])
    given["similarities"]["layers"]["layer1"] = [[None] * 9] * 9
    first, second = panels(plot_models(given))
    assert not first.lines and first.get_xlabel().replace("\n", " ") == "no distances; undefined: 9 models"
    assert len(second.lines) == 9


def test_equal_models_lie_on_each_other():
    given = report(["layer1"])
    given["similarities"]["layers"]["layer1"] = (np.ones((9, 9)) - 1e-13).tolist()
    (axis,) = panels(plot_models(given))
    assert axis.get_xlabel() == "no distances" and not points(axis).any()


def test_negative_similarities_are_farther_than_a_right_angle():
    given = report(["layer1"], roles={"student": 1, "base": 1})
    given["similarities"]["layers"]["layer1"] = [[1.0, -0.2], [-0.2, 1.0]]
    (axis,) = panels(plot_models(given))
    assert pdist(points(axis))[0] == pytest.approx(2.4**0.5)


def test_a_pair_that_no_mini_batch_defines_counts_as_unrelated():
    given = report(["layer1"], roles={"student": 1, "base": 2})
    given["similarities"]["layers"]["layer1"] = [[1.0, 0.6, None], [0.6, 1.0, 0.4], [None, 0.4, 1.0]]
    (axis,) = panels(plot_models(given))
    np.testing.assert_allclose(pdist(points(axis)) ** 2, [0.8, 2.0, 1.2], atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_every_figure_is_legible(layers, count):
    roles = {"student": 2 * count, "base": count, "teacher": 1, "placebo": count}
    groups = {f"technique number {i}": [f"student {2 * i}", f"student {2 * i + 1}"] for i in range(count)}
    given = report([f"blocks.{i}.attention.output.dense" for i in range(layers)], roles, groups)
    figure = plot_models(given, title="Which networks resemble each other at which layer of the Student?")
    assert figure.get_figwidth() <= 7.0
    assert_legible(figure)


def test_some_layers():
    assert [axis.get_title() for axis in panels(plot_models(report(), ["layer3", "layer1"]))] == ["layer3", "layer1"]
    assert [axis.get_title() for axis in panels(plot_models(report(), "layer2"))] == ["layer2"]


def test_bad_reports_and_layers():
    with pytest.raises(TypeError, match="report must be the result of compare_transfer"):
        plot_models([{"layer": "layer1"}])
    with pytest.raises(ValueError, match="localize="):
        plot_models({"similarities": None})
    with pytest.raises(ValueError, match="layer must be one of the report's layers 'layer1', 'layer2', 'layer3', got 'layer9'"):
        plot_models(report(), "layer9")
    with pytest.raises(ValueError, match="layer is empty"):
        plot_models(report(), [])
    with pytest.raises(TypeError, match="layer must be a layer of the report"):
        plot_models(report(), 2)
    with pytest.raises(TypeError, match="title"):
        plot_models(report(), title=3)
