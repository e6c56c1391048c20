"""Placebo Teachers in the report: their rows, seed control, t test and words."""

from __future__ import annotations

import copy
import csv
import io
import json
import warnings
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from population import batches, by_score, compare, data, hooked, related
from reference import literal
from reference.one_against_sample import t_test
from scipy import stats
from torch import Tensor

from captum_kd.metrics import TransferReport, attribution_agreement
from captum_kd.metrics.inference import seed_control
from captum_kd.metrics.report.notes import no_gain
from captum_kd.metrics.report import seed_groups
from captum_kd.metrics.report.placebos import control_placebos

STUDENTS = {f"kd {seed}": related(seed) for seed in range(3)}
BASES = {f"base {seed}": related(10 + seed) for seed in range(3)}
PLACEBOS = {f"placebo {seed}": related(20 + seed) for seed in range(4)}
TEACHER = related(30)
OVER = {
    "teacher_distilled_over_placebos": (False, False), "teacher_residual_over_placebos": (True, False),
    "teacher_only_distilled_over_placebos": (False, True), "teacher_only_residual_over_placebos": (True, True),
}  # fmt: skip


def quiet(*args: Any, **kwargs: Any) -> TransferReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(*args, **kwargs)


@pytest.fixture(scope="module")
def report() -> TransferReport:
    return quiet(
        STUDENTS, BASES, ["conv2", "conv3"], batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS, confidence=0.9,
        n_permutations=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def features() -> dict[str, Tensor]:
    x = data()[0]
    return {name: hooked(model, "conv3", x) for name, model in {**STUDENTS, **BASES, **PLACEBOS, "teacher": TEACHER}.items()}


def rendered(features: dict[str, Tensor], own: str, other: str, only: bool, rows: slice | list[int] = slice(None)) -> float:
    x = {name: each[rows] for name, each in features.items()}
    y = data()[1][rows] if only else None
    return float(literal.share_over_placebos(x[own], x[other], x["teacher"], [x[name] for name in PLACEBOS], y))


@pytest.mark.parametrize("score", OVER)
def test_rows_are_the_share_minus_the_mean_share_of_the_placebos(report, features, score) -> None:
    is_residual, only = OVER[score]
    for student, base in (("kd 0", "base 2"), ("kd 2", "base 0")):
        pair = (base, student) if is_residual else (student, base)
        row = by_score(report, "conv3", student, base)[score]
        assert row["value"] == pytest.approx(rendered(features, *pair, only), abs=1e-6)
        assert row["p_value"] is None and row["n"] == 33 and 0 < row["unique_share"] < 1


@pytest.mark.parametrize("score", OVER)
def test_intervals_are_those_of_the_difference_with_each_input_left_out(report, features, score) -> None:
    is_residual, only = OVER[score]
    pair = ("base 1", "kd 1") if is_residual else ("kd 1", "base 1")
    n = 33
    values = torch.tensor([rendered(features, *pair, only, [i for i in range(n) if i != out]) for out in range(n)])
    error = float(((n - 1) / n * (values - values.mean()).square().sum()).sqrt())
    low, high = stats.t.interval(0.9, n - 1, rendered(features, *pair, only), error)
    row = by_score(report, "conv3", "kd 1", "base 1")[score]
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("only", [False, True])
def test_seed_control_is_exact(report, features, only) -> None:
    """All 20 ways to call three of the six models Students, by loops."""
    names = [*STUDENTS, *BASES]
    value = {(a, b): rendered(features, a, b, only) for a in names for b in names if a != b}

    def statistic(students: tuple[str, ...]) -> float:
        bases = [name for name in names if name not in students]
        across = [value[s, b] for s in students for b in bases]
        within = [value[a, b] for a in bases for b in bases if a != b]
        return sum(across) / len(across) - sum(within) / len(within)

    every = [statistic(students) for students in combinations(names, 3)]
    score = "teacher_only_distilled_over_placebos" if only else "teacher_distilled_over_placebos"
    (test,) = (t for t in report.seed_control["tests"] if (t["score"], t["layer"]) == (score, "conv3"))
    assert test["statistic"] == pytest.approx(every[0], abs=1e-6)
    assert test["p_value"] == sum(each >= every[0] - 1e-7 for each in every) / 20
    rows = [row for row in report.seed_control["pairs"] if (row["score"], row["layer"]) == (score, "conv3")]
    pairs = {(row["model"], row["given"]): row["value"] for row in rows}
    assert pairs["base 0", "base 1"] == pytest.approx(value["base 0", "base 1"], abs=1e-6)


@pytest.mark.parametrize("score", ["teacher_distilled", "teacher_only_distilled"])
def test_the_teacher_is_tested_against_the_spread_of_the_placebos(report, score) -> None:
    assert report.placebos is not None
    for layer in ("conv2", "conv3"):
        own = [row["value"] for row in report.rows if (row["score"], row["layer"]) == (score, layer)]
        found = [each for each in report.placebos["shares"] if (each["score"], each["layer"]) == (score, layer)]
        assert len(own) == 9 and len(found) == 36
        of_placebos = [sum(each["value"] for each in found if each["placebo"] == name) / 9 for name in PLACEBOS]
        expected = t_test(sum(own) / 9, of_placebos)
        (test,) = (t for t in report.placebos["tests"] if (t["score"], t["layer"]) == (score, layer))
        assert test["statistic"] == pytest.approx(expected.statistic) and test["p_value"] == pytest.approx(expected.pvalue)
        assert min(1, 2 * test["p_value"]) >= test["adjusted_p_value"] >= test["p_value"]
        assert test["decision"] is (test["adjusted_p_value"] <= 0.05 and test["likeness"][0] > test["likeness"][1])
        row = by_score(report, layer, "kd 1", "base 2")
        shares = [each["value"] for each in found if (each["student"], each["base"]) == ("kd 1", "base 2")]
        over = row[score]["value"] - sum(shares) / 4
        assert over == pytest.approx(row[f"{score}_over_placebos"]["value"], abs=1e-12)


@pytest.mark.parametrize("copies", [1, 3, 5])
def test_a_placebo_equal_to_the_teacher_does_not_differ_from_it(copies) -> None:
    placebos = {str(place): TEACHER for place in range(copies)}
    students = {name: STUDENTS[name] for name in ("kd 0", "kd 1")}
    found = quiet(students, BASES, "conv3", batches(11), teacher=TEACHER, placebo_teachers=placebos, confidence=0.9)
    for row in found.rows:
        if row["score"] in OVER:
            assert max(abs(row[key]) for key in ("value", "low", "high")) < 1e-14  # sums of products differ by rounding
    assert max(abs(t["statistic"]) for t in found.seed_control["tests"] if t["score"] in OVER) < 1e-14
    assert {t["p_value"] for t in found.placebos["tests"]} == {None}
    assert found.notes[0].startswith("Placebo Teacher 0 has the scores of the Teacher everywhere, as a copy would.")
    assert sum("as a copy would" in note for note in found.notes) == (copies + 1) * copies // 2
    assert "no t test of this Teacher, because some placebo Teachers are copies" in " ".join(str(found).split())
    assert {t["p_value"] for t in found.seed_control["tests"] if t["score"] in OVER} == {1.0}


@pytest.mark.parametrize("option", [{"block_size": 5}, {"memory_limit": 10_000, "block_size": 7}, {"verify": 20}])
def test_blocks_and_files_give_the_same(report, option) -> None:
    found = quiet(
        STUDENTS, BASES, ["conv2", "conv3"], batches(8), teacher=TEACHER, placebo_teachers=PLACEBOS, confidence=0.9,
        n_permutations=0, **option,
    )  # fmt: skip
    for one, other in zip(found.rows, report.rows):
        assert one["score"] == other["score"]
        for key in ("value", "low", "high"):
            assert one[key] == pytest.approx(other[key], abs=1e-5)
    for one, other in zip(found.placebos["shares"], report.placebos["shares"]):
        assert one["value"] == pytest.approx(other["value"], abs=1e-5)
    if "verify" in option:
        checked = found.settings["verification"]
        assert checked["scores"] == 16 * 18 + 3 * 6 and checked["largest_difference"] < 1e-5


def test_mini_batches_have_mean_differences() -> None:
    loader = batches(11)
    arguments = dict(teacher=TEACHER, placebo_teachers=PLACEBOS)
    pooled = quiet(STUDENTS, BASES, "conv3", loader, population="batch", **arguments)
    single = [quiet(STUDENTS, BASES, "conv3", [batch], **arguments) for batch in loader]
    for score in OVER:
        of_batches = [by_score(each, "conv3", "kd 0", "base 0")[score]["value"] for each in single]
        assert by_score(pooled, "conv3", "kd 0", "base 0")[score]["value"] == pytest.approx(sum(of_batches) / 3, abs=1e-9)
    assert pooled.placebos["tests"][0]["mean"] == pytest.approx(sum(each.placebos["tests"][0]["mean"] for each in single) / 3)


def test_one_pair_has_the_t_test_and_no_seed_control() -> None:
    found = quiet(STUDENTS["kd 0"], BASES["base 0"], "conv3", batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS)
    assert found.seed_control is None and found.placebos["tests"][0]["p_value"] is not None


def test_fewer_than_four_placebos_have_no_t_test_and_the_report_says_so_once() -> None:
    few = dict(list(PLACEBOS.items())[:3])
    found = quiet(STUDENTS, BASES, ["conv2", "conv3"], batches(11), teacher=TEACHER, placebo_teachers=few)
    for test in found.placebos["tests"]:
        assert (test["p_value"], test["statistic"], test["decision"]) == (None, None, None)
        assert "needs at least 4 placebo Teachers, got 3" in test["sentence"]
    verdict, _, tables = str(found).partition("\n\n")
    assert " ".join(verdict.split()).count("needs at least 4") == tables.count("needs at least 4") == 1


def test_groups_are_tested_each_by_itself(report) -> None:
    groups = {"one": ["kd 0", "kd 1"], "other": ["kd 2"]}
    found = quiet(STUDENTS, BASES, "conv3", batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS, groups=groups)
    tests = {test["group"]: test for test in found.placebos["tests"] if test["score"] == "teacher_distilled"}
    assert set(tests) == set(groups) and tests["one"]["sentence"].startswith("one, conv3: ")
    values = [by_score(found, "conv3", "kd 2", base)["teacher_distilled"]["value"] for base in BASES]
    assert tests["other"]["share"] == pytest.approx(sum(values) / 3)


def test_layers_are_the_teachers_unless_a_placebo_has_its_own() -> None:
    layers = {"x": {"student": "conv2", "base": "conv2", "teacher": "conv3", "placebo 1": "conv2"}}
    found = quiet(STUDENTS, BASES, layers, batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS)
    of_models = found.settings["layers"]["x"]
    assert [of_models[name] for name in ("teacher", *PLACEBOS)] == ["conv3", "conv3", "conv2", "conv3", "conv3"]
    assert found.settings["models"]["placebo 1"] == "placebo"


@pytest.mark.parametrize("localize", ["gradcam", "unicam"])
def test_their_images_are_reduced_as_the_teachers_are(localize) -> None:
    x, y = data(65)
    options: dict[str, Any] = {"reference": (x, y)} if localize == "unicam" else {}
    placebos = {"same": TEACHER, "other": PLACEBOS["placebo 0"]}
    found = quiet(
        STUDENTS, BASES["base 0"], "conv3", batches(11), teacher=TEACHER, placebo_teachers=placebos, localize=localize, **options
    )
    for each in found.placebos["shares"]:
        if each["placebo"] == "same":
            row = by_score(found, "conv3", each["student"])[each["score"]]
            assert each["value"] == pytest.approx(row["value"], abs=1e-12)


def test_tables_hold_them(report) -> None:
    read = list(csv.DictReader(io.StringIO(report.to_csv(), newline="")))
    assert sum(row["score"] in OVER for row in read) == 4 * 18
    assert json.loads(report.to_json())["placebos"] == report.to_dict()["placebos"]
    for text in (str(report), report.to_markdown()):
        assert "The Teacher's share over placebo Teachers" in text and "Placebo Teachers: " in text
    assert max(map(len, str(report).splitlines())) <= 100
    assert len(report.plot().axes) > 4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"teacher": None}, ValueError, "but there is none; pass teacher="),
        ({"placebo_teachers": {}}, ValueError, "placebo_teachers is an empty mapping"),
        ({"placebo_teachers": TEACHER}, TypeError, "placebo_teachers must be a dict of models by name, got ConvNet"),
        ({"placebo_teachers": [TEACHER]}, TypeError, "got list"),
        ({"placebo_teachers": TEACHER.state_dict()}, TypeError, "placebo_teachers must be"),
        ({"placebo_teachers": {"a": 3}}, TypeError, r"placebo_teachers\['a'\] must be callable"),
        ({"placebo_teachers": {1: TEACHER}}, TypeError, "names in placebo_teachers must be strings"),
        ({"placebo_teachers": {"kd 0": TEACHER}}, ValueError, "Two models are called 'kd 0'"),
        ({"placebo_teachers": {"teacher": TEACHER}}, ValueError, "Two models are called 'teacher'"),
        ({"layers": {"x": {"student": "conv2", "base": "conv2"}}}, ValueError, "has no layer for teacher"),
    ],
)
def test_placebos_that_cannot_be(change, error, words) -> None:
    arguments = dict(student=STUDENTS, base=BASES, layers="conv2", data=batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS)
    with pytest.raises(error, match=words):
        compare(**{**arguments, **change})


