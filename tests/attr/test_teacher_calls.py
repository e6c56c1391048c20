"""Calls of UniCAM with a Teacher: what works as it does without one, and Captum's tools around it."""

import copy

import pytest
import torch
from captum.attr import NoiseTunnel
from conv_pairs import M, N, inputs, relative_difference
from conv_teachers import MODES, conv, explain, make, references, teacher_of_width
from loops import assert_infidelity_is_that_of_single_images
from models import SeveralOutputs, TinyTransformer, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import sensitivity_max

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def test_without_a_teacher_the_objective_is_that_of_the_labels():
    plain = UniCAM(conv(1), "conv2", conv(2))
    assert plain.teacher_func is None
    found = make(teacher_func=None).attribute(inputs(), labels(N))
    assert torch.equal(found, plain.attribute(inputs(), labels(N)))
    assert relative_difference(make().attribute(inputs(), labels(N)), found) > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [2, [1] * N, list(range(N)), labels(N), [5, 10**6] + [0] * (N - 2)])
def test_labels_have_no_effect(target, mode):
    unicam = make(class_embeddings=torch.eye(3))
    expected = explain(make(), mode, inputs())
    assert torch.equal(explain(unicam, mode, inputs(), target), expected)


def test_labels_and_embeddings_of_the_population_have_no_effect():
    unicam, embedded = make(), make(class_embeddings=torch.eye(3))
    expected = unicam.attribute(inputs(), reference=unicam.reference(references()))
    for population in (unicam.reference(references(), [1] * M), embedded.reference(references(), labels(M))):
        assert not population.is_labeled and population.has_teacher
        assert torch.equal(unicam.attribute(inputs(), 3, reference=population), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("internal_batch_size", [1, 3, N, 100])
@pytest.mark.parametrize("features", [None, "conv3"])
def test_internal_batch_size_does_not_change_the_maps(features, internal_batch_size, mode):
    unicam = make(layer="conv1", feature_layer=features)
    whole = unicam.reference(references()) if mode == "reference" else None
    parts = unicam.reference(references(), internal_batch_size=internal_batch_size) if whole is not None else None
    expected = unicam.attribute_transfer(inputs(), reference=whole)
    found = unicam.attribute_transfer(inputs(), internal_batch_size=internal_batch_size, reference=parts)
    torch.testing.assert_close(tuple(found), tuple(expected))


@pytest.mark.parametrize("features", [None, "conv3"])
def test_a_single_image_has_the_same_map_alone_and_in_any_batch(features):
    unicam = make(layer="conv1", feature_layer=features)
    population, x = unicam.reference(references()), inputs()
    batch = unicam.attribute(x, reference=population)
    for rows in ([0], [3], [6, 3, 0], [5, 5]):
        torch.testing.assert_close(unicam.attribute(x[rows], reference=population), batch[rows])


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
def test_one_forward_pass_of_each_model(method):
    models = {"student": conv(1), "base": conv(2), "teacher": teacher_of_width()}
    calls = []
    for name, model in models.items():
        model.register_forward_hook(lambda m, i, o, name=name: calls.append((name, len(i[0]))))
    unicam = UniCAM(models["student"], "conv1", models["base"], feature_layer="conv3", teacher_func=models["teacher"])
    getattr(unicam, method)(inputs())
    assert sorted(calls) == [("base", N), ("student", N), ("teacher", N)]
    calls.clear()
    getattr(unicam, method)(inputs(), internal_batch_size=5)
    assert [rows for name, rows in calls if name == "teacher"] == [5, N - 5]


def test_progress_over_the_teachers_passes_is_shown_when_asked_for(capsys):
    unicam = make(teacher_func=TinyTransformer().double(), teacher_layer="block")
    unicam.attribute(inputs(), internal_batch_size=4)
    assert capsys.readouterr().err == ""
    unicam.attribute(inputs(), internal_batch_size=4, show_progress=True)
    assert "TinyTransformer" in capsys.readouterr().err


def test_relu_and_channels():
    unicam = make()
    plain = unicam.attribute(inputs())
    assert plain.amin() < 0
    assert torch.equal(unicam.attribute(inputs(), relu_attributions=True), plain.clamp(min=0))
    split = unicam.attribute(inputs(), attr_dim_summation=False)
    assert split.shape == (N, 6, 6, 6)
    torch.testing.assert_close(split.sum(1, keepdim=True), plain)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [None, "conv3", ["conv1", "conv3"], [None, "fc"]], ids=str)
