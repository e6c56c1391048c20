"""Scores around the salient region: every model sees its own images, reduced by its own maps."""

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from models import ConvNet, TinyTransformer, activations, images, labels
from population import batches, by_score, compare, data, dcor_scores, hooked, related

from captum_kd import UniCAM
from captum_kd.metrics import feature_similarity_score, relevance_score
from captum_kd.perturb import keep_relevant

LAYERS = ["conv2", "conv3"]


def values_of(report, layer):
    return {score: row["value"] for score, row in by_score(report, layer).items()}


def gradcam(model, layer, x, y):
    return LayerGradCam(model, model.get_submodule(layer)).attribute(x, y)


def hirescam(model, layer, x, y):
    product = LayerGradientXActivation(lambda z: model(z).softmax(1), model.get_submodule(layer)).attribute(x, y)
    return product.sum(1, keepdim=True)


def test_each_model_is_explained_by_its_own_prediction():
    student, base = related(1), related(2)
    x, y = data()
    report = compare(student, base, "conv2", [(x, y)], localize="gradcam", noise=0.0)
    features = [
        hooked(model, "conv2", keep_relevant(x, gradcam(model, "conv2", x, model(x).argmax(1)), noise=0.0))
        for model in (student, base)
    ]
    assert not torch.equal(student(x).argmax(1), base(x).argmax(1))
    assert values_of(report, "conv2") == pytest.approx(dcor_scores(*features, y), abs=1e-5)
    assert report.settings["localize_target"] == "predicted"