# ------------------------------------------------------------------------- words


def taught(seed: int, share: float) -> torch.nn.Module:
    """A network whose weights are partly the Teacher's, in place of distillation."""
    model = related(seed)
    with torch.no_grad():
        for own, teachers in zip(model.parameters(), TEACHER.parameters()):
            own.lerp_(teachers, share)
    return model


def test_the_verdict_on_the_share_is_given_the_similarities_to_the_teacher(monkeypatch) -> None:
    given = {}

    def recorded(scores: Any, students: int, question: str, **options: Any) -> Any:
        given[question] = options["likeness"]
        return seed_control(scores, students, question, **options)

    monkeypatch.setattr(seed_groups, "seed_control", recorded)
    groups = {"two": ["kd 0", "kd 2"]}
    found = quiet(STUDENTS, BASES, "conv2", batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS, groups=groups)
    mean = {
        score: sum(by_score(found, "conv2", s, b)[score]["value"] for s in groups["two"] for b in BASES) / 6
        for score in ("fss_student_teacher", "fss_base_teacher")
    }
    assert given["fss"] is given["rs_distilled"] is None
    for question in ("teacher_distilled", "teacher_only_distilled", "teacher_distilled_over_placebos"):
        assert given[question]["conv2"] == pytest.approx(tuple(mean.values()))


