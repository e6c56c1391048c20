"""Scores over layers, tested by their artists and data."""

import json
from itertools import combinations
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_kd.visualization import plot_layer_scores
from captum_kd.visualization.scores import SCORES, STYLES
from figures import assert_legible

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def rows(**changes: object) -> list[dict[str, object]]:
    return [
        {"student": "S", "base": "B", "layer": layer, "score": score, "value": value, **changes}
        for layer, step in (("layer1", 0.0), ("layer2", 0.1))
        for score, value in (("fss", 0.9 - step), ("rs_student", 0.3 + step), ("rs_residual", 0.1 + step))
    ]


def grid(students, bases, layers=LAYERS, scores=tuple(STYLES)) -> list[dict[str, object]]:
    """Every score for every pair; those of the Student alone are the same for all Bases."""
    return [
        {
            "student": student, "base": base, "layer": layer, "score": score, "n": 500, "p_value": None,
            "value": (value := np.sin(i + 3 * k + 0.4 * m + (0 if score.endswith("student") else 0.2 * j)) / 2),
            "low": value - 0.1, "high": value + 0.1,
        }
        for i, student in enumerate(students) for j, base in enumerate(bases)
        for k, layer in enumerate(layers) for m, score in enumerate(scores)
    ]  # fmt: skip


def panels(figure):
    return [axis for axis in figure.axes if axis.axison]


def series(axis, score):
    """The bold line of a score: the one in its style."""
    style = STYLES[score][1]
    (line,) = [
        line for line in axis.lines if (line.get_color(), line.get_marker(), line.get_linestyle()) == tuple(style)
    ]
    return line


def intervals(axis, score):
    return [
        segment for lines in axis.collections for segment in lines.get_segments()
        if tuple(lines.get_color()[0][:3]) == plt.matplotlib.colors.to_rgb(STYLES[score][1].color)
    ]  # fmt: skip


def test_scores_are_drawn_where_they_belong():
    figure = plot_layer_scores(rows(low=0.0, high=0.5))
    similarity, relevance, given_other = panels(figure)
    assert similarity.get_ylabel() == "Feature similarity\n(FSS)" and relevance.get_ylabel() == "Relevance (RS)"
    assert given_other.get_ylabel() == "Relevance (RS) given\nthe other"
    np.testing.assert_allclose(series(similarity, "fss").get_ydata(), [0.9, 0.8])
    np.testing.assert_allclose(series(relevance, "rs_student").get_ydata(), [0.3, 0.4])
    assert [tick.get_text() for tick in relevance.get_xticklabels()] == ["layer1", "layer2"]


def test_intervals_stand_at_their_points():
    _, *two = panels(plot_layer_scores(rows(low=0.0, high=0.5)))
    for panel, score in zip(two, ("rs_student", "rs_residual")):
        first, second = intervals(panel, score)
        np.testing.assert_allclose(first[:, 1], [0.0, 0.5])
        np.testing.assert_allclose([first[0, 0], second[0, 0]], series(panel, score).get_xdata())


def test_intervals_of_different_scores_do_not_cover_each_other_and_stay_at_their_tick():
    given_all = grid("S", ["all Bases"], scores=["rs_distilled_all"])
    axis = panels(plot_layer_scores(grid("S", "abc", scores=("rs_distilled", "rs_residual")) + given_all))[0]
    places = [segment[0, 0] for lines in axis.collections for segment in lines.get_segments()]
    # The score given all Bases is one; the other two have three each.
    assert len(places) == len(set(np.round(places, 6))) == 4 * 7
    assert np.abs(np.array(places) - np.round(places)).max() < 0.17
    first, second = axis.patches[:2]
    assert [first.get_x() + first.get_width() / 2, second.get_x() + second.get_width() / 2] == pytest.approx([0, 1])


def test_missing_values_leave_a_gap():
    records = rows(low=None, high=None)
    records[0]["value"] = None
    values = series(panels(plot_layer_scores(records))[0], "fss").get_ydata()
    assert np.isnan(values[0]) and values[1] == pytest.approx(0.8)