def random_labels(n):
    return torch.randint(3, (n,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("localize", ["gradcam", "hirescam"])
def test_maps_of_labels_carry_labels_into_the_features_and_are_never_tested(localize):
    """Labels that have nothing to do with the images: relevance is 0, unless the maps are made of the labels."""
    loader = [(images(150), random_labels(150))]
    settings = {"localize": localize, "confidence": 0.95, "n_permutations": 99}
    honest = compare(related(1), related(2), "conv2", loader, **settings)
    with pytest.warns(UserWarning, match="maps of their own labels"):
        leaking = compare(related(1), related(2), "conv2", loader, localize_target="label", **settings)
    first, second = (by_score(report, "conv2")["rs_student"] for report in (honest, leaking))
    assert first["p_value"] > 0.05 and abs(first["value"]) < 0.05
    assert second["value"] > first["value"] + 0.02 and second["low"] > 0 and second["p_value"] is None
    assert all(row["p_value"] is None for row in leaking.rows)


@pytest.mark.parametrize(("localize", "explain"), [("gradcam", gradcam), ("hirescam", hirescam)])
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_each_layer_sees_images_reduced_by_its_own_map(localize, explain, keep):
    student, base, teacher = related(1), related(2), related(3)
    x, y = data()
    settings = {"localize": localize, "localize_target": "label", "keep": keep, "noise": 0.0}
    report = compare(student, base, LAYERS, [(x, y)], teacher=teacher, **settings)
    for layer in LAYERS:
        features = [
            hooked(model, layer, keep_relevant(x, explain(model, layer, x, y), keep=keep, noise=0.0))
            for model in (student, base, teacher)
        ]
        expected = dcor_scores(features[0], features[1], y, features[2])
        assert values_of(report, layer) == pytest.approx(expected, abs=1e-5)


def test_one_layers_map_can_serve_all_layers():
    student, base = related(1), related(2)
    x, y = data()
    settings = {"localize_target": "label", "localize_layer": "conv3", "noise": 0.0}
    report = compare(student, base, LAYERS, [(x, y)], localize="gradcam", **settings)
    features = [
        hooked(model, "conv2", keep_relevant(x, gradcam(model, "conv3", x, y), noise=0.0)) for model in (student, base)
    ]
    assert values_of(report, "conv2") == pytest.approx(dcor_scores(*features, y), abs=1e-5)
    assert report.settings["localize_layer"] == "conv3"


def test_a_function_of_the_users_own_explains():
    student, base = related(1), related(2)
    x, y = data()
    asked = []

    def explain(model, layer, inputs, target):
        asked.append((model, layer))
        assert torch.equal(target, model(inputs).argmax(1))
        return LayerGradCam(model, layer).attribute(inputs, target)

    own = compare(student, base, LAYERS, batches(9), localize=explain)
    named = compare(student, base, LAYERS, batches(9), localize="gradcam")
    assert asked[:2] == [(student, student.conv2), (student, student.conv3)]
    for layer in LAYERS:
        assert values_of(own, layer) == pytest.approx(values_of(named, layer), abs=1e-6)
    assert own.settings["localize"].endswith("explain")


@pytest.mark.parametrize("n_steps", [None, 8])
def test_unicam_reduces_the_student_by_distilled_and_the_base_by_residual_maps(n_steps):
    """And the Teacher, which is beside no other model, by Grad-CAM."""
    student, base, teacher = related(1), related(2), related(3)
    x, y = data()
    reference = (images(40, seed=5) + 0.8 * labels(40)[:, None, None, None], labels(40))
    report = compare(
        student, base, LAYERS, [(x, y)], localize="unicam", localize_target="label", reference=reference, noise=0.0,
        teacher=teacher, n_steps=n_steps,
    )  # fmt: skip
    for layer in LAYERS:
        unicam = UniCAM(student, layer, base)
        population = unicam.reference(*reference)
        distilled, residual = unicam.attribute_transfer(x, y, reference=population, n_steps=n_steps)
        features = [
            hooked(model, layer, keep_relevant(x, maps, noise=0.0))
            for model, maps in ((student, distilled), (base, residual), (teacher, gradcam(teacher, layer, x, y)))
        ]
        assert values_of(report, layer) == pytest.approx(dcor_scores(*features[:2], y, features[2]), abs=1e-5)


def test_further_arguments_reach_the_reference_population_too():
    student, base = related(1), related(2)
    x, y = data()
    reference, scale = (images(40, seed=5), labels(40)), 0.5
    report = compare(
        student, base, "conv2", [(x, y)], localize="unicam", localize_target="label", reference=reference, noise=0.0,
        additional_forward_args=scale,
    )  # fmt: skip
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(*reference, scale)
    distilled, residual = unicam.attribute_transfer(x, y, scale, reference=population)
    features = [
        activations(model, "conv2", keep_relevant(x, maps, noise=0.0), scale).flatten(1).double()
        for model, maps in ((student, distilled), (base, residual))
    ]
    assert values_of(report, "conv2") == pytest.approx(dcor_scores(*features, y), abs=1e-5)


def test_unicam_explains_a_student_anew_beside_every_base():
    student, bases = related(1), {"base 1": related(2), "base 2": related(3)}
    reference = (images(40, seed=5), labels(40))
    raise_together = compare(student, bases, "conv2", batches(9), localize="unicam", reference=reference)
    for name, base in bases.items():
        alone = compare(student, {name: base}, "conv2", batches(9), localize="unicam", reference=reference)
        for score, row in by_score(alone, "conv2", base=name).items():
            assert by_score(raise_together, "conv2", base=name)[score]["value"] == pytest.approx(row["value"], abs=1e-6)
    assert raise_together.seed_control is None and any(
        "There is no seed control and no score given all Bases" in note for note in raise_together.notes
    )


def test_rows_agree_with_the_metric_functions_noise_included():
    student, base = related(1), related(2)
    x, y = data()
    own, other = gradcam(student, "conv2", x, y), gradcam(base, "conv2", x, y)
    report = compare(student, base, "conv2", batches(8), localize="gradcam", localize_target="label")
    rows = values_of(report, "conv2")
    fss = feature_similarity_score(student, "conv2", base, "conv2", x, attributions=own, base_attributions=other)
    distilled = relevance_score(
        student, "conv2", x, y, given=(base, "conv2"), attributions=own, base_attributions=other
    )
    assert rows["fss"] == pytest.approx(float(fss), abs=1e-5)
    assert rows["rs_distilled"] == pytest.approx(float(distilled), abs=1e-5)


@pytest.mark.parametrize("localize", ["gradcam", "unicam"])
def test_batch_size_has_no_effect(localize):
    """Maps, imputation and its noise depend on an input and its place, on nothing else of the batch."""
    reference = (images(40, seed=5), labels(40)) if localize == "unicam" else None
    x, y = data()
    x = x[:, :, :9, :11].contiguous()  # a number of pixels that random streams do not come in
    found = [
        values_of(
            compare(related(1), related(2), LAYERS, list(zip(x.split(size), y.split(size))), localize=localize,
                    reference=None if reference is None else (reference[0][:, :, :9, :11], reference[1])),
            "conv2",
        )
        for size in (5, 33)
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_the_seed_is_that_of_the_imputations_noise():
    settings = {"localize": "gradcam", "noise": 0.5}
    first, again, other = (
        values_of(compare(related(1), related(2), "conv2", batches(9), seed=seed, **settings), "conv2")["fss"]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_model_and_itself_see_the_same_images():
    with pytest.warns(UserWarning, match="no geometry"):
        report = compare(related(1), related(1), "conv2", batches(9), localize="gradcam", noise=0.5)
    assert values_of(report, "conv2")["fss"] == pytest.approx(1.0)


def test_transformers_are_localized_on_their_grid():
    report = compare(TinyTransformer(seed=1), TinyTransformer(seed=2), "block", batches(9), localize="gradcam")
    assert all(-1 <= value <= 1 for value in values_of(report, "block").values())


def test_structured_outputs_are_explained_by_their_logits():
    class Structured(ConvNet):
        def forward(self, x):
            return {"logits": super().forward(x)}

    def structured(seed):
        model = Structured(seed=seed)
        model.load_state_dict(related(seed).state_dict())
        return model

    expected = values_of(compare(related(1), related(2), "conv2", batches(9), localize="gradcam"), "conv2")
    found = compare(structured(1), structured(2), "conv2", batches(9), localize="gradcam")
    assert values_of(found, "conv2") == pytest.approx(expected, abs=1e-6)
    named = compare(
        structured(1), structured(2), "conv2", batches(9), localize="gradcam", output_transform=lambda out: out["logits"]
    )
    assert values_of(named, "conv2") == pytest.approx(expected, abs=1e-6)


def test_maps_that_say_nothing_are_warned_of():
    student = related(1)
    with torch.no_grad():
        student.fc.weight.zero_()
    with pytest.warns(UserWarning, match="33 maps are constant"):
        compare(student, related(2), "conv2", batches(9), localize="gradcam")


def test_localized_settings_are_in_the_report():
    report = compare(related(1), related(2), "conv2", batches(9), localize="gradcam", keep=0.3)
    assert (report.settings["localize"], report.settings["keep"], report.settings["noise"]) == ("gradcam", 0.3, 0.01)
    assert "30% kept by gradcam of the predicted class" in str(report)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"localize": "grad-cam"}, ValueError, "'gradcam', 'hirescam', 'unicam'"),
        ({"localize": 3}, TypeError, "localize"),
        ({"localize": "gradcam", "localize_target": "true"}, ValueError, "'predicted' or 'label'"),
        ({"localize": "unicam"}, ValueError, "reference="),
        ({"localize": "unicam", "reference": images(5)}, TypeError, "pair"),
        ({"localize": "gradcam", "reference": (images(5), labels(5))}, ValueError, "unicam"),
        ({"localize": "gradcam", "keep": 1.0}, ValueError, "keep"),
        ({"localize": "gradcam", "keep": 0}, ValueError, "keep"),
        ({"localize": "gradcam", "noise": -1.0}, ValueError, "noise"),
        ({"localize": "gradcam", "n_steps": 4}, ValueError, "n_steps belongs to"),
        ({"localize": "unicam", "reference": (images(5), labels(5)), "n_steps": 0}, ValueError, "n_steps of Localization"),
        ({"localize": "gradcam", "localize_layer": "conv9"}, ValueError, "none of the layers"),
        ({"localize": "gradcam", "localize_layer": 3}, TypeError, "layer of Localization"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_model_runs(settings, error, words):
    def run(*args):
        raise AssertionError("a model ran")

    student, base = related(1), related(2)
    student.register_forward_pre_hook(run)
    with pytest.raises(error, match=words):
        compare(student, base, "conv2", batches(9), **settings)


def test_layers_without_positions_and_maps_of_another_batch_are_named():
    with pytest.raises(ValueError, match="fc.*no positions"):
        compare(related(1), related(2), "fc", batches(9), localize="gradcam")
    with pytest.raises(ValueError, match="maps"):
        compare(related(1), related(2), "conv2", batches(9), localize=lambda m, layer, x, y: torch.rand(2, 1, 3, 3))
    with pytest.raises(TypeError, match="tuple"):
        compare(related(1), related(2), "conv2", batches(9), localize=lambda m, layer, x, y: (x, x))
