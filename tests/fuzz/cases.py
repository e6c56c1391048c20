"""Every public function and class with one valid call, from which fuzzing departs."""

from __future__ import annotations

import functools
import inspect
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import torch

import captum_kd
import captum_kd.attr
import captum_kd.distance
import captum_kd.embeddings
import captum_kd.metrics
import captum_kd.metrics.inference
import captum_kd.monitor
import captum_kd.page
import captum_kd.perturb
import captum_kd.visualization
from captum_kd import UniCAM
from captum_kd.metrics import inference
from captum_kd.monitor import TransferMonitor

from matplotlib.figure import Figure

from fuzz.values import (
    ACTIVATIONS, BASE, DISTANCES, FEATURES, IMAGES, LABELS, MAPS, MASKS, N, OTHERS, ROWS, SCORES, STUDENT, TABLE, TEACHER,
    TOKEN_MAPS, TOKEN_MASK, WORDS, Net, products, several_products, unicam, written,
)  # fmt: skip

__all__ = ["CASES", "Case", "public_names"]


try:
    import captum_kd.metrics.torchmetrics as torchmetrics
except ImportError:  # an optional package
    torchmetrics = None  # type: ignore[assignment]

OF_FRAMEWORKS = ("LightningTransferMonitor", "TransformersTransferMonitor")
"""Not imported here, since their frameworks take seconds; tests/monitor has them."""

PUBLIC_MODULES: tuple[types.ModuleType, ...] = (
    captum_kd,
    captum_kd.attr,
    captum_kd.distance,
    captum_kd.embeddings,
    captum_kd.metrics,
    captum_kd.metrics.inference,
    *([] if torchmetrics is None else [torchmetrics]),
    captum_kd.monitor,
    captum_kd.page,
    captum_kd.perturb,
    captum_kd.visualization,
)


