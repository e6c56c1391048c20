"""Maps by the mean gradient on the way from a baseline: the definition by loops and autograd, completeness, invariances."""

import warnings
from typing import Any, Callable, Optional

import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from conv_pairs import M, N, inputs, relative_difference
from models import ConvNet, Split, TinyTransformer, TwoInputs, activations, images, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool
from captum_kd.attr.feature_path import FeaturePath, Steps

STEPS = 6
TARGETS = ["labels", "none", "Teacher"]
MODES = ["reference", "batch"]
on_targets = pytest.mark.parametrize("target", TARGETS)
on_modes = pytest.mark.parametrize("mode", MODES)

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def conv(seed: int, width: int = 6) -> ConvNet:
    return ConvNet(width=width, seed=seed).double()


STUDENT, BASE, SECOND, TEACHER = conv(1), conv(2, 7), conv(3, 5), conv(4, 9)
X, Y = inputs(N), labels(N)
REFERENCES, REFERENCE_LABELS = inputs(M, seed=5), labels(M)


def made(target: str, *bases: nn.Module, **arguments: Any) -> UniCAM:
    teacher = {"teacher_func": TEACHER} if target == "Teacher" else {}
    return UniCAM(STUDENT, "conv2", bases[0] if len(bases) == 1 else list(bases), **teacher, **arguments)


def explained(unicam: UniCAM, mode: str, target: str, both: bool = True, **settings: Any) -> Any:
    population = None
    if mode == "reference":
        population = unicam.reference(REFERENCES, REFERENCE_LABELS if target == "labels" else None)
    method = unicam.attribute_transfer if both else unicam.attribute
    return method(X, Y if target == "labels" else None, reference=population, n_steps=STEPS, **settings)


def pooled(model: nn.Module, x: Tensor, layer: str = "conv2") -> Tensor:
    return global_average_pool(activations(model, layer, x))


def surroundings(mode: str, i: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Puts input i in front of its population: of what belongs to inputs and to references."""
    others = [j for j in range(N) if j != i]
    if mode == "reference":
        return lambda of_inputs, of_references: torch.cat([of_inputs[i : i + 1], of_references])
    return lambda of_inputs, _: of_inputs[[i, *others]]


def expected(
    mode: str,
    target: str,
    own: nn.Module,
    others: list[nn.Module],
    baselines: Optional[Tensor] = None,
    features: Callable[[nn.Module, Tensor], Tensor] = pooled,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean gradients, baselines, and gains of the objective."""
    known = {model: (features(model, X), features(model, REFERENCES)) for model in (own, *others)}
    of_teacher = pooled(TEACHER, X), pooled(TEACHER, REFERENCES)
    one_hot = torch.eye(3, dtype=torch.float64)
    of_labels = one_hot[Y], one_hot[REFERENCE_LABELS]
    points = {"labels": of_labels, "Teacher": of_teacher, "none": None}[target]

    def objective(i: int, z: Tensor) -> Tensor:
        together = surroundings(mode, i)
        rows = torch.cat([z[None], together(*known[own])[1:]])
        aim = None if points is None else together(*points)
        return literal.several_bases_objective(rows, [together(*known[other]) for other in others], aim)

    if baselines is None:
        baselines = torch.stack([surroundings(mode, i)(*known[own])[1:].mean(0) for i in range(N)])
    baselines = baselines.expand_as(known[own][0])
    gradients, gains = literal.integrated_gradients(known[own][0], baselines, objective, STEPS)
    return gradients, baselines, gains


def check(found: Tensor, delta: Tensor, wanted: tuple[Tensor, Tensor, Tensor], own: nn.Module) -> None:
    gradients, baselines, gains = wanted
    maps = literal.pooled_map(activations(own, "conv2", X), gradients, baselines)
    assert relative_difference(found, maps) < 1e-9
    torch.testing.assert_close(delta, maps.sum((1, 2, 3)) - gains, rtol=1e-9, atol=1e-11)


@on_targets
@on_modes
def test_both_maps_are_those_of_the_definition(mode, target):
    maps, (gained, lacking) = explained(made(target, BASE), mode, target, return_convergence_delta=True)
    check(maps.distilled, gained, expected(mode, target, STUDENT, [BASE]), STUDENT)
    check(maps.residual, lacking, expected(mode, target, BASE, [STUDENT]), BASE)
    torch.testing.assert_close(maps.net, maps.distilled - maps.residual, rtol=0, atol=0)


@on_targets
@on_modes
def test_several_bases_are_removed_at_once(mode, target):
    unicam = made(target, BASE, SECOND)
    maps, (gained, lacking) = explained(unicam, mode, target, return_convergence_delta=True)
    check(maps.distilled, gained, expected(mode, target, STUDENT, [BASE, SECOND]), STUDENT)
    assert len(maps.residual) == len(lacking) == 2
    for place, base in enumerate((BASE, SECOND)):
        wanted = expected(mode, target, base, [STUDENT])
        check(maps.residual[place], lacking[place], wanted, base)
        alone, delta = explained(unicam.residual(place), mode, target, both=False, return_convergence_delta=True)
        check(alone, delta, wanted, base)
    torch.testing.assert_close(maps.net, maps.distilled - (maps.residual[0] + maps.residual[1]) / 2)


@on_modes
@pytest.mark.parametrize("kind", ["zero", "tensor"])
def test_other_baselines(mode, kind):
    own = torch.linspace(-1, 1, 6, dtype=torch.float64)
    baseline, wanted = ("zero", torch.zeros(6)) if kind == "zero" else (own, own)
    settings = {"feature_baselines": baseline, "return_convergence_delta": True}
    found, delta = explained(made("labels", BASE), mode, "labels", both=False, **settings)
    check(found, delta, expected(mode, "labels", STUDENT, [BASE], wanted.double()), STUDENT)


def test_each_model_may_have_its_own_baseline():
    unicam, own, other = made("labels", BASE), torch.rand(6), torch.rand(7)
    maps = explained(unicam, "reference", "labels", feature_baselines=(own, other))
    for found, single, baseline in ((maps.distilled, unicam, own), (maps.residual, unicam.residual(), other)):
        alone = explained(single, "reference", "labels", both=False, feature_baselines=baseline)
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-15)


