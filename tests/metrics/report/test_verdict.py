"""The verdict: at most five points that agree with the report's tests, and have no number that the report lacks."""

from __future__ import annotations

import random
import re
from itertools import product
from statistics import mean
from typing import Any, Optional

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from population import batches, compare, related

from captum_kd.metrics import TransferReport
from captum_kd.metrics.inference import QUESTIONS, holm, placebo_test, seed_control
from captum_kd.metrics.inference.verdicts import short_p

LAYERS = ("alpha", "beta", "gamma")
GROUPS = ("red", "green", "blue")
RELEVANCE = ("rs_distilled", "rs_residual", "rs_student", "rs_base")
SHARES = ("teacher_distilled", "teacher_residual", "fss_student_teacher", "fss_base_teacher")
ANSWERS = ("shown", "not shown", "undecided")
SUBJECTS = {
    "accuracy_over_base": "igher accuracy than that of Bases is",
    "rs_distilled": " gain in relevance over other seeds of the Base",
    "teacher_distilled": " larger Teacher's share than between two Bases",
    "over placebos": " larger share of this Teacher than of placebo Teachers",
}


def synthetic(
    seed: int, groups: int, students: int, bases: int, layers: int, placebos: int, *, teacher: bool, labels: bool,
    predictions: bool,
) -> TransferReport:  # fmt: skip
    """A report of random scores, with the tests that such scores have."""
    drawn = random.Random(seed)
    effect = drawn.choice([0.0, 0.02, 0.3])
    shift = drawn.choice([-0.2, 0.0, 0.2])  # of Students' relevance and likeness to the Teacher
    members = {GROUPS[place]: [f"{GROUPS[place]} {chr(97 + each)}" for each in range(students)] for place in range(groups)}
    base_names = [f"base {chr(97 + each)}" for each in range(bases)]
    names = LAYERS[:layers]
    scores = ["fss", *RELEVANCE * labels, *SHARES * teacher]
    rows: list[dict[str, Any]] = []
    matrices: dict[tuple[str, str, str], torch.Tensor] = {}

    def row(student: str, base: str, layer: str, score: str, value: float) -> None:
        rows.append(
            dict(student=student, base=base, layer=layer, score=score, value=value, low=None, high=None, p_value=None,
                 n=100, unique_share=0.5)
        )  # fmt: skip

    asked = [score for score in scores if score in QUESTIONS] + ["accuracy_over_base"] * (labels and predictions)
    for group, own in members.items():
        for score, layer in product(asked, names):
            if score == "accuracy_over_base":
                layer = "predictions"
            matrix = torch.tensor([[drawn.uniform(0.1, 0.2) for _ in range(students + bases)] for _ in range(students + bases)])
            matrix[:students, students:] += effect * (-1 if score == "fss" else 1)
            matrices[group, score, layer] = (matrix + matrix.T) / 2 if score == "fss" else matrix
    for group, own in members.items():
        for (place, student), (other, base) in product(enumerate(own), enumerate(base_names)):
            for score, layer in product(scores, names):
                value = drawn.uniform(0.3, 0.5) + shift * (score in ("rs_student", "fss_student_teacher"))
                if score in QUESTIONS:
                    value = float(matrices[group, score, layer][place, students + other])
                row(student, base, layer, score, value)
            if predictions:
                for score in ["accuracy_student", "accuracy_base", *["accuracy_teacher"] * teacher] * labels + [
                    "agreement_student_teacher", "agreement_base_teacher"
                ] * teacher:  # fmt: skip
                    row(student, base, "predictions", score, drawn.uniform(0.4, 0.9))
                if labels:
                    value = float(matrices[group, "accuracy_over_base", "predictions"][place, students + other])
                    row(student, base, "predictions", "accuracy_over_base", value)
    control: Optional[dict[str, Any]] = None
    if bases > 1:
        tests, pairs = [], []
        for group, score in product(members, asked):
            of_layers = {layer: each for (of, name, layer), each in matrices.items() if (of, name) == (group, score)}
            likeness = {
                layer: tuple(
                    mean(each["value"] for each in rows if each["student"] in members[group] and each["layer"] == layer
                         and each["score"] == name)
                    for name in ("fss_student_teacher", "fss_base_teacher")
                )
                for layer in of_layers
            } if score == "teacher_distilled" else None  # fmt: skip
            found = seed_control(of_layers, students, score, likeness=likeness, has_placebos=placebos > 0)
            tests += [{"group": group if groups > 1 else None, **each._asdict()} for each in found]
            for layer, matrix in of_layers.items():
                for (i, one), (j, two) in product(enumerate(base_names), repeat=2):
                    if i != j and group == "red":
                        value = float(matrix[students + i, students + j])
                        pairs.append(dict(score=score, layer=layer, model=one, given=two, value=value))
        recorded = [
            dict(group=group if groups > 1 else None, students=own, bases=base_names, shared_seeds=[])
            for group, own in members.items()
        ]
        control = dict(tests=tests, groups=recorded, pairs=pairs, left_out=[])
    of_placebos = None
    if placebos and teacher:
        of_placebos = dict(tests=_placebo_tests(drawn, members, rows, names, placebos, bases), shares=[])
    kept = dict(
        n=100, class_counts={"0": 60, "1": 40} if labels else {}, localize=None, population="all", estimator="unbiased",
        confidence=None, cautions=0, models={**{each: "student" for own in members.values() for each in own},
                                             **({"teacher": "teacher"} if teacher else {})},
    )  # fmt: skip
    return TransferReport(rows, control, [], kept, of_placebos)


