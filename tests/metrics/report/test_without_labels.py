"""Reports on data without labels."""

import csv
import io
import warnings

import pytest
import torch
from population import batches, by_score, compare, data, dcor_scores, hooked, related

from captum_kd.metrics.inference import transfer_scores

STUDENTS = {"kd 1": related(1), "kd 2": related(2)}
BASES = {"base 1": related(4), "base 2": related(5), "base 3": related(6)}
TEACHER = related(7)
PLACEBOS = {f"placebo {seed}": related(seed) for seed in (8, 9, 10, 11)}
SHARES = ["teacher_distilled", "teacher_residual"]


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(*args, **kwargs)


def inputs_only(size=11):
    return [(x, None) for x, _ in batches(size)]


def full(labels, **kwargs):
    loader = batches(11) if labels else inputs_only()
    given = {"teacher": TEACHER, "placebo_teachers": PLACEBOS, "confidence": 0.9, "progression": True, **kwargs}
    return quiet(STUDENTS, BASES, ["conv2", "conv3"], loader, labels=labels, **given)


@pytest.fixture(scope="module")
def report():
    return full(False, verify=20)


def needs_labels(name):
    return name.startswith("rs_") or "teacher_only" in name


def test_rows_are_those_of_a_report_with_labels_without_those_that_need_labels(report):
    expected = [row for row in full(True).rows if not needs_labels(row["score"])]
    assert len(report.rows) == len(expected)
    for row, other in zip(report.rows, expected):
        assert all(row[key] == other[key] for key in ("student", "base", "layer", "score", "n"))
        for key in ("value", "low", "high", "unique_share"):
            assert row[key] == (None if other[key] is None else pytest.approx(other[key], abs=1e-12))
        assert row["p_value"] is None


def test_scores_are_those_of_dcor(report):
    x, y = data()
    student, base, teacher = (hooked(model, "conv2", x) for model in (STUDENTS["kd 1"], BASES["base 1"], TEACHER))
    expected = dcor_scores(student, base, y, teacher)
    rows = by_score(report, "conv2", "kd 1", "base 1")
    for score in ("fss", "fss_student_teacher", "fss_base_teacher", *SHARES):
        assert rows[score]["value"] == pytest.approx(expected[score], abs=1e-6)
    assert report.settings["verification"]["largest_difference"] < 1e-6


def test_seed_control_and_placebo_tests_answer_the_questions_that_need_no_labels(report):
    asked = list(dict.fromkeys(test["score"] for test in report.seed_control["tests"]))
    assert asked == ["fss", "teacher_distilled", "teacher_distilled_over_placebos", "teacher_distilled_all"]
    assert {test["score"] for test in report.placebos["tests"]} == {"teacher_distilled"}
    assert {row["score"] for row in report.placebos["shares"]} == {"teacher_distilled"}
    others = {(t["score"], t["layer"]): t for t in full(True).seed_control["tests"]}
    for test in report.seed_control["tests"]:
        assert test["p_value"] == others[test["score"], test["layer"]]["p_value"]


def test_no_text_speaks_of_labels(report):
    for text in (str(report), report.to_markdown()):
        for word in ("RS", "elevance", "beyond", "Classes", "class ", "Near chance", "No gain"):
            left = text.replace("There are no relevance", "").replace("No labels: there are no relevance scores.", "")
            left = left.replace("Differences in geometry and relevance", "")
            assert word not in left, (word, text)
    assert "No labels: there are no relevance scores." in str(report)
    assert "unique" in str(report) and "unique" in report.to_markdown()
    assert report.settings["class_counts"] == {} and report.settings["n"] == 33 and report.settings["n_permutations"] is None
    table = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(table) == len(report.rows)
    report.to_json()
    report.plot()


def test_without_a_teacher_there_is_fss():
    found = quiet(STUDENTS, BASES, ["conv2"], inputs_only(), labels=False, confidence=0.9)
    assert {row["score"] for row in found.rows} == {"fss"}
    str(found), found.to_markdown(), found.plot()