@on_modes
@pytest.mark.parametrize("transform", ["deeper", "flatten", "own"])
def test_elsewhere_activations_are_weighted_by_the_mean_gradient(mode, transform):
    """The gradient goes back through the layers or the transform, and Grad-CAM's weighting stays as it is."""
    settings: dict[str, Any] = {
        "deeper": {"feature_layer": "conv3"}, "flatten": {"feature_transform": flatten},
        "own": {"feature_transform": lambda a: global_average_pool(a).square()},
    }[transform]  # fmt: skip
    transformed = settings.get("feature_transform", global_average_pool)

    def of_activations(model: nn.Module, a: Tensor) -> Tensor:
        if transform == "deeper":
            a = model.conv3(a.relu())
        return transformed(a)

    def features(model: nn.Module, x: Tensor) -> Tensor:
        return of_activations(model, activations(model, "conv2", x)).detach()

    gradients, _, gains = expected(mode, "labels", STUDENT, [BASE], features=features)
    a = activations(STUDENT, "conv2", X).requires_grad_()
    (slopes,) = torch.autograd.grad(of_activations(STUDENT, a), a, gradients)
    maps = literal.weighted_map(a.detach(), slopes)
    unicam = made("labels", BASE, **settings)
    found, delta = explained(unicam, mode, "labels", both=False, return_convergence_delta=True)
    assert relative_difference(found, maps) < 1e-9
    torch.testing.assert_close(delta, maps.sum((1, 2, 3)) - gains, rtol=1e-9, atol=1e-11)


@on_modes
@pytest.mark.parametrize("target", ["labels", "Teacher"])
def test_the_sum_of_a_map_approaches_the_gain_as_the_steps_grow(mode, target):
    unicam = made(target, BASE)
    population = None
    if mode == "reference":
        population = unicam.reference(REFERENCES, REFERENCE_LABELS if target == "labels" else None)
    aim = Y if target == "labels" else None

    def delta(n_steps: int) -> float:
        settings: dict[str, Any] = {"reference": population, "n_steps": n_steps, "return_convergence_delta": True}
        return float(unicam.attribute(X, aim, **settings)[1].abs().max())

    found = [delta(n) for n in (1, 2, 4, 8, 16, 32)]
    assert all(later < max(earlier / 2, 1e-13) for earlier, later in zip(found, found[1:])), found
    assert found[-1] < 1e-6