class Case(NamedTuple):
    """A public callable and how it is called.

    Attributes:
        signature (callable): what has the arguments.
        call (callable): runs it, to an end that uses every argument.
        valid (callable): arguments of a valid call, made anew.
        check (callable, optional): raises where a result cannot be right.
        known_as (dict): other words that messages may use for an argument.
        draws (bool): whether it draws from torch's global stream, as its documentation says.
        needs (str, optional): an optional package.
    """

    signature: Callable[..., Any]
    call: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    check: Optional[Callable[[Any, dict[str, Any]], None]] = None
    known_as: dict[str, tuple[str, ...]] = {}
    draws: bool = False
    needs: Optional[str] = None

    @property
    def arguments(self) -> list[str]:
        parameters = inspect.signature(self.signature).parameters.values()
        named = [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        return [name for name in named if name not in ("self", "cls")]


def _maps_of_inputs(result: Any, given: dict[str, Any]) -> None:
    """Finite maps, one an input, without graph."""
    inputs = given["inputs"][0] if isinstance(given["inputs"], tuple) else given["inputs"]
    for single in result if isinstance(result, (tuple, list)) else [result]:
        assert single.shape[0] == inputs.shape[0] and not single.requires_grad
        assert bool(torch.isfinite(single).all())


def _score(result: Any, given: dict[str, Any]) -> None:
    assert result.shape == () and -1 <= float(result) <= 1


def _distances(result: Any, given: dict[str, Any]) -> None:
    assert result.shape == (len(given["x"]), len(given["x"])) and bool(((0 <= result) & (result < torch.inf)).all())


def _scores(result: Any, given: dict[str, Any]) -> None:
    for values in result:
        assert bool(((0 <= values) & (values <= 1)).all())


def _like(argument: str) -> Callable[[Any, dict[str, Any]], None]:
    def check(result: Any, given: dict[str, Any]) -> None:
        assert result.shape == given[argument].shape and not result.requires_grad
        assert bool(torch.isfinite(result).all())

    return check


def _rows(result: Any, given: dict[str, Any]) -> None:
    assert all(row["value"] is None or -2 <= row["value"] <= 2 for row in result.rows)
    result.to_json(), result.to_csv(), str(result), result.to_markdown()


FOURTH = Net(4).eval()
EMBEDDINGS = captum_kd.metrics.input_embeddings({"a": STUDENT, "b": BASE}, "conv2", [(IMAGES, LABELS)], show_progress=False)
LAYERS = captum_kd.metrics.layer_similarity(STUDENT, BASE, ["conv1", "conv2"], "conv2", [IMAGES], show_progress=False)
CLASSES = {
    "of": "class",
    "groups": [{"group": 0, "inputs": 5}],
    "rows": [{**ROWS[0], "score": "rs_distilled", "group": 0, "adjusted_p_value": None}],
    "tests": [],
    "nulls": [],
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SAVED = captum_kd.metrics.compare_transfer(STUDENT, BASE, "conv2", [(IMAGES, LABELS)], show_progress=False).to_json()
SEED_CONTROL = {
    "groups": [{"group": None, "students": ["a"], "bases": ["b", "c"], "shared_seeds": []}],
    "pairs": [
        {"score": "rs_distilled", "layer": "conv2", "model": model, "given": given, "value": 0.1}
        for model, given in (("a", "b"), ("a", "c"), ("b", "c"), ("c", "b"))
    ],
    "tests": [{"score": "rs_distilled", "layer": "conv2", "group": None, "decision": None}],
}
SIMILAR = {"models": ["a", "b"], "roles": ["student", "base"], "layers": {"conv2": [[1.0, 0.4], [0.4, 1.0]]}}


def _report_with(argument: str, option: type, **more: Any) -> Callable[..., Any]:
    """A report with one of its options, made of what is given."""

    def run(**given: Any) -> Any:
        models = {"student": {"a": STUDENT, "b": TEACHER}, "base": {"c": BASE, "d": FOURTH}}
        return captum_kd.metrics.compare_transfer(
            **models, layers=["conv2"], data=[(IMAGES, LABELS)], show_progress=False, **{argument: option(**given)}, **more
        )

    return run


PAGE = captum_kd.metrics.TransferReport.from_json(SAVED)


def _shown(part: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a page, made of what is given, on a page."""

    def run(**given: Any) -> Any:
        made = part(**given)
        return PAGE.to_html(sections=[made if isinstance(made, captum_kd.page.Section) else captum_kd.page.Section("a", [made])])

    return run


def _monitor(**given: Any) -> TransferMonitor:
    valid: dict[str, Any] = dict(teacher=TEACHER, base=BASE, layers=["conv2"], data=[(IMAGES, LABELS)])
    return TransferMonitor(**{**valid, **given})


def _measured() -> TransferMonitor:
    found = _monitor()
    found.load_state_dict(MONITOR_STATE)
    return found


def _step_of(monitor: TransferMonitor) -> list[dict[str, Any]]:
    records = monitor.step(STUDENT, 2)
    assert records and all(-1 <= record["value"] <= 2 for record in records)
    return records


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _step_of(FIRST := _monitor())
MONITOR_STATE = FIRST.state_dict()


def _p_value(result: Any, given: dict[str, Any]) -> None:
    assert 0 < result <= 1


def _drawn(result: Any, given: dict[str, Any]) -> None:
    result.canvas.draw()


def _correlation(result: Any, given: dict[str, Any]) -> None:
    assert -1 <= result.mean <= 1


def _similarities(result: Any, given: dict[str, Any]) -> None:
    assert bool((result.spearman.abs() <= 1).all()) and result.n == len(result.spearman[0])


def _curve(result: Any, given: dict[str, Any]) -> None:
    for curve in result.values() if isinstance(result, dict) else [result]:
        assert 0 <= float(curve.area) <= 1


ATTRIBUTE = dict(inputs=IMAGES, target=LABELS)
# What a model makes of its further arguments shows in what its layers give.
# A metric counts the inputs of all updates.
FEW = dict.fromkeys(("student", "base", "features", "given", "target"), ("metric has seen",))
MODEL_ARGS = {"additional_forward_args": ("layer 'conv", "non-finite logits")}

CASES: dict[str, Case] = {
    "captum_kd.UniCAM": Case(
        UniCAM.__init__,
        lambda **given: UniCAM(**given).attribute_transfer(IMAGES, LABELS).distilled,
        lambda: dict(forward_func=STUDENT, layer="conv2", base_func=BASE),
        lambda result, given: _maps_of_inputs(result, {"inputs": IMAGES}),
        {"base_layer": ("of base_func",), "feature_layer": ("base_feature_layer",), "base_feature_layer": ("of base_func",)},
    ),
    "captum_kd.UniCAM.attribute": Case(
        UniCAM.attribute, lambda **given: unicam().attribute(**given), lambda: dict(ATTRIBUTE), _maps_of_inputs,
        MODEL_ARGS,
    ),
    "captum_kd.UniCAM.attribute_transfer": Case(
        UniCAM.attribute_transfer, lambda **given: unicam().attribute_transfer(**given), lambda: dict(ATTRIBUTE, n_steps=3),
        _maps_of_inputs, MODEL_ARGS,
    ),
    "captum_kd.UniCAM.reference": Case(
        UniCAM.reference, lambda **given: unicam().reference(**given), lambda: dict(ATTRIBUTE),
        None, MODEL_ARGS,
    ),
    "captum_kd.UniCAM.residual": Case(UniCAM.residual, lambda **given: unicam().residual(**given), dict),
    "captum_kd.UniCAM.has_convergence_delta": Case(
        UniCAM.has_convergence_delta, lambda: unicam().has_convergence_delta(), dict
    ),
    "captum_kd.attr.InputMaps": Case(
        captum_kd.attr.InputMaps.__init__, captum_kd.attr.InputMaps,
        lambda: dict(maps={"conv2": {("a", "b"): {"net": MAPS}}}, images=IMAGES, same_scale=[["net"]]),
    ),
    "captum_kd.attr.InputMaps, on a page": Case(
        captum_kd.attr.InputMaps.__init__, lambda **given: PAGE.to_html(maps=captum_kd.attr.InputMaps(**given)),
        lambda: dict(
            maps={"conv2": {("a", "b"): {"net": MAPS, "distilled": MAPS}}}, images=IMAGES, labels=LABELS,
            class_names=["x", "y", "z"],
            predictions={"a": LABELS}, masks=MASKS, same_scale=[["net", "distilled"]], units={"net": "gain"},
            indices=torch.arange(N),
        ),
    ),
    "captum_kd.attr.explain_transfer": Case(
        captum_kd.attr.explain_transfer, captum_kd.attr.explain_transfer,
        lambda: dict(
            student=STUDENT, base=BASE, layers="conv2", inputs=IMAGES[:3], reference_inputs=IMAGES, reference_labels=LABELS,
            images=IMAGES[:3], n_steps=2,
        ),
        None,
        {
            "inputs": ("forward_func", "images"), "images": ("masks",),
            "reference_inputs": ("reference_labels", "The features of"), "reference_labels": ("target gives",),
        },
    ),
    "captum_kd.flatten": Case(captum_kd.flatten, captum_kd.flatten, lambda: dict(activations=IMAGES)),
    "captum_kd.flatten_to_unit_length": Case(
        captum_kd.flatten_to_unit_length, captum_kd.flatten_to_unit_length, lambda: dict(activations=IMAGES)
    ),
    "captum_kd.global_average_pool": Case(
        captum_kd.global_average_pool, captum_kd.global_average_pool, lambda: dict(activations=IMAGES)
    ),
    "captum_kd.first_token": Case(
        captum_kd.first_token, captum_kd.first_token, lambda: dict(activations=ACTIVATIONS, token_mask=TOKEN_MASK)
    ),
    "captum_kd.last_token": Case(
        captum_kd.last_token, captum_kd.last_token, lambda: dict(activations=ACTIVATIONS, token_mask=TOKEN_MASK)
    ),
    "captum_kd.distance.distance_correlation": Case(
        captum_kd.distance.distance_correlation, captum_kd.distance.distance_correlation,
        lambda: dict(x=FEATURES, y=OTHERS), _score,
    ),
    "captum_kd.distance.partial_distance_correlation": Case(
        captum_kd.distance.partial_distance_correlation, captum_kd.distance.partial_distance_correlation,
        lambda: dict(x=FEATURES, y=OTHERS, given=FEATURES[:, :3]), _score,
    ),
    "captum_kd.distance.semipartial_distance_correlation": Case(
        captum_kd.distance.semipartial_distance_correlation, captum_kd.distance.semipartial_distance_correlation,
        lambda: dict(x=FEATURES, y=OTHERS, given=FEATURES[:, :3]), _score,
    ),
    "captum_kd.distance.euclidean_distances": Case(
        captum_kd.distance.euclidean_distances, captum_kd.distance.euclidean_distances, lambda: dict(x=FEATURES), _distances
    ),
    "captum_kd.embeddings.check_class_embeddings": Case(
        captum_kd.embeddings.check_class_embeddings, captum_kd.embeddings.check_class_embeddings,
        lambda: dict(class_embeddings=TABLE),
    ),
    "captum_kd.embeddings.classifier_embeddings": Case(
        captum_kd.embeddings.classifier_embeddings, captum_kd.embeddings.classifier_embeddings,
        lambda: dict(module=STUDENT.fc), lambda result, given: _like("weight")(result, {"weight": result}),
        {"module": ("nn.Linear", "Linear")},
    ),
    "captum_kd.embeddings.class_prototypes": Case(
        captum_kd.embeddings.class_prototypes, captum_kd.embeddings.class_prototypes,
        lambda: dict(feature_func=STUDENT, data=[(IMAGES, LABELS)]), None, {"data": ("loader", "batch")},
    ),
    "captum_kd.metrics.TransferReport": Case(
        captum_kd.metrics.TransferReport.__init__,
        lambda **given: repr(captum_kd.metrics.TransferReport(**given)),
        lambda: dict(rows=ROWS, seed_control=None, notes=["a note"], settings={"n": 8}),
    ),
    "captum_kd.metrics.TransferReport.from_json": Case(
        captum_kd.metrics.TransferReport.from_json, captum_kd.metrics.TransferReport.from_json,
        lambda: dict(source=SAVED),
    ),
    "captum_kd.metrics.TransferReport.to_dataframe": Case(
        captum_kd.metrics.TransferReport.to_dataframe,
        lambda **given: captum_kd.metrics.TransferReport(ROWS, None, [], {"n": 8}).to_dataframe(**given), dict,
    ),
    "captum_kd.metrics.TransferReport.to_html": Case(
        captum_kd.metrics.TransferReport.to_html,
        functools.partial(written, "to_html", of=captum_kd.metrics.TransferReport.from_json(SAVED)),
        lambda: dict(sections=[captum_kd.page.Section("a", [captum_kd.page.Paragraphs(["b"])])]),
    ),
    "captum_kd.metrics.TransferReport.to_json": Case(
        captum_kd.metrics.TransferReport.to_json,
        functools.partial(written, "to_json"), dict,
    ),
    "captum_kd.metrics.TransferReport.to_csv": Case(
        captum_kd.metrics.TransferReport.to_csv,
        functools.partial(written, "to_csv"), dict,
    ),
    "captum_kd.metrics.TransferReport.plot": Case(
        captum_kd.metrics.TransferReport.plot,
        lambda **given: captum_kd.metrics.TransferReport(ROWS, None, [], {"n": 8}).plot(**given), dict, _drawn,
    ),
    "captum_kd.metrics.KeepCurve.of": Case(
        captum_kd.metrics.KeepCurve.of, captum_kd.metrics.KeepCurve.of,
        lambda: dict(shares=[0.2, 0.5], correct=torch.rand(2, N) > 0.5),
    ),
    "captum_kd.metrics.compare_transfer": Case(
        captum_kd.metrics.compare_transfer, captum_kd.metrics.compare_transfer,
        lambda: dict(student=STUDENT, base=BASE, layers=["conv2"], data=[(IMAGES, LABELS)], show_progress=False),
        _rows, {"data": ("loader", "batch"), **MODEL_ARGS},
    ),
    "captum_kd.metrics.compare_transfer, localized": Case(
        captum_kd.metrics.compare_transfer, captum_kd.metrics.compare_transfer,
        lambda: dict(
            student={"a": STUDENT, "b": TEACHER}, base={"c": BASE, "d": Net(4).eval()}, layers=["conv1", "conv2"],
            data=[(IMAGES, LABELS)], show_progress=False, localize="gradcam", teacher=TEACHER, n_permutations=20,
            confidence=0.9, class_embeddings=TABLE,
        ),
        _rows,
        {"data": ("loader", "batch"), "localize": ("localizes",), **MODEL_ARGS},
    ),
    "captum_kd.metrics.input_embeddings": Case(
        captum_kd.metrics.input_embeddings, captum_kd.metrics.input_embeddings,
        lambda: dict(models={"a": STUDENT, "b": BASE}, layer="conv2", data=[(IMAGES, LABELS)], show_progress=False), None,
        {"data": ("loader", "batch"), **MODEL_ARGS},
    ),
    "captum_kd.metrics.layer_similarity": Case(
        captum_kd.metrics.layer_similarity, captum_kd.metrics.layer_similarity,
        lambda: dict(
            model_a=STUDENT, model_b=BASE, layers_a=["conv1", "conv2"], layers_b="conv2", data=[(IMAGES, LABELS)],
            show_progress=False,
        ),
        None, {"data": ("loader", "batch"), **MODEL_ARGS},
    ),
    **{
        f"captum_kd.metrics.LayerSimilarity.{name}": Case(
            getattr(captum_kd.metrics.LayerSimilarity, name), lambda name=name, **given: getattr(LAYERS, name)(**given), dict,
            _drawn if name == "plot" else None,
        )
        for name in ("best_match", "plot")
    },
    **{
        f"captum_kd.metrics.LayerSimilarity.{name}": Case(
            getattr(captum_kd.metrics.LayerSimilarity, name), functools.partial(written, name, of=LAYERS), dict
        )
        for name in ("to_json", "to_csv")
    },
    "captum_kd.metrics.InputEmbeddings.plot": Case(
        captum_kd.metrics.InputEmbeddings.plot, lambda **given: EMBEDDINGS.plot(**given), dict, _drawn,
    ),
    "captum_kd.metrics.Localization": Case(
        captum_kd.metrics.Localization, _report_with("localize", captum_kd.metrics.Localization),
        lambda: dict(method="unicam", reference=(IMAGES, LABELS)), _rows, {"method": ("localize", "map")},
    ),
    "captum_kd.metrics.ModelOptions": Case(
        captum_kd.metrics.ModelOptions, _report_with("model_options", captum_kd.metrics.ModelOptions), dict, _rows, MODEL_ARGS,
    ),
    "captum_kd.metrics.TokenPositions": Case(captum_kd.metrics.TokenPositions, captum_kd.metrics.TokenPositions, dict),
    "captum_kd.metrics.Comparisons": Case(
        captum_kd.metrics.Comparisons, _report_with("comparisons", captum_kd.metrics.Comparisons), dict, _rows,
    ),
    "captum_kd.metrics.Predictions": Case(
        captum_kd.metrics.Predictions, _report_with("predictions", captum_kd.metrics.Predictions), dict, _rows,
    ),
    "captum_kd.metrics.prediction_agreement": Case(
        captum_kd.metrics.prediction_agreement, captum_kd.metrics.prediction_agreement,
        lambda: dict(forward_func=STUDENT, teacher_func=TEACHER, inputs=IMAGES, base_func=BASE, target=LABELS), None, MODEL_ARGS,
    ),
    "captum_kd.metrics.Explanations": Case(
        captum_kd.metrics.Explanations, _report_with("explanations", captum_kd.metrics.Explanations, teacher=FOURTH), dict, _rows,
        {"method": ("explanations",)},
    ),
    "captum_kd.metrics.attribution_agreement": Case(
        captum_kd.metrics.attribution_agreement, captum_kd.metrics.attribution_agreement,
        lambda: dict(attributions_a=MAPS, attributions_b=MAPS.roll(1, 0), measure="iou"),
    ),
    "captum_kd.metrics.Compute": Case(
        captum_kd.metrics.Compute, _report_with("compute", captum_kd.metrics.Compute), dict, _rows,
    ),
    "captum_kd.metrics.feature_similarity_score": Case(
        captum_kd.metrics.feature_similarity_score, captum_kd.metrics.feature_similarity_score,
        lambda: dict(forward_func=STUDENT, layer="conv2", base_func=BASE, base_layer="conv2", inputs=IMAGES), _score,
        MODEL_ARGS,
    ),
    "captum_kd.metrics.relevance_score": Case(
        captum_kd.metrics.relevance_score, captum_kd.metrics.relevance_score,
        lambda: dict(forward_func=STUDENT, layer="conv2", inputs=IMAGES, target=LABELS), _score,
        MODEL_ARGS,
    ),
    "captum_kd.metrics.relevance_score, localized": Case(
        captum_kd.metrics.relevance_score, captum_kd.metrics.relevance_score,
        lambda: dict(
            forward_func=STUDENT, layer="conv2", inputs=IMAGES, target=LABELS, given=(BASE, "conv2"),
            attributions=MAPS, base_attributions=MAPS,
        ),
        _score, MODEL_ARGS,
    ),
    "captum_kd.metrics.keep_curve": Case(
        captum_kd.metrics.keep_curve, captum_kd.metrics.keep_curve,
        lambda: dict(forward_func=STUDENT, inputs=IMAGES, target=LABELS, attributions=MAPS, shares=(0.2, 0.6)), _curve,
        MODEL_ARGS,
    ),
    "captum_kd.metrics.localization_score": Case(
        captum_kd.metrics.localization_score, captum_kd.metrics.localization_score,
        lambda: dict(attributions=MAPS, masks=MASKS), _scores, {"masks": ("mask",)},
    ),
    "captum_kd.metrics.map_reliability": Case(
        captum_kd.metrics.map_reliability, captum_kd.metrics.map_reliability,
        lambda: dict(maps={"a": MAPS, "b": MAPS.flip(0)}), _correlation,
    ),
    "captum_kd.metrics.randomization_test": Case(
        captum_kd.metrics.randomization_test, captum_kd.metrics.randomization_test,
        lambda: dict(unicam=unicam(), inputs=IMAGES, target=LABELS, modules=["conv2"]), _similarities, MODEL_ARGS,
    ),
    "captum_kd.metrics.RandomizationTest.plot": Case(
        captum_kd.metrics.RandomizationTest.plot,
        lambda **given: captum_kd.metrics.randomization_test(unicam(), IMAGES, LABELS, modules=["conv2"]).plot(**given),
        dict, _drawn,
    ),
    "captum_kd.metrics.random_attributions": Case(
        captum_kd.metrics.random_attributions, captum_kd.metrics.random_attributions, lambda: dict(like=MAPS), _like("like")
    ),
    "captum_kd.metrics.sensitivity_max": Case(
        captum_kd.metrics.sensitivity_max, captum_kd.metrics.sensitivity_max,
        lambda: dict(explanation_func=lambda x: x[0] if isinstance(x, tuple) else x, inputs=IMAGES), draws=True,
    ),
    "captum_kd.metrics.inference.geometry_products": Case(
        inference.geometry_products, inference.geometry_products, lambda: dict(distances=DISTANCES)
    ),
    "captum_kd.metrics.inference.holm": Case(inference.holm, inference.holm, lambda: dict(p_values=[0.1, 0.2])),
    "captum_kd.metrics.inference.jackknife": Case(
        inference.jackknife, inference.jackknife,
        lambda: dict(products=products(), score=inference.transfer_scores()["rs_distilled"]),
    ),
    "captum_kd.metrics.inference.input_parts": Case(
        inference.input_parts, inference.input_parts,
        lambda: dict(products=products(), score=inference.transfer_scores()["rs_distilled"]),
    ),
    "captum_kd.metrics.inference.label_permutation_p_value": Case(
        inference.label_permutation_p_value, inference.label_permutation_p_value,
        lambda: dict(
            distances=DISTANCES["student"], labels=LABELS, class_distances=torch.cdist(TABLE, TABLE), permutations=20
        ),
        _p_value,
    ),
    "captum_kd.metrics.inference.left_out_scores": Case(
        inference.left_out_scores, lambda **given: inference.left_out_scores(**given).statistics,
        lambda: dict(products=several_products(), models=["s", "b", "c", "d"], students=1, target="labels"),
    ),
    "captum_kd.metrics.inference.LeftOutScores.test": Case(
        inference.LeftOutScores.test, lambda: inference.LeftOutScores(SCORES[:, 2:], SCORES[0]).test(), dict
    ),
    "captum_kd.metrics.inference.pair_scores": Case(
        inference.pair_scores, inference.pair_scores, lambda: dict(products=products(), models=["student", "base"])
    ),
    "captum_kd.metrics.inference.placebo_test": Case(
        inference.placebo_test, inference.placebo_test, lambda: dict(share=0.5, placebo_shares=[0.1, 0.2, 0.3, 0.25])
    ),
    "captum_kd.metrics.inference.seed_control": Case(
        inference.seed_control, inference.seed_control, lambda: dict(scores={"layer": SCORES}, students=2, question="fss")
    ),
    "captum_kd.metrics.inference.seed_test": Case(
        inference.seed_test, inference.seed_test, lambda: dict(scores=SCORES, students=2),
        lambda result, given: _p_value(result.p_value, given),
    ),
    "captum_kd.metrics.inference.single_pair_sentence": Case(
        inference.single_pair_sentence, inference.single_pair_sentence, lambda: dict(students=1, bases=1)
    ),
    "captum_kd.metrics.inference.transfer_scores": Case(inference.transfer_scores, inference.transfer_scores, dict),
    "captum_kd.metrics.inference.Products.score": Case(
        inference.Products.score, lambda **given: products().score(**given),
        lambda: dict(score=inference.Score("student", "base")),
    ),
    "captum_kd.metrics.inference.Products.leave_one_out": Case(
        inference.Products.leave_one_out, lambda **given: products().leave_one_out(**given),
        lambda: dict(score=inference.Score("student", "base")),
    ),
    "captum_kd.metrics.inference.Products.unique_share": Case(
        inference.Products.unique_share, lambda **given: products().unique_share(**given),
        lambda: dict(of="student", given="base"),
    ),
    "captum_kd.monitor.TransferMonitor": Case(
        TransferMonitor.__init__, lambda **given: _step_of(_monitor(**given)), dict, None,
        {"data": ("loader", "batch"), **MODEL_ARGS},
    ),
    "captum_kd.monitor.TransferMonitor.step": Case(
        TransferMonitor.step, lambda **given: _monitor().step(**given), lambda: dict(student=STUDENT, epoch=0),
    ),
    "captum_kd.monitor.TransferMonitor.is_due": Case(
        TransferMonitor.is_due, lambda **given: _measured().is_due(**given), lambda: dict(epoch=3),
    ),
    "captum_kd.monitor.TransferMonitor.to_csv": Case(
        TransferMonitor.to_csv, lambda **given: written("to_csv", of=_measured(), **given), dict
    ),
    "captum_kd.monitor.TransferMonitor.plot": Case(
        TransferMonitor.plot, lambda **given: _measured().plot(**given), dict, _drawn
    ),
    "captum_kd.monitor.TransferMonitor.load_state_dict": Case(
        TransferMonitor.load_state_dict, lambda state: _loaded(state), lambda: dict(state={**MONITOR_STATE, "history": []}),
    ),
    "captum_kd.monitor.plot_process": Case(
        captum_kd.monitor.plot_process, captum_kd.monitor.plot_process,
        lambda: dict(students={"a": _measured()}, null=[MONITOR_STATE["history"]], scores=["rs_student"]), _drawn,
    ),
    "captum_kd.page.Download": Case(captum_kd.page.Download.__init__, _shown(captum_kd.page.Download),
                                    lambda: dict(name="a.csv", text="a,b")),
    "captum_kd.page.Folded": Case(captum_kd.page.Folded.__init__, _shown(captum_kd.page.Folded),
                                  lambda: dict(title="a", blocks=[captum_kd.page.Paragraphs(["b"])])),
    "captum_kd.page.PageTable": Case(captum_kd.page.PageTable.__init__, _shown(captum_kd.page.PageTable),
                                     lambda: dict(columns=["a", "b"], rows=[["c", 0.5], [None, 2]])),
    "captum_kd.page.Paragraphs": Case(captum_kd.page.Paragraphs.__init__, _shown(captum_kd.page.Paragraphs),
                                      lambda: dict(texts=["a"])),
    "captum_kd.page.Picture": Case(captum_kd.page.Picture.__init__, _shown(captum_kd.page.Picture),
                                   lambda: dict(picture=Figure((1, 1)), caption="a")),
    "captum_kd.page.Section": Case(captum_kd.page.Section.__init__, _shown(captum_kd.page.Section),
                                   lambda: dict(title="a", blocks=[captum_kd.page.Paragraphs(["b"])])),
    "captum_kd.perturb.keep_relevant": Case(
        captum_kd.perturb.keep_relevant, captum_kd.perturb.keep_relevant, lambda: dict(inputs=IMAGES, attributions=MAPS),
        _like("inputs"), {"inputs": ("images",)}, draws=True,
    ),
    "captum_kd.perturb.keep_relevant_tokens": Case(
        captum_kd.perturb.keep_relevant_tokens, captum_kd.perturb.keep_relevant_tokens,
        lambda: dict(inputs=torch.arange(12).view(3, 4), attributions=torch.arange(12.0).view(3, 1, 4), mask_token_id=1),
    ),
    "captum_kd.perturb.noisy_linear_imputation": Case(
        captum_kd.perturb.noisy_linear_imputation, captum_kd.perturb.noisy_linear_imputation,
        lambda: dict(images=IMAGES, keep=MASKS), _like("images"), draws=True,
    ),
    "captum_kd.perturb.relevant_pixels": Case(
        captum_kd.perturb.relevant_pixels, captum_kd.perturb.relevant_pixels, lambda: dict(attributions=MAPS, size=(12, 12))
    ),
    "captum_kd.visualization.plot_keep_curve": Case(
        captum_kd.visualization.plot_keep_curve, captum_kd.visualization.plot_keep_curve,
        lambda: dict(curves={"a": captum_kd.metrics.KeepCurve.of([0.2, 0.5], torch.ones(2, 3) > 0)}), _drawn,
        {"curves": ("curve",)},
    ),
    "captum_kd.visualization.plot_predictions": Case(
        captum_kd.visualization.plot_predictions, captum_kd.visualization.plot_predictions,
        lambda: dict(report={"rows": [{**row, "layer": "predictions", "score": "accuracy_student"} for row in ROWS[:1]]}), _drawn,
    ),
    "captum_kd.visualization.plot_seed_control": Case(
        captum_kd.visualization.plot_seed_control, captum_kd.visualization.plot_seed_control,
        lambda: dict(report={"seed_control": SEED_CONTROL}, scores=("rs_distilled",)), _drawn,
    ),
    "captum_kd.visualization.plot_embeddings": Case(
        captum_kd.visualization.plot_embeddings, captum_kd.visualization.plot_embeddings,
        lambda: dict(embeddings=EMBEDDINGS, class_names=list("abcd")), _drawn,
    ),
    "captum_kd.visualization.plot_layer_similarity": Case(
        captum_kd.visualization.plot_layer_similarity, captum_kd.visualization.plot_layer_similarity, lambda: dict(result=LAYERS),
        _drawn,
    ),
    "captum_kd.visualization.plot_classes": Case(
        captum_kd.visualization.plot_classes, captum_kd.visualization.plot_classes, lambda: dict(report={"classes": CLASSES}),
        _drawn,
    ),
    "captum_kd.visualization.plot_models": Case(
        captum_kd.visualization.plot_models, captum_kd.visualization.plot_models, lambda: dict(report={"similarities": SIMILAR}),
        _drawn,
    ),
    "captum_kd.visualization.plot_layer_scores": Case(
        captum_kd.visualization.plot_layer_scores, captum_kd.visualization.plot_layer_scores, lambda: dict(rows=ROWS), _drawn,
        {"rows": ("row",)},
    ),
    "captum_kd.visualization.visualize_transfer": Case(
        captum_kd.visualization.visualize_transfer, captum_kd.visualization.visualize_transfer,
        lambda: dict(images=IMAGES[:2], maps={"map": MAPS[:2]}), _drawn, {"kept": ("column",)},
    ),
    "captum_kd.visualization.visualize_transfer, normalized": Case(
        captum_kd.visualization.visualize_transfer, captum_kd.visualization.visualize_transfer,
        lambda: dict(
            images=(IMAGES[:2] - 0.4) / 0.3, maps={"map": MAPS[:2]}, mean=[0.4] * 3, std=[0.3] * 3, masks=MASKS[:2],
            kept={"kept": MASKS[:2]}, row_labels=["a", "b"], units={"map": "gain"}, sign="all", scale=[["map"]],
        ),
        _drawn, {"kept": ("column",)},
    ),
    "captum_kd.visualization.visualize_tokens": Case(
        captum_kd.visualization.visualize_tokens, captum_kd.visualization.visualize_tokens,
        lambda: dict(tokens=WORDS, maps={"map": TOKEN_MAPS}, token_mask=TOKEN_MASK), _drawn,
    ),
    "captum_kd.visualization.token_records": Case(
        captum_kd.visualization.token_records, captum_kd.visualization.token_records,
        lambda: dict(tokens=WORDS, maps={"map": TOKEN_MAPS}, token_mask=TOKEN_MASK, labels=list("abcdefgh")),
    ),
    "captum_kd.visualization.TokenFigure.to_html": Case(
        captum_kd.visualization.TokenFigure.to_html,
        lambda **given: captum_kd.visualization.visualize_tokens(WORDS, {"map": TOKEN_MAPS}).to_html(**given), dict,
    ),
}  # fmt: skip

FRAME, HTML = (f"captum_kd.metrics.TransferReport.{name}" for name in ("to_dataframe", "to_html"))
for made in CASES:
    if made.startswith("captum_kd.page.") or made in ("captum_kd.attr.InputMaps, on a page", HTML):
        CASES[made] = CASES[made]._replace(needs="jinja2")
CASES[FRAME] = CASES[FRAME]._replace(needs="pandas")
if torchmetrics is not None:
    CASES |= {
        "captum_kd.metrics.torchmetrics.LayerFeatures": Case(
            torchmetrics.LayerFeatures.__init__, lambda **given: torchmetrics.LayerFeatures(**given)(IMAGES),
            lambda: dict(model=STUDENT, layer="conv2"), lambda result, given: _like("features")(result, {"features": result}),
        ),
        "captum_kd.metrics.torchmetrics.FeatureSimilarityScore": Case(
            torchmetrics.FeatureSimilarityScore.__init__,
            lambda **given: _updated("FeatureSimilarityScore", given, (FEATURES, OTHERS)), dict, _score,
        ),
        "captum_kd.metrics.torchmetrics.FeatureSimilarityScore.update": Case(
            torchmetrics.FeatureSimilarityScore.update, lambda **given: _updated("FeatureSimilarityScore", {}, (), given),
            lambda: dict(student=FEATURES, base=OTHERS), _score,
            FEW,
        ),
        "captum_kd.metrics.torchmetrics.RelevanceScore": Case(
            torchmetrics.RelevanceScore.__init__,
            lambda **given: _updated("RelevanceScore", given, (FEATURES, LABELS)), dict, _score,
        ),
        "captum_kd.metrics.torchmetrics.RelevanceScore.update": Case(
            torchmetrics.RelevanceScore.update, lambda **given: _updated("RelevanceScore", {}, (), given),
            lambda: dict(features=FEATURES, target=LABELS, given=OTHERS), _score,
            FEW,
        ),
        "captum_kd.metrics.torchmetrics.TransferScores": Case(
            torchmetrics.TransferScores.__init__,
            lambda **given: _updated("TransferScores", given, (FEATURES, OTHERS, LABELS)), dict,
        ),
        "captum_kd.metrics.torchmetrics.TransferScores.update": Case(
            torchmetrics.TransferScores.update, lambda **given: _updated("TransferScores", {}, (), given),
            lambda: dict(student=FEATURES, base=OTHERS, target=LABELS), None,
            FEW,
        ),
        "captum_kd.metrics.torchmetrics.PredictionAgreement": Case(
            torchmetrics.PredictionAgreement.__init__,
            lambda **given: _updated("PredictionAgreement", given, (FEATURES, FEATURES.flip(0))), dict,
        ),
        "captum_kd.metrics.torchmetrics.PredictionAgreement.update": Case(
            torchmetrics.PredictionAgreement.update, lambda **given: _updated("PredictionAgreement", {}, (), given),
            lambda: dict(student=FEATURES, teacher=FEATURES.flip(0), base=FEATURES.flip(1), target=LABELS),
        ),
    }  # fmt: skip


def _updated(name: str, settings: dict[str, Any], values: tuple[Any, ...], named: Optional[dict[str, Any]] = None) -> Any:
    """The score of a metric of torchmetrics after one update."""
    metric = getattr(torchmetrics, name)(**settings)
    metric.update(*values, **(named or {}))
    return metric.compute()


def _loaded(state: Any) -> list[dict[str, Any]]:
    monitor = _monitor()
    monitor.load_state_dict(state)
    return _step_of(monitor)


def _is_record(value: object) -> bool:
    """A record holds what it is given; functions that take one check it."""
    is_result = value in (
        captum_kd.metrics.InputEmbeddings, captum_kd.metrics.LayerSimilarity, captum_kd.metrics.MapReliability,
        captum_kd.metrics.RandomizationTest,
    )  # fmt: skip
    return is_result or isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def public_names() -> dict[str, Any]:
    """Callables of the public modules' ``__all__``, and the public methods of their classes, by qualified name."""
    found: dict[str, Any] = {}
    seen: dict[int, str] = {}
    for module in PUBLIC_MODULES:
        for name in set(module.__all__) - set(OF_FRAMEWORKS):
            value = getattr(module, name)
            is_type_hint = typing.get_origin(value) is not None
            if id(value) in seen or not callable(value) or is_type_hint:
                continue
            seen[id(value)] = name
            if not _is_record(value):
                found[f"{module.__name__}.{name}"] = value
            if isinstance(value, type):
                for method, function in vars(value).items():
                    if method.startswith("_") or not inspect.isfunction(getattr(value, method, None)) and not isinstance(
                        function, classmethod
                    ):
                        continue
                    found[f"{module.__name__}.{name}.{method}"] = function
    return found
