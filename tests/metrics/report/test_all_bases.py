"""Rows of Students given all Bases at once."""

import warnings

import pytest
import torch
from population import batches, by_score, compare, data, hooked, related
from reference.several_bases import joint_scores

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import geometry_products, jackknife, transfer_scores

STUDENTS = {"kd 1": related(1), "kd 2": related(2)}
BASES = {"base 1": related(4), "base 2": related(5), "base 3": related(6)}
TEACHER = related(7)
JOINT = ["rs_distilled_all", "teacher_distilled_all", "teacher_only_distilled_all"]


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(*args, **kwargs)


def joint_rows(report):
    return [row for row in report.rows if row["score"] in JOINT]


def values(report):
    return {(row["student"], row["layer"], row["score"]): row["value"] for row in joint_rows(report)}


@pytest.fixture(scope="module")
def report():
    return quiet(STUDENTS, BASES, ["conv2", "conv3"], batches(11), teacher=TEACHER, confidence=0.9, verify=25)


@pytest.mark.parametrize("layer", ["conv2", "conv3"])
@pytest.mark.parametrize("student", STUDENTS)
def test_rows_are_those_of_a_regression_on_all_bases(report, student, layer):
    x, y = data()
    bases = [hooked(model, layer, x) for model in BASES.values()]
    expected = joint_scores(
        hooked(STUDENTS[student], layer, x), bases, torch.nn.functional.one_hot(y), hooked(TEACHER, layer, x)
    )
    rows = by_score(report, layer, student, "all Bases")
    assert list(rows) == JOINT
    for score, row in rows.items():
        assert row["value"] == pytest.approx(expected[score], abs=1e-6)
        assert row["unique_share"] == pytest.approx(expected["unique"], abs=1e-6)


def test_intervals_and_p_values_are_those_of_the_jackknife(report):
    x, y = data()
    features = {name: hooked(model, "conv2", x) for name, model in {**STUDENTS, **BASES, "teacher": TEACHER}.items()}
    features["labels"] = torch.nn.functional.one_hot(y).double()
    products = geometry_products({name: euclidean_distances(each) for name, each in features.items()})
    for name, row in by_score(report, "conv2", "kd 2", "all Bases").items():
        expected = jackknife(products, transfer_scores("kd 2", list(BASES), teacher="teacher")[name], 0.9)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
        # As for pairs: independence of two models is no null hypothesis.
        assert row["p_value"] == (pytest.approx(expected.p_value, rel=1e-4) if name == "rs_distilled_all" else None)


def test_dcor_recomputes_them(report):
    found = report.settings["verification"]
    assert found["scores"] == 2 * (2 * 3 * 12 + 2 * 3) and found["largest_difference"] < 1e-5


def test_one_base_has_none_and_rows_of_pairs_stay():
    one, several = (quiet(STUDENTS, bases, "conv2", batches(11)) for bases in ({"base 1": BASES["base 1"]}, BASES))
    assert not joint_rows(one)
    same = [row for row in several.rows if row["base"] == "base 1"]
    assert [row["score"] for row in one.rows] == [row["score"] for row in same]
    assert [row["value"] for row in one.rows] == pytest.approx([row["value"] for row in same], abs=1e-12)


def test_neither_the_order_of_bases_nor_a_base_named_twice_matters():
    expected = values(quiet(STUDENTS, BASES, "conv2", batches(11)))
    turned = values(quiet(STUDENTS, dict(reversed(BASES.items())), "conv2", batches(11)))
    twice = values(quiet(STUDENTS, {**BASES, "again": BASES["base 2"]}, "conv2", batches(11), verify=25))
    for key, value in expected.items():
        assert turned[key] == pytest.approx(value, abs=1e-9) and twice[key] == pytest.approx(value, abs=1e-9)


def test_a_copy_of_a_base_has_nothing_that_no_base_has():
    with pytest.warns(UserWarning, match=r"rs_distilled_all at conv2 \(copy, all Bases\)"):
        found = compare({"copy": BASES["base 2"]}, BASES, "conv2", batches(11), confidence=0.9)
    (row,) = joint_rows(found)
    assert (row["value"], row["low"], row["p_value"]) == (0, None, None) and row["unique_share"] == pytest.approx(0, abs=1e-9)


def test_a_model_called_all_bases_keeps_its_rows():
    found = quiet(STUDENTS, {"all Bases": BASES["base 1"], "base 2": BASES["base 2"]}, "conv2", batches(11))
    assert set(by_score(found, "conv2", "kd 1", "all Bases")) == {
        "fss", "rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_distilled_all"
    }  # fmt: skip
    assert found.to_markdown().count("| kd 1 | all Bases | conv2 |") == 2