def test_settings_of_the_call_do_not_change_the_map():
    """Parts of the batch, single channels, layer inputs, lists of layers."""
    unicam = made("labels", BASE)
    whole = explained(unicam, "batch", "labels")
    parts = explained(unicam, "batch", "labels", internal_batch_size=3)
    for found, wanted in zip(parts, whole):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
    channels, delta = explained(
        unicam, "batch", "labels", both=False, attr_dim_summation=False, return_convergence_delta=True
    )
    torch.testing.assert_close(channels.sum(1, keepdim=True), whole.distilled, rtol=1e-10, atol=1e-14)
    assert float(delta.abs().max()) < 1e-3
    several = UniCAM(STUDENT, ["conv1", "conv2"], BASE)
    maps, (deltas, _) = explained(several, "batch", "labels", return_convergence_delta=True)
    torch.testing.assert_close(maps.distilled[1], whole.distilled, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(maps.net[1], whole.net, rtol=1e-10, atol=1e-14)
    assert len(deltas) == len(maps.net) == 2
    at_input = explained(UniCAM(STUDENT, "relu2", BASE), "batch", "labels", attribute_to_layer_input=True)
    torch.testing.assert_close(at_input.net, whole.net, rtol=1e-10, atol=1e-14)


def test_layers_of_a_list_may_have_baselines_of_their_own():
    """Also two entries with the same feature layer."""
    unicam = UniCAM(STUDENT, ["conv2", "conv2"], BASE, ["conv2", "conv1"], base_feature_layer=["conv2", "conv2"])
    found = explained(unicam, "reference", "labels", both=False, feature_baselines=["zero", torch.ones(6)])
    for maps, baseline in zip(found, ("zero", torch.ones(6))):
        wanted = explained(made("labels", BASE), "reference", "labels", both=False, feature_baselines=baseline)
        torch.testing.assert_close(maps, wanted)


@on_modes
def test_a_shift_of_all_features_changes_nothing(mode):
    """As it changes no distance; a baseline of zero would be another one."""
    moved = conv(1)
    with torch.no_grad():
        moved.conv2.bias += torch.linspace(1, 5, 6)
    wanted = explained(made("labels", BASE), mode, "labels").distilled
    found = explained(UniCAM(moved, "conv2", BASE), mode, "labels").distilled
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@on_targets
@on_modes
def test_the_net_map_changes_its_sign_with_the_models(mode, target):
    teacher = {"teacher_func": TEACHER} if target == "Teacher" else {}
    there = explained(UniCAM(STUDENT, "conv2", BASE, **teacher), mode, target).net
    back = explained(UniCAM(BASE, "conv2", STUDENT, **teacher), mode, target).net
    torch.testing.assert_close(there, -back, rtol=1e-9, atol=1e-13)


def test_the_net_map_of_different_grids_keeps_both_sums():
    """The smaller map is brought to the larger grid."""
    for size in ((12, 12), (13, 10)):
        x = torch.randn(N, 3, *size, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = UniCAM(STUDENT, "conv1", BASE, "conv2").attribute_transfer(x, Y, n_steps=4)
        assert maps.net.shape == maps.distilled.shape != maps.residual.shape
        sums = [single.sum((1, 2, 3)) for single in (maps.net, maps.distilled, maps.residual)]
        torch.testing.assert_close(sums[0], sums[1] - sums[2])


def test_a_base_given_twice_removes_no_more():
    once = explained(made("labels", BASE), "reference", "labels").distilled
    twice = explained(made("labels", BASE, BASE), "reference", "labels")
    torch.testing.assert_close(twice.distilled, once, rtol=1e-8, atol=1e-12)
    turned = explained(made("labels", SECOND, BASE), "reference", "labels").net
    torch.testing.assert_close(turned, explained(made("labels", BASE, SECOND), "reference", "labels").net)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@on_modes
def test_other_types_give_the_same_map(mode, dtype):
    def maps(kind: torch.dtype) -> tuple[Tensor, Tensor]:
        models = [ConvNet(seed=seed).to(dtype).to(kind) for seed in (1, 2)]
        x, references = (images(n, seed=seed).to(dtype).to(kind) for n, seed in ((N, 0), (M, 5)))
        unicam = UniCAM(models[0], "conv2", models[1])
        population = unicam.reference(references, REFERENCE_LABELS) if mode == "reference" else None
        settings: dict[str, Any] = {"n_steps": 16, "return_convergence_delta": True}
        found, delta = unicam.attribute(x, Y, reference=population, **settings)
        assert found.dtype == kind and delta.dtype == (torch.float32 if kind == dtype else kind)
        return found, delta

    found, delta = maps(dtype)
    assert relative_difference(found, maps(torch.float64)[0]) < (1e-4 if dtype == torch.float32 else 0.1)
    assert float(delta.abs().max()) < (1e-5 if dtype == torch.float32 else 0.05)


def test_tokens_and_layers_without_positions():
    """Prefix tokens are left out of the sum, and a layer of (N, C) has one position."""
    student, base = (TinyTransformer(seed=seed).double() for seed in (1, 2))
    x = torch.randn(N, 3, 16, 16, dtype=torch.float64)
    maps, (delta, _) = UniCAM(student, "block", base).attribute_transfer(
        x, Y, n_steps=16, return_convergence_delta=True
    )
    assert maps.net.dim() == 4 and float(delta.abs().max()) < 1e-4
    flat, delta = UniCAM(STUDENT, "fc", BASE).attribute(X, Y, n_steps=64, return_convergence_delta=True)
    assert flat.shape == (N, 1) and float(delta.abs().max()) < 1e-4


def test_several_inputs_and_several_tensors():
    """The features of all tensors of a layer are one geometry, whose gain is shared among their maps."""
    models = [TwoInputs(seed).double() for seed in (1, 2)]
    x = torch.randn(N, 4, dtype=torch.float64), torch.randn(N, 3, dtype=torch.float64)
    settings: dict[str, Any] = {"n_steps": 16, "return_convergence_delta": True}
    _, delta = UniCAM(models[0], "mix", models[1]).attribute(x, Y, **settings)
    assert float(delta.abs().max()) < 1e-3

    class Model(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.split = Split("tuple")

        def forward(self, x: Tensor) -> Tensor:
            return self.split(x)[0].mean((2, 3))

    maps, (delta, _) = UniCAM(Model(1).double(), "split", Model(2).double()).attribute_transfer(X, Y, **settings)
    assert len(maps.distilled) == len(maps.net) == 2 and float(delta.abs().max()) < 1e-3
    torch.testing.assert_close(maps.net[1], maps.distilled[1] - maps.residual[1], rtol=0, atol=0)


def test_inputs_of_the_population_and_baselines_at_its_points():
    """Equal features have the distance 0, and no slope there, at both ends of a path."""
    unicam = made("labels", BASE)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS)
    at = pooled(STUDENT, REFERENCES)[3]
    found, delta = unicam.attribute(
        REFERENCES, REFERENCE_LABELS, reference=population, n_steps=64, feature_baselines=at, return_convergence_delta=True
    )
    assert bool(found.isfinite().all()) and float(delta.abs().max()) < 1e-4
    assert float(found[3].sum().abs()) < 1e-12  # it does not move


@on_targets
@on_modes
def test_a_distant_baseline_leaves_the_objective_at_the_features_exact(mode, target):
    """Distances along the path are taken from its end, where a distant baseline would leave no digits."""
    far = torch.full((6,), 1e7, dtype=torch.float64)
    settings = {"feature_baselines": far, "return_convergence_delta": True}
    maps, delta = explained(made(target, BASE), mode, target, both=False, **settings)
    gains = expected(mode, target, STUDENT, [BASE], far)[2]
    torch.testing.assert_close(maps.sum((1, 2, 3)) - delta, gains, rtol=1e-6, atol=1e-6)


@on_modes
def test_features_of_which_nothing_is_left_are_counted_once(mode):
    unicam = UniCAM(STUDENT, "conv2", conv(1))
    with pytest.warns(UserWarning) as caught:
        maps = explained(unicam, mode, "labels")
    assert float(maps.distilled.abs().max()) == 0 == float(maps.net.abs().max())
    texts = [str(each.message) for each in caught if "Nothing of the features" in str(each.message)]
    assert len(texts) == 2 and all(f"{N} of {N} inputs" in text for text in texts)


def test_a_population_of_wide_features_is_not_copied(monkeypatch):
    """Its columns are centered and widened part by part."""
    wanted = explained(made("labels", BASE), "reference", "labels").net
    paths = []
    monkeypatch.setattr("captum_kd.attr.feature_path.CHUNK", 4)
    whole = FeaturePath.of.__func__
    monkeypatch.setattr(FeaturePath, "of", lambda *given: paths.append((given, whole(FeaturePath, *given))) or paths[-1][1])
    torch.testing.assert_close(explained(made("labels", BASE), "reference", "labels").net, wanted, rtol=1e-12, atol=1e-15)
    assert len(paths) == 2 and all(path.around.points is given[2].points for given, path in paths)


def test_parts_of_many_inputs_are_joined(monkeypatch):
    """Intermediate results of a part of the inputs stay small, and the parts give the same map."""
    wanted = explained(made("Teacher", BASE), "batch", "Teacher")
    monkeypatch.setattr("captum_kd.attr.feature_path._PART", 100)
    torch.testing.assert_close(explained(made("Teacher", BASE), "batch", "Teacher").net, wanted.net)
    monkeypatch.setattr("captum_kd.attr.feature_path.CHUNK", 2)
    torch.testing.assert_close(explained(made("Teacher", BASE), "batch", "Teacher").net, wanted.net)


def test_the_quadrature_is_exact_for_polynomials():
    for n_steps in (1, 3, 8):
        steps = Steps.gauss_legendre(n_steps, has_start=True)
        assert steps.points[0] == 0 and steps.points[-1] == 1 and steps.weights[0] == 0 == steps.weights[-1]
        for power in range(2 * n_steps):
            total = sum(weight * point**power for point, weight in zip(steps.points, steps.weights))
            assert total == pytest.approx(1 / (power + 1), abs=1e-14)


def test_with_noise_tunnel_and_interpolation():
    unicam = made("labels", BASE)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS)
    smooth, delta = NoiseTunnel(unicam).attribute(
        X, nt_samples=2, stdevs=1e-9, target=Y, reference=population, n_steps=16, return_convergence_delta=True
    )
    torch.testing.assert_close(smooth, unicam.attribute(X, Y, reference=population, n_steps=16), rtol=1e-4, atol=1e-9)
    assert len(delta) % N == 0 and float(delta.abs().max()) < 1e-6
    assert LayerAttribution.interpolate(smooth, (12, 12)).shape == (N, 1, 12, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a positive integer"),
        ({"n_steps": True}, "n_steps must be a positive integer"),
        ({"n_steps": 2.5}, "n_steps must be a positive integer"),
        ({"feature_baselines": "zero"}, "^feature_baselines was given without n_steps; pass n_steps=16"),
        ({"return_convergence_delta": True}, "^return_convergence_delta was given without n_steps; pass n_steps=16"),
        ({"n_steps": 4, "feature_baselines": "mean"}, "None, \"zero\" or features"),
        ({"n_steps": 4, "feature_baselines": torch.rand(2, 6)}, "one finite floating point vector"),
        ({"n_steps": 4, "feature_baselines": torch.full((6,), torch.nan)}, "one finite floating point vector"),
        ({"n_steps": 4, "feature_baselines": torch.ones(6, dtype=torch.long)}, "one finite floating point vector"),
        ({"n_steps": 4, "feature_baselines": torch.rand(5)}, "5 entries, and the inputs have 6 features"),
        ({"n_steps": 4, "feature_baselines": ["zero", "zero"]}, "2 entries for 1 layer"),
        ({"n_steps": 4, "feature_baselines": ("zero", None)}, "2 entries for 1 explained model"),
        ({"n_steps": 4, "return_convergence_delta": True, "relu_attributions": True}, "no gain of the objective"),
    ],
)
def test_arguments_that_do_not_fit(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        made("labels", BASE).attribute(X, Y, **settings)


def test_net_maps_that_do_not_exist():
    unicam = made("labels", BASE)
    with pytest.raises(ValueError, match="n_steps=16"):
        unicam.attribute_transfer(X, Y).net
    with pytest.raises(ValueError, match="leave it out"):
        unicam.attribute_transfer(X, Y, n_steps=2, relu_attributions=True).net
    with pytest.raises(ValueError, match="attr_dim_summation"):
        unicam.attribute_transfer(X, Y, n_steps=2, attr_dim_summation=False).net


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_func": []}, "empty sequence"),
        ({"base_func": [BASE, 3]}, r"base_func\[1\] must be callable"),
        ({"base_func": [BASE, SECOND], "base_layer": BASE.conv2}, "one module for 2 Bases"),
        ({"base_func": [BASE, SECOND], "base_layer": ["conv2"]}, "1 entries for 2 Bases"),
        (
            {"base_func": [BASE, SECOND], "layer": ["conv1", "conv2"], "base_layer": ["conv1", "conv2"]},
            "one for each of the 2 entries of layer",
        ),
    ],
)
def test_bases_that_do_not_fit(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        UniCAM(STUDENT, **{"layer": "conv2", **arguments})


@pytest.mark.parametrize("bases", ([BASE], [BASE, SECOND]))
def test_each_base_may_have_a_list_of_layers(bases):
    unicam = UniCAM(STUDENT, ["conv1", "conv2"], bases, [["conv2", "conv1"]] * len(bases))
    assert unicam.residual(0).layer == [BASE.conv2, BASE.conv1]


def test_the_place_of_an_explained_base():
    unicam = made("labels", BASE, SECOND)
    with pytest.raises(ValueError, match="residual\\(0\\)"):
        unicam.residual()
    with pytest.raises(ValueError, match="below 2"):
        unicam.residual(2)
    second = unicam.residual(1)
    assert second.forward_func is SECOND and second.base_func is STUDENT and second.layer is SECOND.conv2
    again = second.residual()
    assert again.forward_func is STUDENT and again.base_func == [BASE, SECOND]
    layers = UniCAM(STUDENT, "conv2", [BASE, SECOND], ["conv1", SECOND.conv2])
    assert layers.residual(0).layer is BASE.conv1 and layers.residual(1).layer is SECOND.conv2


def test_a_list_of_one_base_is_a_list():
    """So that code for any number of Bases needs no special case."""
    alone, listed = made("labels", BASE), UniCAM(STUDENT, "conv2", [BASE])
    for settings in ({}, {"n_steps": 3}):
        wanted, found = (unicam.attribute_transfer(X, Y, **settings) for unicam in (alone, listed))
        assert isinstance(found.residual, list) and len(found.residual) == 1
        torch.testing.assert_close(found.residual[0], wanted.residual, rtol=0, atol=0)
    torch.testing.assert_close(found.net, wanted.net, rtol=0, atol=0)
    assert listed.residual(0).residual().base_func == [BASE]


def test_every_base_in_training_mode_is_named():
    second = conv(3)
    second.add_module("drop", nn.Dropout(0.5))
    with pytest.warns(UserWarning, match=r"In training mode: base_func\[1\]\."):
        UniCAM(conv(1).eval(), "conv2", [conv(2).eval(), second]).attribute(X, Y)


def test_a_population_serves_maps_with_and_without_steps():
    unicam = made("labels", BASE, SECOND)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS)
    first = unicam.attribute_transfer(X, Y, reference=population)
    assert len(first.residual) == 2 and first.distilled.shape == first.residual[1].shape
    alone = unicam.residual(1).attribute(X, Y, reference=population)
    torch.testing.assert_close(first.residual[1], alone)
    turned = unicam.residual(1).attribute_transfer(X, Y, reference=population, n_steps=4)
    wanted = unicam.attribute_transfer(X, Y, reference=population, n_steps=4)
    torch.testing.assert_close(turned.distilled, wanted.residual[1])
    torch.testing.assert_close(turned.residual, wanted.distilled)
    with pytest.raises(ValueError, match="made with number of Bases=2, but this call has 1"):
        made("labels", BASE).attribute(X, Y, reference=population)


def test_only_maps_of_averages_at_their_own_layer_have_a_unit():
    kinds = [
        (UniCAM(STUDENT, "conv2", BASE), 4, True),
        (UniCAM(STUDENT, "conv2", BASE), None, False),
        (UniCAM(STUDENT, "conv1", BASE, feature_layer="conv2"), 4, False),
        (UniCAM(STUDENT, "conv2", BASE, feature_transform=flatten), 4, False),
        (UniCAM(STUDENT, "conv2", BASE, feature_transform=flatten, weights="elementwise"), 4, True),
        (UniCAM(STUDENT, "conv1", BASE, feature_layer="conv2", weights="elementwise"), 4, False),
    ]
    for unicam, n_steps, has_unit in kinds:
        assert unicam.attribute_transfer(X, labels(N), n_steps=n_steps).has_unit is has_unit
