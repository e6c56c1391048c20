"""Scores of predictions against a literal loop, closed forms, scikit-learn, scipy and torchmetrics."""

from __future__ import annotations

import math
from typing import Any, Mapping, Optional

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import binomtest, ttest_1samp
from sklearn.metrics import accuracy_score
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from captum_kd.metrics import Predictions, compare_transfer, prediction_agreement
from captum_kd.metrics.inference.means import mean_estimate
from captum_kd.metrics.predictions import PredictionValues
from captum_kd.metrics.scores_table import prediction_scores
from models import ConvNet, images, labels

N, CLASSES = 40, 3
IMAGES = torch.randn(N, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % CLASSES
BATCHES = [(IMAGES[:17], LABELS[:17]), (IMAGES[17:], LABELS[17:])]


class Sharp(ConvNet):
    """Its logits are centered and spread, so that it predicts all classes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        with torch.no_grad():
            logits = super().forward(IMAGES)
            self.register_buffer("center", logits.mean(0))
            self.register_buffer("unit", logits.std(0))

    def forward(self, x: Tensor, scale: Any = 1.0) -> Any:
        return 2 * (super().forward(x, scale) - self.center) / self.unit


def probabilities(logits: Tensor, temperature: float = 1.0) -> np.ndarray[Any, Any]:
    values = np.exp(logits.double().numpy() / temperature)
    return values / values.sum(1, keepdims=True)


def literal(
    student: Tensor, teacher: Tensor, base: Tensor, labels: Tensor, temperature: float = 1.0, placebos: tuple[Tensor, ...] = ()
) -> dict[str, float]:
    """Every score, input by input."""
    logits = {"student": student, "base": base, "teacher": teacher}
    soft = {name: probabilities(each, temperature) for name, each in logits.items()}
    chosen = {name: each.argmax(1).tolist() for name, each in logits.items()}
    sums: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        sums[name] = sums.get(name, 0.0) + value / len(labels)

    def divergences(first: str, second: str, i: int) -> tuple[float, float]:
        p, q = soft[second][i], soft[first][i]
        return float(rel_entr(p, q).sum()), float(jensenshannon(p, q) ** 2)

    for i, y in enumerate(labels.tolist()):
        s, b, t = (chosen[name][i] for name in ("student", "base", "teacher"))
        for name, of_model in (("student", s), ("base", b), ("teacher", t)):
            add(f"accuracy_{name}", float(of_model == y))
        add("accuracy_over_base", float(s == y) - float(b == y))
        for rest, one, other in (("_student_teacher", s, t), ("_base_teacher", b, t), ("", s, b)):
            add(f"agreement{rest}", float(one == other))
        add("agreement_over_base", float(s == t) - float(b == t))
        if placebos:
            gains = [float(s == int(each[i].argmax())) - float(b == int(each[i].argmax())) for each in placebos]
            add("agreement_over_placebos", float(s == t) - float(b == t) - sum(gains) / len(gains))
        add("shared_errors", float(s == t and t != y and b == y))
        add("shared_right_answers", float(s == t == y and b != y))
        pairs = {"_student_teacher": ("student", "teacher"), "_base_teacher": ("base", "teacher"), "": ("student", "base")}
        for rest, (first, second) in pairs.items():
            kl, js = divergences(first, second, i)
            add(f"kl{rest}", kl)
            add(f"js{rest}", js)
        for place, name in enumerate(("kl", "js")):
            add(f"{name}_over_base", divergences("student", "teacher", i)[place] - divergences("base", "teacher", i)[place])
    return sums


def outputs(*models: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [model(IMAGES) for model in models]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equal_a_literal_loop(temperature: float) -> None:
    student, teacher, base = Sharp(seed=1), Sharp(seed=2), Sharp(seed=3)
    found = prediction_agreement(student, teacher, IMAGES, base_func=base, target=LABELS, temperature=temperature)
    expected = literal(*outputs(student, teacher, base), LABELS, temperature)
    assert found.keys() == expected.keys()
    assert 0 < expected["agreement_student_teacher"] < 1
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-10), name
    batched = prediction_agreement(
        student, teacher, IMAGES, base_func=base, target=LABELS, temperature=temperature, max_examples_per_batch=7
    )
    assert all(batched[name].value == pytest.approx(found[name].value, abs=1e-6) for name in found)


def test_rows_of_a_report_equal_a_literal_loop() -> None:
    students, bases = {"s1": Sharp(seed=1), "s2": Sharp(seed=4)}, {"b1": Sharp(seed=3), "b2": Sharp(seed=5)}
    teacher, placebos = Sharp(seed=2), {"p1": Sharp(seed=6), "p2": Sharp(seed=7)}
    report = compare_transfer(
        students, bases, ["conv3"], BATCHES, teacher=teacher, placebo_teachers=placebos, predictions=Predictions(2.0),
        confidence=0.9, show_progress=False,
    )  # fmt: skip
    of_placebos = tuple(outputs(*placebos.values()))
    for student in students:
        for base in bases:
            rows = {row["score"]: row for row in report.rows if (row["student"], row["base"]) == (student, base)}
            expected = literal(
                *outputs(students[student], teacher, bases[base]), LABELS, 2.0, placebos=of_placebos
            )
            for name, value in expected.items():
                assert rows[name]["value"] == pytest.approx(value, abs=1e-6), name
                assert (rows[name]["layer"], rows[name]["n"]) == ("predictions", N)
            for role, model in (("student", students[student]), ("base", bases[base]), ("teacher", teacher)):
                (logits,) = outputs(model)
                error = multiclass_calibration_error(logits.softmax(1), LABELS, CLASSES, n_bins=15)
                assert rows[f"ece_{role}"]["value"] == pytest.approx(float(error), abs=1e-6)
                assert rows[f"accuracy_{role}"]["value"] == accuracy_score(LABELS, logits.argmax(1))
    names = {score.name for score in prediction_scores(has_placebos=True)}
    assert names == {row["score"] for row in report.rows if row["layer"] == "predictions"}
    assert report.settings["temperature"] == 2.0


def test_seed_control_compares_pairs_of_bases() -> None:
    students, bases = {"s1": Sharp(seed=1), "s2": Sharp(seed=4)}, {"b1": Sharp(seed=3), "b2": Sharp(seed=5), "b3": Sharp(seed=8)}
    teacher = Sharp(seed=2)
    report = compare_transfer(
        students, bases, ["conv3"], BATCHES, teacher=teacher, predictions=True, show_progress=False
    )
    assert report.seed_control is not None
    every = {**students, **bases}
    pairs = {
        (row["score"], row["model"], row["given"]): row["value"]
        for row in report.seed_control["pairs"]
        if row["layer"] == "predictions"
    }
    for (score, model, given_model), value in pairs.items():
        expected = literal(*outputs(every[model], teacher, every[given_model]), LABELS)
        assert value == pytest.approx(expected[score], abs=1e-6)
    tests = {test["score"]: test for test in report.seed_control["tests"] if test["layer"] == "predictions"}
    assert set(tests) == {
        "accuracy_over_base", "agreement_over_base", "shared_errors", "shared_right_answers", "kl_over_base", "js_over_base",
    }  # fmt: skip
    across = np.mean([pairs["shared_errors", s, b] for s in students for b in bases])
    within = np.mean([pairs["shared_errors", b, c] for b in bases for c in bases if b != c])
    assert tests["shared_errors"]["statistic"] == pytest.approx(across - within)
    assert tests["shared_errors"]["smallest_p_value"] == pytest.approx(1 / 10)
    # A difference of two models is antisymmetric, so Bases give 0.
    closer = np.mean([pairs["kl_over_base", s, b] for s in students for b in bases])
    assert tests["kl_over_base"]["statistic"] == pytest.approx(-closer)


def test_intervals_are_those_of_the_jackknife_and_of_the_t_test() -> None:
    student, teacher, base = Sharp(seed=1), Sharp(seed=2), Sharp(seed=3)
    found = prediction_agreement(student, teacher, IMAGES, base_func=base, target=LABELS, confidence=0.9)
    s, t, b = (each.argmax(1) for each in outputs(student, teacher, base))
    values = ((s == t).double() - (b == t).double()).numpy()
    test = ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.9)
    estimate = found["agreement_over_base"]
    assert estimate.p_value == pytest.approx(test.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    left_out = np.array([np.delete(values, i).mean() for i in range(N)])
    error = np.sqrt((N - 1) / N * ((left_out - left_out.mean()) ** 2).sum())
    assert error == pytest.approx(values.std(ddof=1) / N**0.5)
    assert found["agreement"].p_value is None


def test_equal_values_show_no_spread_unless_they_are_a_proportion() -> None:
    student = Sharp(seed=1)
    found = prediction_agreement(student, student, IMAGES, base_func=student)
    assert found["agreement_over_base"] == (0.0, None, None, None, N)
    assert found["kl_student_teacher"] == (0.0, None, None, None, N)
    low = binomtest(N, N).proportion_ci(method="wilson").low
    assert found["agreement_student_teacher"] == pytest.approx((1.0, low, 1.0, None, N))


@pytest.mark.parametrize("k, n, confidence", [(0, 5, 0.95), (3, 7, 0.9), (49, 50, 0.95), (20, 20, 0.99)])
def test_proportions_have_wilsons_interval(k, n, confidence) -> None:
    values = torch.tensor([1.0] * k + [0.0] * (n - k) + [torch.nan])
    found = mean_estimate(values, confidence, (0.0, 1.0))
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert found == pytest.approx((k / n, expected.low, expected.high, None, n), abs=1e-12)
    assert found.low <= found.value <= found.high


def test_closed_forms_of_the_divergences() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    inputs = torch.arange(4.0)[:, None]
    tiny = torch.finfo(torch.float64).tiny

    def constant(row: Tensor) -> Any:
        return lambda x: row.double().clamp(min=tiny).log().expand(len(x), 2)

    found = prediction_agreement(constant(p), constant(q), inputs)
    assert found["kl_student_teacher"].value == pytest.approx(math.log(2))
    assert found["js_student_teacher"].value == pytest.approx(
        (math.log(2 / 3) + math.log(2)) / 4 + math.log(4 / 3) / 2
    )
    opposite = torch.tensor([[0.0, 1.0]])
    assert prediction_agreement(constant(opposite), constant(q), inputs)["js_student_teacher"].value == pytest.approx(math.log(2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10.0), st.floats(-50, 50))
def test_shifted_logits_change_nothing_and_divergences_keep_their_bounds(seed: int, temperature: float, shift: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(9, 4, generator=draw, dtype=torch.float64) * 5 for _ in range(2))
    inputs = torch.arange(9)[:, None].float()

    def of(table: Tensor, added: float = 0.0) -> Any:
        return lambda x: table[x[:, 0].long()] + added

    plain = prediction_agreement(of(student), of(teacher), inputs, temperature=temperature)
    moved = prediction_agreement(of(student, shift), of(teacher), inputs, temperature=temperature)
    back = prediction_agreement(of(teacher), of(student), inputs, temperature=temperature)
    for name, estimate in plain.items():
        assert moved[name].value == pytest.approx(estimate.value, abs=1e-9)
    js = plain["js_student_teacher"].value
    assert js is not None and 0 <= js <= math.log(2) + 1e-12
    assert back["js_student_teacher"].value == pytest.approx(js, abs=1e-12)


class Wrapped(Sharp):
    """Returns a dictionary."""

    def __init__(self, key: str, seed: int) -> None:
        super().__init__(seed=seed)
        self.key = key

    def forward(self, x: Tensor, scale: Any = 1.0) -> Any:
        return {self.key: super().forward(x, scale)}


@pytest.mark.parametrize("key, transform", [("logits", None), ("scores", lambda output: output["scores"])])
def test_outputs_may_be_mappings(key: str, transform: Optional[Any]) -> None:
    plain = prediction_agreement(Sharp(seed=1), Sharp(seed=2), IMAGES)
    models = Wrapped(key, 1), Wrapped(key, 2)
    assert prediction_agreement(*models, IMAGES, output_transform=transform) == plain
    report = compare_transfer(
        models[0], Wrapped(key, 3), "conv3", BATCHES, teacher=models[1], predictions=True, output_transform=transform,
        show_progress=False,
    )  # fmt: skip
    (row,) = [row for row in report.rows if row["score"] == "agreement_student_teacher"]
    assert row["value"] == plain["agreement_student_teacher"].value


def test_other_classes_are_refused_but_geometry_needs_none() -> None:
    wide = ConvNet(seed=2)
    wide.fc = nn.Linear(5, 7)
    models: Mapping[str, Any] = {"student": ConvNet(seed=1), "base": ConvNet(seed=3), "layers": "conv3", "data": BATCHES}
    report = compare_transfer(**models, teacher=wide, show_progress=False)
    assert all(row["value"] is not None for row in report.rows)
    with pytest.raises(ValueError, match="teacher:teacher: 7.*leave predictions out"):
        compare_transfer(**models, teacher=wide, predictions=True, show_progress=False)
    with pytest.raises(ValueError, match="other numbers of classes"):
        prediction_agreement(ConvNet(seed=1), wide, IMAGES)


class NoLogits(ConvNet):
    """Returns its features."""

    def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        return self.conv1(x)


def test_models_without_logits_are_refused() -> None:
    models = NoLogits(seed=1), NoLogits(seed=2)
    with pytest.raises(TypeError, match="student gives no logits"):
        compare_transfer(*models, "conv1", BATCHES, predictions=True, show_progress=False)
    with pytest.raises(TypeError, match="forward_func gives no logits"):
        prediction_agreement(*models, IMAGES)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"temperature": 0}, ValueError, "temperature"),
        ({"target": LABELS[:3]}, ValueError, "target"),
        ({"confidence": 2}, ValueError, "confidence"),
        ({"output_transform": 3}, TypeError, "output_transform"),
        ({"base_func": 3}, TypeError, "base_func"),
        ({"target": LABELS + 1}, ValueError, "label 3"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prediction_agreement(Sharp(seed=1), Sharp(seed=2), IMAGES, **options)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"predictions": "yes"}, TypeError, "predictions must be True"),
        ({"predictions": True, "localize": "gradcam"}, ValueError, "leave out one of the two"),
    ],
)
def test_bad_options_of_a_report(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compare_transfer(Sharp(seed=1), Sharp(seed=2), "conv3", BATCHES, show_progress=False, **options)


def test_without_labels_and_without_teacher() -> None:
    from captum_kd.metrics import Comparisons

    report = compare_transfer(
        Sharp(seed=1), Sharp(seed=2), "conv3", [IMAGES], predictions=True, comparisons=Comparisons(labels=False),
        show_progress=False,
    )  # fmt: skip
    assert [row["score"] for row in report.rows if row["layer"] == "predictions"] == ["agreement", "kl", "js"]


def test_mini_batches_do_not_change_predictions() -> None:
    rows = [
        {
            row["score"]: row["value"]
            for row in compare_transfer(
                Sharp(seed=1), Sharp(seed=3), "conv3", BATCHES, teacher=Sharp(seed=2), predictions=True, population=population,
                show_progress=False,
            ).rows
            if row["layer"] == "predictions"
        }
        for population in ("all", "batch")
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_the_metric_equals_the_function() -> None:
    from captum_kd.metrics.torchmetrics import PredictionAgreement

    student, teacher, base = Sharp(seed=1), Sharp(seed=2), Sharp(seed=3)
    found = prediction_agreement(student, teacher, IMAGES, base_func=base, target=LABELS, temperature=2.0)
    metric = PredictionAgreement(temperature=2.0)
    with pytest.raises(RuntimeError, match="no inputs"):
        metric.compute()
    s, t, b = outputs(student, teacher, base)
    for rows in (slice(0, 11), slice(11, N)):
        metric.update(s[rows], t[rows], b[rows], LABELS[rows])
    result = metric.compute()
    assert result.keys() == found.keys()
    for name, value in result.items():
        assert float(value) == pytest.approx(found[name].value, abs=1e-5)
    with pytest.raises(ValueError, match="all updates or in none"):
        metric.update(s, t)
    metric.reset()
    metric.update(s, t)
    assert set(metric.compute()) == {"agreement_student_teacher", "kl_student_teacher", "js_student_teacher"}
    with pytest.raises(ValueError, match="inputs"):
        metric.update(s, t[:3])


def test_a_report_without_torchmetrics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torchmetrics" else find(name, *rest))
    report = compare_transfer(Sharp(seed=1), Sharp(seed=2), "conv3", BATCHES, predictions=True, show_progress=False)
    assert not [row for row in report.rows if row["score"].startswith("ece_")]
    assert any("pip install 'captum_kd[distributed]'" in note for note in report.notes)


@pytest.mark.parametrize("n, scale", [(60, 1.5), (1000, 1.5), (1000, 4.0)])
def test_calibration_error_of_calibrated_predictions(n: int, scale: float) -> None:
    """Against right answers that are drawn with the predicted probabilities."""
    functional = pytest.importorskip("torchmetrics.functional.classification")
    draw = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, 10, generator=draw, dtype=torch.float64)
    found = PredictionValues([], None, (), 1.0)
    found.add({"a": logits}, None)
    confidence = logits.softmax(1).amax(1)
    draws = [(torch.rand(n, generator=draw, dtype=torch.float64) < confidence).long() for _ in range(100)]
    errors = [functional.binary_calibration_error(confidence.float(), each, n_bins=15, norm="l1") for each in draws]
    assert found.calibration_error_by_chance("a") == pytest.approx(float(torch.stack(errors).mean()), rel=0.08)


@pytest.mark.parametrize(
    ("low", "high", "shown", "mean"),
    [
        (10.25, 20.5, "[10,20]", "15.375"),
        (0.5, 9.99, "[.50,9.99]", "5.245"),
        (9.996, 130.4, "[10,130]", "70.198"),
        (-12.6, -3.25, "[-13,-3.25]", "-7.925"),
        (1000.0, 25000.0, "[1e3,2e4]", "1.3e+04"),
        (3e37, 5e37, "[3e37,5e37]", "4e+37"),
    ],
)
def test_large_divergences_keep_their_columns(low: float, high: float, shown: str, mean: str) -> None:
    x, y = images(12), labels(12)
    models = {name: ConvNet(seed=place).eval() for place, name in enumerate(("s 1", "s 2", "b", "t"))}
    report = compare_transfer(
        {"s 1": models["s 1"], "s 2": models["s 2"]}, models["b"], "conv2", [(x, y)], teacher=models["t"], predictions=True,
        show_progress=False,
    )  # fmt: skip
    for row in report.rows:
        if row["score"] == "kl_student_teacher":
            row["value"] = low if row["student"] == "s 1" else high
    lines = str(report).split("\n")
    place = next(i for i, line in enumerate(lines) if "KL S, T" in line)
    end = lines[place].index("KL S, T") + len("KL S, T")
    assert [line[end - 12 : end].strip() for line in lines[place + 1 : place + 3]] == [mean, shown]
    assert all(line[end - 12] == " " for line in lines[place + 1 : place + 3])