def test_scores_that_are_undefined_everywhere_leave_an_empty_panel():
    figure = plot_layer_scores([{**row, "value": None} for row in rows()])
    assert len(panels(figure)) == 3
    assert_legible(figure)


def test_several_students_stand_side_by_side_on_one_scale():
    figure = plot_layer_scores(rows() + [{**row, "value": 2 * row["value"]} for row in rows(student="T")])
    first, second, third, fourth, *_ = panels(figure)
    assert [axis.get_title() for axis in panels(figure)] == ["S", "T"] * 3
    assert first.get_ylim() == second.get_ylim() and third.get_ylim() == fourth.get_ylim()
    assert first.get_ylim()[1] >= 1.8


def test_several_bases_are_thin_lines_with_their_mean_in_bold():
    records = rows() + [{**row, "base": "C", "value": row["value"] + 0.06} for row in rows()]
    axis = panels(plot_layer_scores(records))[0]
    bold = series(axis, "fss")
    thin = [line for line in axis.lines if line.get_color() == bold.get_color() and line is not bold]
    np.testing.assert_allclose(bold.get_ydata(), [0.93, 0.83])
    np.testing.assert_allclose([line.get_ydata() for line in thin], [[0.9, 0.8], [0.96, 0.86]])
    assert max(line.get_linewidth() for line in thin) < bold.get_linewidth() / 2


def test_the_null_of_a_report_stands_at_its_score():
    pairs = [("base 1", "base 2", 0.1), ("base 2", "base 1", 0.3), ("s", "base 1", 0.9)]
    control = {
        "groups": [{"group": None, "students": ["s"], "bases": ["base 1", "base 2"]}],
        "pairs": [
            {"layer": LAYERS[0], "score": "rs_distilled", "model": model, "given": given, "value": value}
            for model, given, value in pairs
        ],
    }
    records = grid(["s"], ["base 1", "base 2"], scores=("rs_distilled", "rs_residual"))
    figure = plot_layer_scores({"rows": records, "seed_control": control})
    marks = [line for axis in panels(figure) for line in axis.lines if (line.get_marker(), line.get_linestyle()) == ("s", "None")]
    values = np.concatenate([line.get_ydata() for line in marks])
    assert values[np.isfinite(values)] == pytest.approx(0.2)
    assert any("a Base given another Base" in text.get_text() for text in figure.axes[-1].get_legend().get_texts())
    assert_legible(figure)


def test_score_that_is_the_same_for_all_bases_is_drawn_once():
    records = grid("S", "abc", scores=("rs_student", "rs_base"))
    axis = panels(plot_layer_scores(records))[0]
    colors = [line.get_color() for line in axis.lines]
    assert colors.count(STYLES["rs_student"][1].color) == 1
    assert colors.count(STYLES["rs_base"][1].color) == 4


def test_every_score_of_the_contract_is_drawn_in_its_panel():
    figure = plot_layer_scores(grid("S", "B"))
    for axis in panels(figure):
        scores = SCORES[axis.get_ylabel().replace("\n", " ")]
        for m, score in enumerate(STYLES):
            if score in scores:
                np.testing.assert_allclose(series(axis, score).get_ydata(), np.sin(3 * np.arange(4) + 0.4 * m) / 2)
    assert len(panels(figure)) == len(SCORES) == 10


def test_a_legend_names_every_score_and_only_those():
    figure = plot_layer_scores(rows())
    names = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    assert names == ["Student and Base", "Student", "residual (Base given Student)"]


def test_reports_and_their_json_are_taken_as_they_are():
    content = {"rows": rows(), "settings": {}}
    for given_rows in (SimpleNamespace(to_dict=lambda: content), content, json.loads(json.dumps(content)), tuple(rows())):
        np.testing.assert_allclose(series(panels(plot_layer_scores(given_rows))[0], "fss").get_ydata(), [0.9, 0.8])


