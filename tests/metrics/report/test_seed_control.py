"""Seed control in the report: who is compared with whom, and what is said where nothing can be."""

import pytest
import torch
from population import batches, compare, data, dcor_scores, hooked, related

STUDENTS = {"hinton 1": related(1), "hinton 2": related(2), "hints 1": related(3)}
BASES = {"base 1": related(4), "base 2": related(5), "base 3": related(6)}


def mean(values):
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def report():
    return compare(STUDENTS, BASES, ["conv1", "conv2"], batches(11), teacher=related(7))


def test_there_is_a_test_for_each_question_and_layer(report):
    found = [(test["score"], test["layer"]) for test in report.seed_control["tests"]]
    questions = ["fss", "rs_distilled", "teacher_distilled", "teacher_only_distilled"]
    questions += [f"{question}_all" for question in questions[1:]]
    assert found == [(question, layer) for question in questions for layer in ("conv1", "conv2")]
    assert all(test["smallest_p_value"] == pytest.approx(1 / 20) for test in report.seed_control["tests"])


@pytest.mark.parametrize("score", ["fss", "rs_distilled", "teacher_only_distilled"])
def test_statistics_are_differences_of_mean_scores_over_pairs(report, score):
    x, y = data()
    features = {name: hooked(model, "conv2", x) for name, model in {**STUDENTS, **BASES}.items()}
    teacher = hooked(related(7), "conv2", x)

    def of(own, other):
        return dcor_scores(features[own], features[other], y, teacher)[score]

    across = mean([of(s, b) for s in STUDENTS for b in BASES])
    within = mean([of(b, c) for b in BASES for c in BASES if b != c])
    expected = within - across if score == "fss" else across - within
    (found,) = (t for t in report.seed_control["tests"] if (t["score"], t["layer"]) == (score, "conv2"))
    assert found["statistic"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", ["fss", "rs_distilled", "teacher_distilled"])
def test_the_scores_that_a_test_compares_are_in_the_report(report, score):
    pairs = report.seed_control["pairs"]
    found = {(row["model"], row["given"]): row["value"] for row in pairs if (row["score"], row["layer"]) == (score, "conv2")}
    # Students beside each other are no part of the test.
    assert len(found) == 2 * 9 + 6 and not any(a in STUDENTS and b in STUDENTS for a, b in found)
    across = mean([value for (own, _), value in found.items() if own in STUDENTS])
    null = mean([value for pair, value in found.items() if not set(pair) & set(STUDENTS)])
    (test,) = (t for t in report.seed_control["tests"] if (t["score"], t["layer"]) == (score, "conv2"))
    assert abs(across - null) == pytest.approx(abs(test["statistic"]), abs=1e-9)
    for row in report.rows:
        if (row["layer"], row["score"]) == ("conv2", score):
            assert found[row["student"], row["base"]] == pytest.approx(row["value"], abs=1e-9)


def test_p_values_are_corrected_over_layers_and_undecidable_questions_say_so(report):
    for test in report.seed_control["tests"]:
        assert test["adjusted_p_value"] >= test["p_value"] >= 1 / 20
        # 20 relabelings and two layers: even the most extreme one reaches .10 only.
        assert test["decision"] is None and "undecided" in test["sentence"]


def test_groups_are_tested_each_by_itself():
    groups = {"Hinton": ["hinton 1", "hinton 2"], "hints": ["hints 1"]}
    whole = compare(STUDENTS, BASES, "conv2", batches(11), groups=groups)
    alone = compare({"hinton 1": STUDENTS["hinton 1"], "hinton 2": STUDENTS["hinton 2"]}, BASES, "conv2", batches(11))
    found = [test for test in whole.seed_control["tests"] if test["group"] == "Hinton"]
    for one, other in zip(found, alone.seed_control["tests"]):
        assert one["p_value"] == other["p_value"] and one["statistic"] == pytest.approx(other["statistic"])
        assert one["sentence"].startswith("Hinton")
    assert [each["students"] for each in whole.seed_control["groups"]] == [["hinton 1", "hinton 2"], ["hints 1"]]


def test_shared_seeds_are_swapped_within_pairs():
    pairs = [("hinton 1", "base 1"), ("hinton 2", "base 2")]
    students = {name: STUDENTS[name] for name in ("hinton 1", "hinton 2")}
    bases = {name: BASES[name] for name in ("base 1", "base 2")}
    report = compare(students, bases, "conv2", batches(11), shared_seeds=pairs)
    assert report.seed_control["groups"][0]["shared_seeds"] == [list(pair) for pair in pairs]
    assert report.seed_control["tests"][0]["smallest_p_value"] == pytest.approx(1 / 4)


def test_mini_batches_have_seed_control_of_their_mean_scores():
    loader = batches(11)
    report = compare(STUDENTS, BASES, "conv2", loader, population="batch")
    rows = {(r["student"], r["base"]): r["value"] for r in report.rows if r["score"] == "fss"}
    within = []
    for x, y in loader:
        within += [dcor_scores(hooked(BASES[b], "conv2", x), hooked(BASES[c], "conv2", x), y)["fss"]
                   for b in BASES for c in BASES if b != c]  # fmt: skip
    expected = mean(within) - mean(list(rows.values()))
    assert report.seed_control["tests"][0]["statistic"] == pytest.approx(expected, abs=1e-6)


def test_one_base_gets_a_sentence_instead():
    report = compare(STUDENTS, BASES["base 1"], "conv2", batches(11))
    assert report.seed_control is None
    assert "do not show that the difference comes from distillation" in report.notes[-1]
    assert "another seed of the base may differ from this base as much" in " ".join(str(report).split()).lower()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": {"a": ["hinton 9"]}}, "must name some of the Students"),
        ({"groups": {"a": []}}, "must name some of the Students"),
        ({"shared_seeds": [("hinton 1", "hinton 2")]}, "a Base of"),
        ({"shared_seeds": [("hinton 1", "base 1"), ("hinton 1", "base 2")]}, "twice"),
        ({"base": BASES["base 1"], "groups": {"a": ["hinton 1"]}}, "two Bases"),
    ],
)
def test_groups_and_seeds_that_cannot_be(change, words):
    arguments = {"student": STUDENTS, "base": BASES, "layers": "conv2", "data": batches(11), **change}
    with pytest.raises(ValueError, match=words):
        compare(**arguments)


def test_too_many_relabelings_are_refused_before_any_model_runs():
    def model(x):
        raise AssertionError("a model ran")

    layer = torch.nn.Identity()
    students, bases = ({f"{role} {i}": model for i in range(12)} for role in ("s", "b"))
    with pytest.raises(ValueError, match="2704156 ways"):
        compare(students, bases, {"x": {"student": layer, "base": layer}}, batches(11))
