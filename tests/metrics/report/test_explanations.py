"""Agreement of maps in a report: against Captum's maps, compared one by one."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from models import ConvNet, TinyTransformer, Untouched, images, labels
from population import batches, compare, data, related
from scipy.stats import ttest_1samp
from state import unchanged_state
from torch import Tensor, nn

from captum_kd.metrics import Comparisons, Explanations, ModelOptions, TokenPositions, attribution_agreement, compare_transfer
from captum_kd.metrics.scores_table import explanation_scores
from text.encoders import Encoder, rows, sentences
from text.encoders import labels as labels_of_text

LAYERS = ["conv2", "conv3"]
N = 33
NAMES = {"explanation_student_teacher", "explanation_base_teacher", "explanation_over_base"}


def gradcam(model: Any, layer: str, x: Tensor, classes: Tensor) -> Tensor:
    return LayerGradCam(model, model.get_submodule(layer)).attribute(x, classes).detach()


def integrated(model: Any, layer: Optional[nn.Module], x: Tensor, classes: Tensor) -> Tensor:
    assert layer is None
    return IntegratedGradients(model).attribute(x, target=classes, n_steps=4)


def values_of(report: Any, layer: str, student: str = "student", base: str = "base") -> dict[str, Any]:
    return {
        row["score"]: row
        for row in report.rows
        if (row["student"], row["base"], row["layer"]) == (student, base, layer) and row["score"].startswith("explanation")
    }


def test_rows_are_means_of_the_agreement_of_captums_maps() -> None:
    students, bases = {"s1": related(1), "s2": related(2)}, {"b1": related(3), "b2": related(4)}
    teacher, placebos = related(5), {"p1": related(6), "p2": related(7)}
    x, _ = data(N)
    report = compare(
        students, bases, LAYERS, batches(9), teacher=teacher, placebo_teachers=placebos, explanations="gradcam", confidence=0.9,
        n_permutations=0,
    )  # fmt: skip
    classes = teacher(x).argmax(1)
    assert report.settings["explanations"] == {
        "method": "gradcam", "measure": "cosine", "target": "teacher", "layer": None, "keep": None,
    }  # fmt: skip
    for layer in LAYERS:

        def agreement(first: nn.Module, second: nn.Module) -> np.ndarray[Any, Any]:
            return attribution_agreement(*(gradcam(model, layer, x, classes) for model in (first, second))).numpy()

        for student, base in ((s, b) for s in students for b in bases):
            s, b = students[student], bases[base]
            found = values_of(report, layer, student, base)
            gains = [agreement(s, each) - agreement(b, each) for each in (teacher, *placebos.values())]
            expected = {
                "explanation_student_teacher": agreement(s, teacher),
                "explanation_base_teacher": agreement(b, teacher),
                "explanation_over_base": gains[0],
                "explanation_over_placebos": gains[0] - np.mean(gains[1:], axis=0),
            }
            assert found.keys() == expected.keys() == {score.name for score in explanation_scores(True)}
            for name, values in expected.items():
                assert found[name]["value"] == pytest.approx(values.mean(), abs=1e-5), name
                assert found[name]["n"] == N
            test = ttest_1samp(gains[0], 0.0)
            interval = test.confidence_interval(0.9)
            row = found["explanation_over_base"]
            assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-5)
            assert row["p_value"] == pytest.approx(test.pvalue, abs=1e-4)
            assert found["explanation_student_teacher"]["p_value"] is None
    assert report.seed_control is not None
    tests = [test for test in report.seed_control["tests"] if test["score"].startswith("explanation")]
    assert {(test["score"], test["layer"]) for test in tests} == {
        (f"explanation_over_{name}", layer) for name in ("base", "placebos") for layer in LAYERS
    }
    gain = {(r["model"], r["given"]): r["value"] for r in report.seed_control["pairs"] if r["score"] == "explanation_over_base"}
    assert gain["b1", "b2"] == pytest.approx(-gain["b2", "b1"])
    text = str(report)
    assert "Explanations: agreement with the Teacher's maps" in text and "over plac." in text
    assert all("Students look where th" in test["sentence"] and "more than Bases do" in test["sentence"] for test in tests)
    assert "Explanations: agreement with the Teacher's maps" in report.to_markdown()
    report.plot()


@pytest.mark.parametrize("measure", ["spearman", "iou"])
@pytest.mark.parametrize("target", ["label", "predicted"])
def test_measures_and_targets(measure: str, target: str) -> None:
    student, base, teacher = related(1), related(2), related(3)
    x, y = data(N)
    options = Explanations("gradcam", measure, target, layer="conv2", keep=0.3)
    report = compare(student, base, LAYERS, batches(9), teacher=teacher, explanations=options)
    maps = [gradcam(model, "conv2", x, y if target == "label" else model(x).argmax(1)) for model in (student, teacher)]
    expected = attribution_agreement(*maps, measure=measure, keep=0.3)
    found = values_of(report, "conv2")
    assert found.keys() == NAMES and not values_of(report, "conv3")
    assert found["explanation_student_teacher"]["value"] == pytest.approx(float(expected.mean()), abs=0.01)


def test_maps_at_the_inputs_are_scored_once() -> None:
    student, base, teacher = related(1), related(2), related(3)
    x, _ = data(N)
    asked = []

    def explain(model: Any, layer: Optional[nn.Module], x: Tensor, classes: Tensor) -> Tensor:
        asked.append(model)
        return integrated(model, layer, x, classes)

    report = compare(
        student, base, LAYERS, [data(N)], teacher=teacher, explanations=Explanations(explain, layer="inputs"), confidence=0.9,
        n_permutations=0,
    )  # fmt: skip
    assert asked == [teacher, student, base]
    assert {row["layer"] for row in report.rows if row["score"] in NAMES} == {"inputs"}
    maps = [integrated(model, None, x, teacher(x).argmax(1)) for model in (student, teacher)]
    found = values_of(report, "inputs")["explanation_student_teacher"]
    assert found["value"] == pytest.approx(float(attribution_agreement(*maps).mean()), abs=1e-6)
    report.plot()


def test_a_function_of_the_users_own_is_called_for_every_layer() -> None:
    student, base, teacher = related(1), related(2), related(3)

    def explain(model: Any, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
        assert torch.equal(classes, teacher(x).argmax(1))
        return LayerGradCam(model, layer).attribute(x, classes)

    own, named = (compare(student, base, LAYERS, batches(9), teacher=teacher, explanations=each) for each in (explain, "gradcam"))
    for layer in LAYERS:
        for name, row in values_of(own, layer).items():
            assert row["value"] == pytest.approx(values_of(named, layer)[name]["value"], abs=1e-6)
    assert own.settings["explanations"]["method"].endswith("explain")


def test_copies_agree_and_other_scores_stay() -> None:
    student, base = related(1), related(2)
    plain = compare(student, base, LAYERS, batches(9), teacher=student)
    with unchanged_state([student, base], []):
        report = compare(student, base, LAYERS, batches(9), teacher=student, explanations="hirescam", predictions=True)
    others = [row for row in report.rows if row["layer"] in LAYERS and row["score"] not in NAMES]
    assert [(row["score"], row["value"]) for row in others] == [(row["score"], row["value"]) for row in plain.rows]
    for layer in LAYERS:
        found = values_of(report, layer)
        assert found["explanation_student_teacher"]["value"] == pytest.approx(1.0)
        assert found["explanation_over_base"]["value"] == pytest.approx(1 - found["explanation_base_teacher"]["value"])


def test_batches_do_not_matter() -> None:
    models: tuple[Any, ...] = related(1), related(2)
    reports = [
        compare(*models, LAYERS, batches(size), teacher=related(3), explanations="gradcam", population=population)
        for size, population in ((33, "all"), (8, "all"), (11, "batch"))
    ]
    for layer in LAYERS:
        expected = {name: row["value"] for name, row in values_of(reports[0], layer).items()}
        for report in reports[1:]:
            assert {name: row["value"] for name, row in values_of(report, layer).items()} == pytest.approx(expected, abs=1e-6)


def test_other_architectures_with_other_grids() -> None:
    student, base, teacher = ConvNet(seed=1), ConvNet(seed=2), TinyTransformer(prefix=2)
    layers = {"last": {"student": "conv3", "base": "conv3", "teacher": "block"}}
    report = compare_transfer(
        student, base, layers, [(images(N), labels(N))], teacher=teacher, explanations="gradcam", show_progress=False
    )
    found = values_of(report, "last")
    assert found.keys() == NAMES and -1 < found["explanation_student_teacher"]["value"] < 1


class Dead(ConvNet):
    """Its last layer is constant, so that its maps are."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        with torch.no_grad():
            self.conv3.weight.zero_()