def test_means_over_mini_batches():
    found = quiet(STUDENTS, BASES, ["conv2"], inputs_only(), labels=False, teacher=TEACHER, population="batch", confidence=0.9)
    models = STUDENTS["kd 1"], BASES["base 1"], TEACHER
    expected = []
    for x, y in batches(11):
        student, base, teacher = (hooked(model, "conv2", x) for model in models)
        expected.append(dcor_scores(student, base, y, teacher))
    rows = by_score(found, "conv2", "kd 1", "base 1")
    for score in ("fss", *SHARES):
        assert rows[score]["value"] == pytest.approx(sum(each[score] for each in expected) / 3, abs=1e-6)
    assert rows["fss"]["n"] == 33


@pytest.mark.parametrize(
    "batch",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x],
        lambda x: (x, None),
        lambda x: {"pixel_values": x},
        lambda x: {"pixel_values": x, "labels": torch.zeros(len(x), 5)},  # not read
    ],
)
def test_batches_without_labels(batch):
    loader = [batch(x) for x, _ in batches(11)]
    found = quiet(related(1), related(4), ["conv2"], loader, labels=False)
    expected = quiet(related(1), related(4), ["conv2"], batches(11))
    assert found.rows[0]["value"] == pytest.approx(expected.rows[0]["value"], abs=1e-12)


def test_unpack_may_return_no_labels():
    loader = [{"image": x} for x, _ in batches(11)]
    found = quiet(related(1), related(4), ["conv2"], loader, labels=False, unpack=lambda batch: (batch["image"], None))
    assert found.settings["n"] == 33


@pytest.mark.parametrize("localize", ["gradcam", "hirescam"])
def test_localized_scores_explain_predictions(localize):
    found = quiet(related(1), related(4), ["conv2"], inputs_only(), labels=False, localize=localize)
    expected = quiet(related(1), related(4), ["conv2"], batches(11), localize=localize)
    assert found.rows[0]["value"] == pytest.approx(expected.rows[0]["value"], abs=1e-12)


X, Y = data()


@pytest.mark.parametrize(
    ("loader", "options", "error", "message"),
    [
        ([(X, Y)], {"labels": False}, TypeError, r"unpack=lambda batch: \(batch\[0\], None\)"),
        ([(X, None), (X, Y)], {"labels": False}, TypeError, "is not None"),
        ([(X, Y), (X, None)], {}, TypeError, r"Comparisons\(labels=False\)"),
        ([(X, None)], {}, TypeError, r"Comparisons\(labels=False\)"),
        ([X], {}, TypeError, r"Comparisons\(labels=False\)"),
        ([{"pixel_values": X}], {}, ValueError, r"Comparisons\(labels=False\)"),
        ([{"images": X}], {"labels": False}, ValueError, "has the key .images."),
        ([X[:4]], {"labels": False}, ValueError, "at least 5"),
        ([X[:3]], {"labels": False, "population": "batch"}, ValueError, "4 inputs or more"),
        ([X], {"labels": False, "class_embeddings": torch.eye(3)}, ValueError, "class_embeddings"),
        ([X], {"labels": False, "localize": "gradcam", "localize_target": "label"}, ValueError, 'target="predicted"'),
        ([X], {"labels": None}, TypeError, "labels must be"),
    ],
)
def test_errors_name_what_to_pass(loader, options, error, message):
    with pytest.raises(error, match=message):
        quiet(related(1), related(4), ["conv2"], loader, **options)


def test_scores_of_a_pair_without_labels():
    assert list(transfer_scores(labels=None)) == ["fss"]
    names = ["fss", "fss_student_teacher", "fss_base_teacher", *SHARES]
    assert list(transfer_scores(labels=None, teacher="teacher")) == names
    assert list(transfer_scores(base=["a", "b"], labels=None, teacher="teacher")) == ["teacher_distilled_all"]
    assert list(transfer_scores(base=["a", "b"], labels=None)) == []