def test_students_that_took_from_the_teacher_are_told_and_their_other_explanations_with_them() -> None:
    students = {f"kd {seed}": taught(seed, 0.5) for seed in range(4)}
    bases = {f"base {seed}": related(10 + seed) for seed in range(4)}
    alone = quiet(students, bases, "conv2", batches(11), teacher=TEACHER)
    beside = quiet(students, bases, "conv2", batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS)
    decisions = {test["score"]: test["decision"] for test in beside.seed_control["tests"]}
    assert decisions["teacher_distilled"] and decisions["teacher_distilled_over_placebos"]
    texts = [" ".join(str(each).split()) for each in (alone, beside)]
    for text, own in zip(texts, (alone, beside)):
        (test,) = (test for test in own.seed_control["tests"] if test["score"] == "teacher_distilled")
        assert f"Teacher's share {test['statistic']:+.3f}* " in text
    assert texts[0].count("Students and Bases must share epochs, data, augmentation") == 1
    assert texts[0].count("can also come from longer training") == 1 and "longer training" not in texts[1]
    assert "share over placebo Teachers" in texts[1]


def test_answers_of_several_layers_share_a_row() -> None:
    names = [f"{role} {seed}" for role in ("kd", "base") for seed in range(5)]
    models = {name: related(seed) for seed, name in enumerate(names)}
    students, bases = ({name: model for name, model in models.items() if name.startswith(role)} for role in ("kd", "base"))
    found = quiet(students, bases, ["conv2", "conv3"], batches(11))
    first, second = (test for test in found.seed_control["tests"] if test["score"] == "rs_distilled")
    assert first["decision"] is second["decision"] is False
    text = " ".join(str(found).split())
    assert f"RS of distilled features {first['statistic']:+.3f} {second['statistic']:+.3f} " in text
    assert "no mark: no evidence" in text