def _placebo_tests(
    drawn: random.Random, members: Any, rows: Any, layers: Any, placebos: int, bases: int
) -> list[dict[str, Any]]:
    tests = []
    for group, own in members.items():
        family = []
        for layer in layers:
            def of(score: str) -> float:
                return mean(each["value"] for each in rows if (each["score"], each["layer"]) == (score, layer)
                            and each["student"] in own)  # fmt: skip
            share, others = of("teacher_distilled"), [drawn.uniform(0.1, 0.2) for _ in range(placebos)]
            key = group if bases > 1 and len(members) > 1 else None
            test = dict(group=key, score="teacher_distilled", layer=layer, share=share, mean=mean(others), statistic=None,
                        p_value=None, adjusted_p_value=None, decision=None, sentence="", caveats=["Too few placebo Teachers."],
                        likeness=[of("fss_student_teacher"), of("fss_base_teacher")])  # fmt: skip
            if placebos >= 4:
                found = placebo_test(share, others)
                test |= dict(statistic=found.statistic, p_value=found.p_value, caveats=[])
            family.append(test)
        if placebos >= 4:
            for test, adjusted in zip(family, holm([test["p_value"] for test in family])):
                one, other = test["likeness"]
                test |= dict(adjusted_p_value=adjusted, decision=adjusted <= 0.05 and one > other)
        tests += family
        if bases == 1:  # there are no groups without seed control
            break
    return tests


REPORTS = strategies.builds(
    synthetic,
    strategies.integers(0, 10**6),
    groups=strategies.integers(1, 3),
    students=strategies.sampled_from([1, 2, 4]),
    bases=strategies.sampled_from([1, 2, 4]),
    layers=strategies.integers(1, 3),
    placebos=strategies.sampled_from([0, 2, 5]),
    teacher=strategies.booleans(),
    labels=strategies.booleans(),
    predictions=strategies.booleans(),
)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+|\d+e-\d+|\d+", text))


def known_numbers(report: TransferReport) -> set[str]:
    """All numbers that a sentence may have: counts, p-values, and means over the pairs of a group, of all pairs and of nulls."""
    control = report.seed_control or {"tests": [], "groups": [], "pairs": []}
    found = {str(each) for each in range(1, 13)} | {"100", "30", "0.600"}  # models, layers, inputs, the most frequent class
    found.add(str(len({row["student"] for row in report.rows})))
    groups = [each["students"] for each in control["groups"]] or [None]
    for score, layer, students in product(
        {row["score"] for row in report.rows}, {row["layer"] for row in report.rows}, [*groups, None]
    ):
        values = [
            row["value"]
            for row in report.rows
            if (row["score"], row["layer"]) == (score, layer) and (students is None or row["student"] in students)
        ]
        nulls = [each["value"] for each in control["pairs"] if (each["score"], each["layer"]) == (score, layer)]
        found |= {f"{abs(mean(each)):.3f}" for each in (values, nulls) if each}
    for test in [*control["tests"], *(report.placebos or {"tests": []})["tests"]]:
        found |= {f"{abs(test[name]):.3f}" for name in ("statistic", "share", "mean") if test.get(name) is not None}
        found |= {short_p(test["adjusted_p_value"])} if test["adjusted_p_value"] is not None else set()
        found |= set().union(*map(numbers, test["caveats"])) if test["caveats"] else set()
    return found


@MANY
@given(REPORTS)
def test_it_has_at_most_five_points_of_whole_sentences_with_numbers_of_the_report(report: TransferReport) -> None:
    sentences = report.verdict
    assert 1 <= len(sentences) <= 5
    for sentence in sentences:
        assert sentence.endswith(".") and all(each[0].isupper() for each in sentence.split(". "))
        assert "None" not in sentence and "nan" not in sentence
        assert numbers(sentence) <= known_numbers(report), (sentence, numbers(sentence) - known_numbers(report))