def test_list_of_layers_equals_separate_calls(at, mode):
    unicam = make(layer=["conv1", "conv2"], teacher_layer=at)
    raise_together = explain(unicam, mode, inputs())
    assert isinstance(raise_together, list)
    for layer, found, alone in zip(("conv1", "conv2"), raise_together, at if isinstance(at, list) else [at, at]):
        torch.testing.assert_close(found, explain(make(layer=layer, teacher_layer=alone), mode, inputs()))


def test_several_outputs_give_a_tuple():
    student, base = SeveralOutputs("tuple", seed=1).double(), SeveralOutputs("tuple", seed=2).double()
    unicam = UniCAM(student, "split", base, teacher_func=teacher_of_width(), teacher_layer="conv2")
    assert [a.shape for a in unicam.attribute(inputs())] == [(N, 1, 12, 12), (N, 1, 6, 6)]


def test_result_carries_no_graph():
    found = make(layer="conv1", feature_layer="conv3").attribute(inputs().requires_grad_())
    assert not found.requires_grad and found.untyped_storage().nbytes() == found.numel() * found.element_size()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", [torch.no_grad, torch.inference_mode])
def test_gradients_are_opened_inside(precision, mode):
    unicam = make(layer="conv1", feature_layer="conv3")
    expected = explain(unicam, mode, inputs())
    with precision():
        torch.testing.assert_close(explain(unicam, mode, inputs()), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_teacher_of_another_dtype(dtype, mode):
    student, base, teacher = conv(1).float(), conv(2).float(), teacher_of_width()
    exact = explain(make(), mode, inputs())
    half = copy.deepcopy(teacher).to(dtype)
    unicam = UniCAM(student, "conv2", base, teacher_func=lambda x: half(x.to(dtype)), teacher_layer=half.conv2)
    population = unicam.reference(references().float()) if mode == "reference" else None
    found = unicam.attribute(inputs().float(), reference=population)
    assert found.dtype == torch.float32
    assert relative_difference(found, exact) < (1e-2 if dtype == torch.float16 else 1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
def test_wrapped_teachers_have_the_same_layers_and_populations():
    unicam, wrapped = make(), make(teacher_func=nn.DataParallel(teacher_of_width()), teacher_layer="module.conv2")
    population = unicam.reference(references())
    expected = unicam.attribute(inputs(), reference=population)
    torch.testing.assert_close(wrapped.attribute(inputs(), reference=population), expected)


@pytest.mark.parametrize("target", [1, labels(3), None])
def test_noise_tunnel_equals_a_loop_over_single_images(target):
    unicam = make()
    population = unicam.reference(references())
    x, samples, deviation = inputs(3), 4, 0.3
    torch.manual_seed(0)
    found = NoiseTunnel(unicam).attribute(
        x, nt_type="smoothgrad", nt_samples=samples, stdevs=deviation, target=target, reference=population
    )
    torch.manual_seed(0)
    noise = torch.normal(0, torch.tensor(deviation).repeat(3 * samples, 3, 12, 12)).reshape(3, samples, 3, 12, 12)
    for i in range(3):
        maps = [unicam.attribute((x[i] + z)[None], reference=population)[0] for z in noise[i]]
        torch.testing.assert_close(found[i], torch.stack(maps).mean(0))


@pytest.mark.parametrize("target", [1, labels(4), None])
def test_sensitivity_max_equals_a_loop_over_single_images(target):
    unicam, samples, radius = make(), 3, 0.05
    population = unicam.reference(references())

    def perturbed(x: Tensor, radius: float = radius) -> Tensor:
        number = (torch.arange(len(x)) % samples + 1).to(x)[:, None, None, None]
        return x + radius * torch.sin(37 * x + number)

    x = inputs(4)
    found = sensitivity_max(
        unicam.attribute,
        x,
        perturb_func=perturbed,
        perturb_radius=radius,
        n_perturb_samples=samples,
        target=target,
        reference=population,
    )
    for i, image in enumerate(x):
        before = unicam.attribute(image[None], reference=population)
        copies = perturbed(image.expand(samples, -1, -1, -1))
        changes = [(unicam.attribute(c[None], reference=population) - before).norm() / before.norm() for c in copies]
        torch.testing.assert_close(found[i], max(changes), rtol=1e-8, atol=0)


def test_infidelity_equals_a_loop_over_single_images():
    student = conv(1)
    unicam = make(forward_func=student)
    population = unicam.reference(references())

    def maps_of(x, y):
        return unicam.attribute(x, y, reference=population)

    assert_infidelity_is_that_of_single_images(student, maps_of, inputs(), labels(N))