def test_the_null_stands_below_each_score_that_has_one(report) -> None:
    lines = str(report).splitlines()
    nulls = [line for line in lines if line.startswith("null ")]
    assert len(nulls) == 8  # two layers in four tables
    (test,) = (t for t in report.seed_control["tests"] if (t["score"], t["layer"]) == ("rs_distilled_all", "conv2"))
    own, null = (float(next(line for line in lines[at:] if line.startswith(name)).split()[-3])
                 for at in [lines.index(next(line for line in lines if line.startswith("Students given all Bases")))]
                 for name in ("but one", "null"))  # fmt: skip
    assert own - null == pytest.approx(test["statistic"], abs=0.0011)
    cells = [line.split(" | ") for line in report.to_markdown().splitlines() if line.startswith("| *null*")]
    assert len(cells) == 8 and f"{sum(pairs(report)) / 6:.3f}" in cells[2]
    assert len(pairs(report)) == 6 and f"{sum(pairs(report)) / 6:.3f}" in nulls[2]


def pairs(report: TransferReport) -> list[float]:
    """The Teacher's shares of a Base given another Base."""
    return [p["value"] for p in report.seed_control["pairs"] if (p["score"], p["layer"]) == ("teacher_distilled", "conv2")
            and p["model"] in BASES and p["given"] in BASES]  # fmt: skip