def answers(sentences: list[str], subject: str) -> Optional[dict[str, str]]:
    """What the verdict says of each group (None: of all Students)."""
    parts = [part for sentence in sentences for part in sentence.split(". ") if subject in part]
    if not parts:
        return None
    (part,) = parts
    _, *pieces = re.split(r"(?<=[ ,])(not shown|shown|undecided) for ", part[part.index(subject):])
    counts = {answer: int(words.split()[0]) for answer, words in zip(pieces[::2], pieces[1::2]) if " of 3 groups" in words}
    found = {
        group: answer
        for answer, words in zip(pieces[::2], pieces[1::2])
        for group in (*GROUPS, "Student")
        if re.search(rf"\b{group}", re.sub(r"\(.*?\)", "", words))
    }
    assert not counts or len(found) + sum(counts.values()) == len(GROUPS)
    return {**found, **counts}


def expected(tests: Any, score: str, group: Optional[str], allowed: Any = lambda test: True) -> Optional[str]:
    family = [test for test in tests if (test["score"], test["group"]) == (score, group)]
    if not family:
        return None
    if any(test["decision"] and allowed(test) for test in family):
        return "shown"
    return "undecided" if all(test["decision"] is None for test in family) else "not shown"


@MANY
@given(REPORTS)
def test_no_answer_contradicts_its_test(report: TransferReport) -> None:
    sentences = report.verdict
    control = report.seed_control or {"tests": [], "groups": []}

    def average(score: str, layer: str, students: Any = None) -> float:
        return mean(
            row["value"] for row in report.rows
            if (row["score"], row["layer"]) == (score, layer) and (students is None or row["student"] in students)
        )  # fmt: skip

    is_crowded = len(control["groups"]) > 2
    unnamed: dict[tuple[str, str], int] = {}  # groups that are only counted, by question and answer
    for each in control["groups"]:
        group, students = each["group"], each["students"]
        for score in ("accuracy_over_base", "rs_distilled", "teacher_distilled"):

            def follows_more(test: Any) -> bool:
                if score != "rs_distilled":
                    return True
                return average("rs_student", test["layer"], students) > average("rs_base", test["layer"])

            all_found = answers(sentences, SUBJECTS[score])
            found = (all_found or {}).get(group or "Student")
            wanted = expected(control["tests"], score, group, follows_more)
            if score == "teacher_distilled" and report.placebos is not None:
                wanted = None  # the placebo Teachers answer instead
            if score == "rs_distilled" and wanted is not None and found is None and not (is_crowded and all_found):
                assert wanted != "shown" and any("o gain in RS: " in sentence for sentence in sentences)
            elif is_crowded and wanted not in (None, "shown"):
                assert found is None
                unnamed[score, wanted] = unnamed.get((score, wanted), 0) + 1
            else:
                assert found == wanted, (score, group, sentences)
    if report.placebos is not None:
        for group in {test["group"] for test in report.placebos["tests"]}:
            found = (answers(sentences, SUBJECTS["over placebos"]) or {}).get(group or "Student")
            wanted = expected(report.placebos["tests"], "teacher_distilled", group)
            if is_crowded and wanted != "shown":
                unnamed["over placebos", str(wanted)] = unnamed.get(("over placebos", str(wanted)), 0) + 1
                wanted = None
            assert found == wanted
    for score, answer in product(SUBJECTS, ANSWERS[1:]):
        assert (answers(sentences, SUBJECTS[score]) or {}).get(answer, 0) == unnamed.get((score, answer), 0)


@MANY
@given(REPORTS)
def test_what_is_missing_is_named(report: TransferReport) -> None:
    text = " ".join(report.verdict)
    if "undecided" in text and report.placebos is None:
        assert "could decide" in report.verdict[-1] or "too many layers" in report.verdict[-1]
    if report.seed_control is None:
        assert "another seed of the base may differ" in report.verdict[-1].lower()
    if not report.settings["class_counts"]:
        assert "ithout labels" in report.verdict[0]
    assert "teacher" in report.settings["models"] or "no Teacher" in text
    if SUBJECTS["teacher_distilled"] + " is shown" in text:
        assert "Only placebo Teachers can exclude" in text


def test_without_any_gain_that_comes_first() -> None:
    report = synthetic(0, 1, 4, 4, 2, 0, teacher=True, labels=True, predictions=True)
    for row in report.rows:
        row["value"] = 0.1 if row["score"] == "rs_student" else 0.9 if "accuracy" in row["score"] else row["value"]
    assert report.verdict[0].startswith("No gain in RS: RS of Students is not above that of Bases at any layer (at beta: 0.100 ")
    assert report.verdict[1].startswith("Accuracy on 100 inputs is ")