def test_constant_maps_are_counted() -> None:
    x, y = data(N)
    with pytest.warns(UserWarning, match=r"Maps that are constant show no place: base 33 at conv2; base 33 at conv3\."):
        report = compare(related(1), Dead(2), LAYERS, [(x, y)], teacher=related(3), explanations="gradcam")
    found = values_of(report, "conv3")
    assert found["explanation_base_teacher"]["value"] == 0
    assert (found["explanation_over_base"]["value"], found["explanation_over_base"]["n"]) == (None, 0)
    assert found["explanation_student_teacher"]["value"] > 0
    assert any("show no place" in note for note in report.notes)
    assert "0.000" in str(report) and report.to_markdown()


def test_differences_leave_out_inputs_with_a_constant_map() -> None:
    student, base, teacher = related(1), related(2), related(3)
    x, y = data(N)

    def explain(model: Any, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
        maps = LayerGradCam(model, layer).attribute(x, classes).detach()
        if model is base:
            maps[:5] = 0.0
        return maps

    with pytest.warns(UserWarning, match="base 5 at conv2"):
        report = compare(student, base, "conv2", [(x, y)], teacher=teacher, explanations=explain)
    of = {each: gradcam(each, "conv2", x, teacher(x).argmax(1)) for each in (student, base, teacher)}
    agreement = [attribution_agreement(of[each], of[teacher]) for each in (student, base)]
    found = values_of(report, "conv2")
    assert found["explanation_over_base"]["value"] == pytest.approx(float((agreement[0] - agreement[1])[5:].mean()), abs=1e-6)
    assert found["explanation_base_teacher"]["value"] == pytest.approx(float(agreement[1][5:].sum()) / N, abs=1e-6)
    assert [found[f"explanation_{name}"]["n"] for name in ("over_base", "base_teacher")] == [N - 5, N]


def test_text_is_compared_token_by_token_without_padding() -> None:
    student, base, teacher = Encoder(1), Encoder(2), Encoder(3, 24, 3)
    x, y, layer = sentences(N), labels_of_text(N), "encoder.layers.0"
    parts = [slice(0, 20), slice(20, N)]
    loader = [{**rows(x, part), "labels": y[part]} for part in parts]
    longer = [{**sentences(N, padded_to=14), "labels": y}]
    models: Any = (student, base, layer)
    found = [
        values_of(compare(*models, each, teacher=teacher, explanations="gradcam"), layer) for each in (loader, longer)
    ]
    for name in NAMES:
        assert found[0][name]["value"] == pytest.approx(found[1][name]["value"], abs=1e-5)

    # A map of ones at the first token and zeros at the others, and padding of any value.
    def first_token(model: Any, _: Any, batch: dict[str, Tensor], classes: Tensor) -> Tensor:
        return (batch["attention_mask"] == 0) * torch.rand(1) + (batch["input_ids"] == 1).float()

    alike = Explanations(first_token)
    own = values_of(compare(student, base, layer, loader, teacher=teacher, explanations=alike), layer)
    assert own["explanation_student_teacher"]["value"] == pytest.approx(1.0)
    with_prefix = ModelOptions(prefix_tokens=1)
    report = compare_transfer(
        student, base, layer, loader, teacher=teacher, explanations="gradcam", model_options=with_prefix, show_progress=False
    )
    assert values_of(report, layer).keys() == NAMES


def test_text_of_other_tokenizers_is_refused() -> None:
    batch = {"student": sentences(N), "teacher": sentences(N, seed=3), "labels": labels_of_text(N)}
    with pytest.raises(ValueError, match="tokens of student are not those of teacher"):
        compare(Encoder(1), Encoder(2), "encoder.layers.0", [batch], teacher=Encoder(3), explanations="gradcam")


def test_without_labels() -> None:
    report = compare_transfer(
        related(1), related(2), LAYERS, [data(N)[0]], teacher=related(3), explanations="gradcam", show_progress=False,
        comparisons=Comparisons(labels=False),
    )  # fmt: skip
    assert values_of(report, "conv2").keys() == NAMES


class Wide(ConvNet):
    def __init__(self) -> None:
        super().__init__(seed=3)
        self.fc = nn.Linear(5, 7)


def test_other_classes_are_refused_for_the_teachers_class_only() -> None:
    arguments: Any = (related(1), related(2), LAYERS, batches(9))
    with pytest.raises(ValueError, match="teacher:teacher: 7.*cannot explain the Teacher's class"):
        compare(*arguments, teacher=Wide(), explanations="gradcam")
    report = compare(*arguments, teacher=Wide(), explanations=Explanations(target="predicted"))
    assert values_of(report, "conv2").keys() == NAMES


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"explanations": "gradcam", "teacher": None}, ValueError, "pass teacher="),
    ({"explanations": True}, TypeError, "explanations must be None, a name"),
    ({"explanations": "lrp"}, ValueError, "explanations must be one of"),
    ({"explanations": "unicam"}, ValueError, "attribution_agreement"),
    ({"explanations": "gradcam", "localize": "gradcam"}, ValueError, "leave out one of the two"),
    (
        {"explanations": "gradcam", "model_options": ModelOptions(positions=TokenPositions())}, ValueError,
        "leave out explanations",
    ),
    (
        {"explanations": Explanations(target="label"), "comparisons": Comparisons(labels=False)}, ValueError,
        'Explanations.*needs labels',
    ),
]  # fmt: skip