def test_relevance_of_the_placebos_stands_beside_the_teachers(report) -> None:
    x, y = data()
    models = {"teacher": TEACHER, **PLACEBOS}
    features = [*(hooked(model, "conv3", x).double().flatten(1) for model in models.values()), literal.embedded(y, None)]
    *own, g = (literal.u_centered(literal.distances(each)) for each in features)
    found = [f"{float(literal.r(each, g)):.3f}" for each in own]
    sentence = f"RS at conv3 is {found[0]} for the Teacher and {', '.join(found[1:])} for the placebo Teachers."
    assert sentence in " ".join(report.notes)


def test_copies_among_placebos_are_named_and_not_tested() -> None:
    placebos = {**PLACEBOS, "again": copy.deepcopy(PLACEBOS["placebo 2"])}
    with pytest.warns(UserWarning, match="Placebo Teacher again has the scores of placebo Teacher placebo 2 everywhere"):
        found = compare(STUDENTS, BASES["base 0"], "conv2", batches(11), teacher=TEACHER, placebo_teachers=placebos)
    assert sum("as a copy would" in note for note in found.notes) == 1
    assert {test["decision"] for test in found.placebos["tests"]} == {None}


def test_a_teacher_without_geometry_is_not_tested() -> None:
    flat = related(30)
    torch.nn.init.zeros_(flat.conv1.weight)
    found = quiet(STUDENTS, BASES["base 0"], "conv1", batches(11), teacher=flat, placebo_teachers=PLACEBOS)
    for test in found.placebos["tests"]:
        assert test["share"] is None and test["decision"] is None and "Some pairs of models have no score" in test["sentence"]