@pytest.mark.parametrize(
    ("students", "bases", "layers", "kinds"),
    [
        (["S"], ["B"], LAYERS, 1),
        (["S"], ["B"], ["avgpool"], 2),
        (["S"], ["B"], LAYERS, 4),
        (["S"], ["B0", "B1"], [f"layer{i}" for i in range(40)], 3),
        (["KD", "attention transfer"], ["B0", "B1"], LAYERS, 2),
        (["KD", "attention transfer", "FitNet"], ["B0", "B1", "B2"], LAYERS, 4),
        ([f"a Student with quite a long name, seed {i}" for i in range(5)], ["B"], [f"blocks.{i}" for i in range(12)], 1),
        (["S", "T"], ["B"], ["features.denseblock3.denselayer16.conv2", "features.denseblock4.denselayer1.conv2", "fc"], 2),
        (["S", "T"], ["B"], ["aVeryLongNameWithoutAnyDotsInIt", "anotherVeryLongNameWithoutAnyDots", "fc"], 2),
    ],
)
def test_figures_of_all_sizes_are_legible_and_fit_a_page(students, bases, layers, kinds):
    scores = [score for kind in list(SCORES)[:kinds] for score in SCORES[kind]]
    figure = plot_layer_scores(grid(students, bases, layers, scores), title="What the Students have that the Bases lack")
    assert figure.get_figwidth() <= 7.0
    assert_legible(figure)


def test_scores_of_one_panel_differ_by_marker_and_by_color_with_dash():
    for scores in SCORES.values():
        styles = [style for _, style in scores.values()]
        assert len({style.marker for style in styles}) == len({(style.color, style.dash) for style in styles}) == len(styles)


def lightness_and_hue(color: str, simulate: bool) -> np.ndarray:
    """CIE Lab coordinates, as seen or as seen without green cones (Machado, Oliveira and Fernandes 2009)."""
    srgb = np.array(plt.matplotlib.colors.to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if simulate:
        without = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
        linear = np.clip(np.array(without) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("simulate", [False, True])
def test_colors_of_one_panel_stay_apart_without_red_and_green(simulate):
    for scores in SCORES.values():
        colors = {style.color for _, style in scores.values()}
        for one, other in combinations(colors, 2):
            assert np.linalg.norm(lightness_and_hue(one, simulate) - lightness_and_hue(other, simulate)) > 20.0


def test_figures_stay_out_of_pyplot():
    before = plt.get_fignums()
    plot_layer_scores(rows())
    assert plt.get_fignums() == before


@settings(max_examples=10, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=2, max_size=6))
def test_what_is_given_is_what_is_drawn(values):
    records = [
        {"student": "S", "base": "B", "layer": f"l{i}", "score": "rs_base", "value": value} for i, value in enumerate(values)
    ]
    axis = panels(plot_layer_scores(records))[0]
    expected = [np.nan if value is None else value for value in values]
    if any(value is not None for value in values):
        np.testing.assert_allclose(series(axis, "rs_base").get_ydata(), expected)
    else:
        assert len(axis.lines) == 1  # the zero line


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "empty"),
        (rows(score="cka"), "Unknown score"),
        (rows() + rows(), "Two rows"),
        ([{"layer": "a"}], "lacks"),
        (rows(low=0.5, high=0.4), "low must not exceed high"),
        (rows(value=float("inf")), "must be finite"),
    ],
)
def test_bad_rows_are_named(records, message):
    with pytest.raises(ValueError, match=message):
        plot_layer_scores(records)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "list of records"),
        ("rows", "list of records"),
        ({"layers": []}, "list of records"),
        ([1, 2], "list of records"),
        (rows(value="high"), "value must be a number"),
    ],
)
def test_rows_of_wrong_types_are_named(records, message):
    with pytest.raises(TypeError, match=message):
        plot_layer_scores(records)


def test_dollar_signs_in_names_are_dollar_signs():
    rows = [
        {"student": "a $x^ b$", "base": "$y$", "layer": r"$\x$", "score": "fss", "value": 0.5},
        {"student": "c", "base": "$y$", "layer": r"$\x$", "score": "fss", "value": 0.6},
    ]
    plot_layer_scores(rows).draw_without_rendering()