def test_accuracy_near_chance_comes_first() -> None:
    report = synthetic(0, 1, 2, 2, 2, 0, teacher=True, labels=True, predictions=True)
    for row in report.rows:
        row["value"] = 0.61 if row["score"] == "accuracy_student" else 0.9 if "accuracy" in row["score"] else row["value"]
    first, second, *_ = report.verdict
    assert first.startswith("Caution: these networks cannot be told from chance: red a and red b. Scores")
    assert "0.610 for Students, 0.900 for Bases and 0.900 for the Teacher (0.600 by always naming" in second


def test_a_yes_over_placebos_needs_more_than_two_bases_differ_by() -> None:
    report = synthetic(0, 1, 4, 4, 1, 5, teacher=True, labels=True, predictions=False)
    assert report.placebos is not None and report.seed_control is not None
    report.placebos["tests"][0] |= dict(decision=True, adjusted_p_value=0.01)
    (yes,) = (sentence for sentence in report.verdict if "placebo" in sentence)
    assert "is shown for Students at alpha (" in yes and "start from the Teacher's weights" in yes
    name = "teacher_distilled_over_placebos"
    report.seed_control["tests"].append(dict(report.seed_control["tests"][0], score=name, decision=False))
    (no,) = (sentence for sentence in report.verdict if "placebo" in sentence)
    assert "is not shown for Students (" in no and "but two Bases differ as much" in no


def test_a_failed_check_comes_first() -> None:
    report = synthetic(0, 1, 2, 2, 1, 0, teacher=False, labels=True, predictions=False)
    report.settings["verification"] = dict(dcor="0.7", inputs=20, scores=1, largest_difference=0.25, where="fss at alpha")
    assert report.verdict[0].startswith("Caution: do not use this report, since dcor differs from it by up to 0.25")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["RS of the part that only the Student has", "no Teacher", "4 Students and 4 Bases could decide"]),
        ({"teacher": True, "predictions": True}, ["accuracy on 33", "only other seeds of the Base and placebo Teachers"]),
        ({"labels": False}, ["Without labels", "no Teacher"]),
        ({"localize": "gradcam", "localize_target": "label"}, ["maps of their own labels"]),
        ({"population": "batch"}, ["only the Student has"]),
    ],
)
def test_one_student_and_one_base_get_a_verdict_of_every_kind_of_report(options: Any, words: list[str]) -> None:
    options = {**options, **({"teacher": related(3)} if "teacher" in options else {})}
    data = batches(11) if options.get("labels", True) else [(inputs, None) for inputs, _ in batches(11)]
    found = compare(related(1), related(2), ["conv1", "conv2", "conv3"], data, **options).verdict
    assert len(found) <= 5
    for word in words:
        assert word.lower() in " ".join(found).lower()


def test_of_many_groups_only_those_with_a_yes_are_named() -> None:
    report = synthetic(2, 3, 4, 4, 2, 0, teacher=True, labels=True, predictions=True)
    assert report.seed_control is not None
    for row in report.rows:
        row["value"] = 0.9 if row["score"].startswith(("accuracy_", "rs_student")) else row["value"]
    for test in report.seed_control["tests"]:
        is_yes = (test["group"], test["score"], test["layer"]) == ("green", "rs_distilled", "beta")
        test |= dict(decision=is_yes, adjusted_p_value=0.03 if is_yes else 0.5)
    accuracy, gain, teacher, limits = report.verdict
    assert accuracy.startswith("Accuracy on 100 inputs is 0.900 to 0.900 for 3 groups of Students, 0.900 for Bases and 0.900 for")
    assert "is not shown for 3 of 3 groups" in accuracy and "is not shown for 3 of 3 groups" in teacher
    assert re.search(r"is shown for green at beta of 2 layers \(0.\d+ against 0.\d+, p = 0.030\) and not shown for 2 of 3", gain)
    assert limits == "P-values are corrected over layers, not over groups, so a single yes among many groups may be chance."


def test_the_numbers_are_of_the_layer_with_the_smallest_p_value() -> None:
    report = synthetic(0, 1, 4, 4, 2, 0, teacher=True, labels=True, predictions=False)
    assert report.seed_control is not None
    for test in report.seed_control["tests"]:
        is_first = test["layer"] == "alpha"
        test |= dict(decision=False, adjusted_p_value=0.06 if is_first else 0.4, statistic=0.1 if is_first else 0.2)
    assert re.search(r"not shown for Students \(clearest at alpha: 0.\d+ against 0.\d+, p = 0.060\)", report.verdict[-1])