def test_a_larger_share_is_no_yes_if_students_are_less_similar_to_the_teacher_than_bases() -> None:
    rows = [
        {"student": "s", "base": "b", "layer": "x", "score": score, "value": value}
        for score, value in (("fss_student_teacher", 0.81), ("fss_base_teacher", 0.94))
    ]
    shares = {"x": [torch.tensor([[0.4, 0.1, 0.12, 0.11, 0.09], [0.4, 0.1, 0.12, 0.11, 0.09], [0.5] * 5])]}
    pair = SimpleNamespace(student=SimpleNamespace(of=SimpleNamespace(name="s")), base_name="b")
    settings = SimpleNamespace(comparisons=SimpleNamespace(groups=None, labels=True))
    for likeness, decision in ((0.94, False), (0.5, True)):
        rows[1]["value"] = likeness
        (test, _) = control_placebos(rows, shares, {}, [pair], list("abcd"), settings)["tests"]
        assert test["p_value"] < 0.001 and test["decision"] is decision and test["likeness"] == [0.81, likeness]
        said = "but Students are not more similar to the Teacher than Bases are (mean FSS 0.810" in test["sentence"]
        assert said is not decision


def shuffled(n: int = 66) -> list[tuple[Tensor, Tensor]]:
    """Images whose labels were drawn at random."""
    x, y = data(n)
    return [(x, y[torch.randperm(n, generator=torch.Generator().manual_seed(3))])]


@pytest.mark.parametrize("options", [{}, {"confidence": 0.95}, {"confidence": 0.95, "n_permutations": 0}])
def test_networks_near_chance_come_first(options) -> None:
    with pytest.warns(UserWarning, match="Near chance"):
        found = compare(related(1), related(2), ["conv2", "conv3"], shuffled(), teacher=TEACHER, **options)
    assert found.notes[0].startswith("Near chance: RS of student; base; the Teacher cannot be told from 0 at any layer")
    assert str(found).startswith("Verdict\n- Caution: these networks cannot be told from chance: student, base and the Teacher.")
    assert "\n\nCautions\n- Near chance: RS of student; base; the Teacher" in str(found)
    assert str(found).count("Near chance") == found.to_markdown().count("Near chance") == 1


@pytest.mark.parametrize(
    "options", [{}, {"confidence": 0.95}, {"confidence": 0.95, "n_permutations": 9}, {"population": "batch"}]
)
def test_networks_that_follow_the_labels_are_not_near_chance(options) -> None:
    found = quiet(related(1), related(2), ["conv2", "conv3"], batches(11), teacher=TEACHER, **options)
    assert not any("Near chance" in note for note in found.notes)


def test_maps_of_the_label_hide_chance_and_no_one_is_called_near_it() -> None:
    found = quiet(related(1), related(2), "conv2", shuffled(33), localize="gradcam", localize_target="label")
    assert not any("Near chance" in note for note in found.notes)


def test_students_without_a_gain_are_told_first() -> None:
    weak, strong = sorted((related(1), related(2)), key=lambda model: rs(model))
    assert quiet(strong, weak, "conv2", batches(11)).notes[0].startswith("The difference of distilled and residual")
    found = quiet(weak, strong, "conv2", batches(11))
    assert found.notes[0].startswith("No gain: Students do not follow the labels more closely than Bases at any layer (at conv2,")
    assert str(found).startswith("Verdict\n- No gain") and str(found).count("No gain") == 1


def test_students_without_a_gain_do_not_hide_the_gain_of_others() -> None:
    """As controls beside the Students of a technique, which would pull the mean of all Students below the Bases'."""

    def rows(**students: tuple[float, float]) -> list[dict[str, object]]:
        return [
            {"student": name, "base": base, "layer": layer, "score": score, "value": value}
            for name, values in students.items()
            for base, of_base in (("base 1", 0.4), ("base 2", 0.6))
            for layer, own in zip(("conv2", "conv3"), values)
            for score, value in (("rs_student", own), ("rs_base", of_base))
        ]

    assert no_gain(rows(kd=(0.4, 0.51))) == no_gain([]) == []
    (both,) = no_gain(rows(kd=(0.4, 0.5), other=(0.2, 0.1)))
    assert both.startswith("No gain: Students do not follow") and "(at conv3, mean RS is 0.300 and 0.500)" in both
    (control,) = no_gain(rows(kd=(0.6, 0.45), control=(0.1, 0.05)))
    assert control.startswith("No gain: control does not follow") and "(at conv3, mean RS is 0.050 and 0.500)" in control