def test_means_over_mini_batches_are_means_of_their_scores():
    x, y = data(24)
    loader = list(zip(x.split(8), y.split(8)))
    few = (x[:4], torch.arange(4) // 2)
    found = quiet(STUDENTS, BASES, "conv2", [*loader, few], population="batch")
    one_hot = torch.eye(3)
    expected = [
        joint_scores(hooked(STUDENTS["kd 1"], "conv2", a), [hooked(each, "conv2", a) for each in BASES.values()], one_hot[b])
        for a, b in loader
    ]
    row = joint_rows(found)[0]
    assert row["value"] == pytest.approx(sum(each["rs_distilled_all"] for each in expected) / 3, abs=1e-6)
    assert row["n"] == 24


def test_unicam_maps_leave_no_images_that_all_bases_share():
    x, y = data()
    found = quiet(STUDENTS, BASES, "conv2", batches(11), localize="unicam", reference=(x[:9], y[:9]))
    assert not joint_rows(found)


def test_text_has_a_table_of_its_own(report):
    text = " ".join(str(report).split())
    assert "Students given all Bases" in text and "over their 6 pairs" in text
    markdown = report.to_markdown()
    assert "| kd 1 | all Bases | conv2 |" in markdown and "**Students given all Bases**" in markdown
    assert "all Bases" in report.to_csv() and "2 Student(s), 3 Base(s)" in repr(report)


@pytest.mark.parametrize("score", JOINT)
def test_seed_control_compares_students_with_the_base_left_out(report, score):
    control = report.seed_control
    records = [row for row in control["left_out"] if (row["score"], row["layer"]) == (score, "conv3")]
    own, null = ([row["value"] for row in records if row["model"] in models] for models in (STUDENTS, BASES))
    assert len(own) == 2 * 3 and len(null) == 3
    assert all(row["model"] == row["left_out"] for row in records if row["model"] in BASES)
    (test,) = (test for test in control["tests"] if (test["score"], test["layer"]) == (score, "conv3"))
    assert test["statistic"] == pytest.approx(sum(own) / 6 - sum(null) / 3, abs=1e-9)
    assert test["smallest_p_value"] == pytest.approx(1 / 10)
    x, y = data()
    bases = [hooked(BASES[name], "conv3", x) for name in ("base 1", "base 3")]
    one_hot = torch.nn.functional.one_hot(y)
    expected = joint_scores(hooked(BASES["base 2"], "conv3", x), bases, one_hot, hooked(TEACHER, "conv3", x))
    found = {row["model"]: row["value"] for row in records if row["left_out"] == "base 2"}
    assert found["base 2"] == pytest.approx(expected[score], abs=1e-6)


def test_two_bases_have_rows_but_no_further_seed_control():
    two = {name: BASES[name] for name in ("base 1", "base 2")}
    found = quiet(STUDENTS, two, "conv2", batches(11))
    assert joint_rows(found) and found.seed_control["left_out"] == []
    assert {test["score"] for test in found.seed_control["tests"]} == {"fss", "rs_distilled"}


def test_groups_and_shared_seeds_apply():
    groups, shared = {"a": ["kd 1"], "b": ["kd 2"]}, [("kd 1", "base 3")]
    found = quiet(STUDENTS, BASES, "conv2", batches(11), groups=groups, shared_seeds=shared).seed_control
    tests = [test for test in found["tests"] if test["score"] == "rs_distilled_all"]
    assert [(test["group"], round(1 / test["smallest_p_value"])) for test in tests] == [("a", 2), ("b", 4)]
    values = {(row["model"], row["left_out"]): row["value"] for row in found["left_out"]}
    # Given its own Base, a Student is not scored.
    assert values["kd 1", "base 1"] is None and values["kd 1", "base 3"] is not None and len(values) == 2 * 3 + 3


def test_mini_batches_have_seed_control_of_their_mean_scores():
    found, whole = (quiet(STUDENTS, BASES, "conv2", batches(size), population=population).seed_control
                    for size, population in ((33, "batch"), (33, "all")))  # fmt: skip
    statistics = [test["statistic"] for test in whole["tests"]]
    assert [test["statistic"] for test in found["tests"]] == pytest.approx(statistics, abs=1e-9)
    several = quiet(STUDENTS, BASES, "conv2", batches(11), population="batch").seed_control
    own, null = ([row["value"] for row in several["left_out"] if row["model"] in models] for models in (STUDENTS, BASES))
    (test,) = (test for test in several["tests"] if test["score"] == "rs_distilled_all")
    assert test["statistic"] == pytest.approx(sum(own) / 6 - sum(null) / 3, abs=1e-9)