@pytest.mark.parametrize("options, error, message", BAD)
def test_bad_arguments_are_refused_before_any_model_runs(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"teacher": Untouched(seed=3), **options}
    with pytest.raises(error, match=message):
        compare_transfer(Untouched(seed=1), Untouched(seed=2), LAYERS, batches(9), show_progress=False, **given)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "conv9"}, r"layer='conv9' of Explanations is none of the layers; pass one of \['conv2', 'conv3'\]\."),
        ({"layer": "inputs"}, "or a function whose maps are at the inputs"),
        ({"measure": "dice"}, "measure of Explanations"),
        ({"target": "none"}, "target of Explanations"),
        ({"keep": 2}, "keep"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(
            Untouched(seed=1), Untouched(seed=2), LAYERS, batches(9), teacher=Untouched(seed=3),
            explanations=Explanations(**options),
        )  # fmt: skip


@pytest.mark.parametrize(
    "layer, method, message",
    [
        ("fc", "gradcam", "no positions, so it has no map"),
        ("pool", "gradcam", "The map of .*teacher.* at pool has a single position"),
        ("conv2", lambda model, layer, x, classes: x.sum(1), r"The map of teacher at conv2 \(explanations\) must have shape"),
        ("conv2", lambda model, layer, x, classes: x[:3], "has 3 maps for 9 inputs"),
    ],
)
def test_maps_that_cannot_be_compared(layer: str, method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(related(1), related(2), layer, batches(9), teacher=related(3), explanations=method)