def rs(model: torch.nn.Module) -> float:
    return by_score(quiet(model, BASES["base 0"], "conv2", batches(11)), "conv2", base="base")["rs_student"]["value"]


def test_gains_in_agreement_have_the_same_test() -> None:
    found = quiet(
        STUDENTS, BASES, ["conv2", "conv3"], batches(11), teacher=TEACHER, placebo_teachers=PLACEBOS, confidence=0.9,
        n_permutations=0, predictions=True, explanations="gradcam", by_class=True,
    )  # fmt: skip
    x, _ = data()
    classes = TEACHER(x).argmax(1)

    def alike(model: Any, teacher: Any, layer: str) -> float:
        if layer == "predictions":
            return float((model(x).argmax(1) == teacher(x).argmax(1)).double().mean())
        maps = [LayerGradCam(each, each.get_submodule(layer)).attribute(x, classes).detach() for each in (model, teacher)]
        return float(attribution_agreement(*maps).mean())

    for score, layers in (("agreement_over_base", ["predictions"]), ("explanation_over_base", ["conv2", "conv3"])):
        tests = [test for test in found.placebos["tests"] if test["score"] == score]
        assert [test["layer"] for test in tests] == layers
        for test in tests:
            gains = []
            for each in (TEACHER, *PLACEBOS.values()):
                own, others = ([alike(model, each, test["layer"]) for model in models.values()] for models in (STUDENTS, BASES))
                gains.append(sum(own) / 3 - sum(others) / 3)
                if each is TEACHER:
                    assert test["likeness"] == pytest.approx([sum(own) / 3, sum(others) / 3], abs=1e-5)
            expected = t_test(gains[0], gains[1:])
            assert (test["share"], test["mean"]) == pytest.approx((gains[0], sum(gains[1:]) / 4), abs=1e-5)
            assert test["p_value"] == pytest.approx(expected.pvalue, abs=1e-3)
            assert test["decision"] is (test["adjusted_p_value"] <= 0.05 and gains[0] > 0)
    over = [t for t in found.seed_control["tests"] + found.classes["tests"] if t["score"] == "agreement_over_placebos"]
    assert all("these placebo Teachers only" in t["sentence"] for t in over if t["decision"])


@pytest.mark.parametrize("gain, decision", [(0.3, True), (-0.1, False)])
def test_a_larger_gain_is_no_yes_if_students_agree_less_than_bases(gain, decision) -> None:
    """Weak Students agree less with all Teachers, and with some a little less so."""
    likeness = {"agreement_student_teacher": 0.5 + gain, "agreement_base_teacher": 0.5}
    rows = [
        {"student": "s", "base": "b", "layer": "predictions", "score": score, "value": value} for score, value in likeness.items()
    ]
    pair = SimpleNamespace(student=SimpleNamespace(of=SimpleNamespace(name="s")), base_name="b")
    settings = SimpleNamespace(comparisons=SimpleNamespace(groups=None, labels=True))
    gains = {("agreement_over_base", "predictions"): [gain + torch.tensor([0.0, -0.2, -0.21, -0.19, -0.2])]}
    shares = {"x": [torch.arange(15.0).reshape(3, 5) / 20]}
    test = control_placebos(rows, shares, gains, [pair], list("abcd"), settings)["tests"][-1]
    assert test["p_value"] < 0.001 and test["decision"] is decision
    assert ("(mean agreement of predictions 0.400 and 0.500)" in test["sentence"]) is not decision
