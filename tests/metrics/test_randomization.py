"""Similarity of maps to those of randomized networks."""

import copy

import numpy as np
import pytest
import torch
from models import ConvNet, forbidden, images, labels
from scipy.stats import spearmanr
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import randomization_test

N = 8

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def pair(**changes: object) -> UniCAM:
    settings: dict = {"layer": "conv2", "feature_layer": "conv3", **changes}
    return UniCAM(ConvNet(seed=1).eval(), base_func=ConvNet(seed=2).eval(), **settings)


def test_modules_ahead_of_the_features_from_the_last_on():
    assert randomization_test(pair(), images(N), labels(N)).modules == ("conv3", "conv2", "conv1")
    own = pair(feature_layer=None)
    assert randomization_test(own, images(N), labels(N)).modules == ("conv2", "conv1")
    at_input = randomization_test(own, images(N), labels(N), attribute_to_layer_input=True)
    assert at_input.modules == ("conv1",)


def test_similarities_are_scipys():
    """The last step has the weights of networks that were reset one module after the other, with the same seeds."""
    unicam, x, y = pair(), images(N), labels(N)
    original = unicam.attribute(x, y)
    found = randomization_test(unicam, x, y, seed=3)
    student = copy.deepcopy(unicam.forward_func)
    seeds = torch.Generator().manual_seed(3)
    for step, name in enumerate(found.modules):
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=seeds)))
            getattr(student, name).reset_parameters()
        maps = UniCAM(student, "conv2", unicam.base_func, feature_layer="conv3").attribute(x, y)
        for values, null, change in (
            (found.spearman, found.null, lambda t: t), (found.absolute_spearman, found.absolute_null, torch.abs),
        ):  # fmt: skip
            rho = np.array([[spearmanr(change(a).ravel(), change(b).ravel()).statistic for b in maps] for a in original])
            assert values[step].tolist() == pytest.approx(rho.diagonal(), abs=1e-10)
            assert float(null[step]) == pytest.approx((rho.sum() - rho.trace()) / (N * (N - 1)), abs=1e-10)
    assert found.means.tolist() == pytest.approx(found.spearman.mean(1).tolist())


def test_modules_behind_the_layer_leave_maps_as_they_are():
    with pytest.warns(UserWarning, match="Random weights of fc changed no map"):
        found = randomization_test(pair(), images(N), labels(N), modules=["fc"])
    assert found.modules == ("fc",)
    torch.testing.assert_close(found.spearman, torch.ones(1, N, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.absolute_spearman, torch.ones(1, N, dtype=torch.float64), rtol=0, atol=1e-12)


def test_models_in_bfloat16():
    student, base = (ConvNet(seed=seed).eval().bfloat16() for seed in (1, 2))
    found = randomization_test(UniCAM(student, "conv2", base), images(N).bfloat16(), labels(N))
    assert found.spearman.dtype == torch.float64 and student.conv1.weight.dtype == torch.bfloat16


class Scaled(nn.Module):
    """Multiplies channels. If the factors are equal, a permutation changes nothing."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(factors)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def test_maps_that_do_not_depend_on_the_weights_have_similarity_1():
    student, base = (nn.Sequential(Scaled(*factors), ConvNet()).eval() for factors in ((1.5, 1.5, 1.5), (1.0, 2.0, 3.0)))
    found = randomization_test(UniCAM(student, "0", base), images(N), labels(N), reference=(images(12, seed=5), labels(12)))
    assert found.modules == ("0",)
    torch.testing.assert_close(found.spearman, torch.ones(1, N, dtype=torch.float64), rtol=0, atol=1e-12)


def test_parameters_without_reset_are_permuted():
    student, base = (nn.Sequential(Scaled(*factors), ConvNet()).eval() for factors in ((0.1, 1.0, 7.0), (1.0, 2.0, 3.0)))
    # One of six permutations of three channels is the one that changes nothing.
    found = [randomization_test(UniCAM(student, "0", base), images(N), labels(N), seed=seed) for seed in range(4)]
    assert min(float(each.means[0]) for each in found) < 0.99


def test_both_models_get_different_weights_and_each_only_its_own():
    unicam, x, y = pair(), images(N), labels(N)
    seen = {}
    for model, name in ((unicam.forward_func, "student"), (unicam.base_func, "base")):
        original = model.conv1.weight
        model.conv3.register_forward_hook(
            lambda module, *_, model=model, name=name, original=original: seen.__setitem__(
                name, model.conv1.weight.clone()
            )
        )
    before = {name: model.conv1.weight.clone() for name, model in (("student", unicam.forward_func), ("base", unicam.base_func))}
    for randomize, changed in (("student", {"student"}), ("base", {"base"}), ("both", {"student", "base"})):
        found = randomization_test(unicam, x, y, randomize=randomize)
        assert {name for name in seen if not torch.equal(seen[name], before[name])} == changed
        assert found.randomized == randomize and len(found.modules) == 3
    assert not torch.equal(seen["student"], seen["base"])


def test_residual_net_and_integrated_maps_with_a_population():
    unicam, x, y = pair(), images(N), labels(N)
    settings = {"reference": (images(12, seed=5), labels(12)), "n_steps": 4}
    distilled = randomization_test(unicam, x, y, **settings)
    residual = randomization_test(unicam.residual(), x, y, **settings)
    net = randomization_test(unicam, x, y, net=True, **settings)
    assert distilled.modules == residual.modules == net.modules
    # What is explained is randomized. Untrained networks have maps of noise, which follow their weights.
    assert [each.randomized for each in (distilled, residual, net)] == ["student", "base", "both"]
    assert all(abs(float(each.means[-1])) < 0.4 for each in (distilled, residual, net))
    # A residual map hardly follows the model that is removed.
    removed = randomization_test(unicam.residual(), x, y, randomize="student", **settings)
    assert float(removed.means[-1]) > 0.9


def test_several_bases_are_randomized_together():
    bases = [ConvNet(seed=seed).eval() for seed in (2, 3)]
    unicam = UniCAM(ConvNet(seed=1).eval(), "conv2", bases)
    found = randomization_test(unicam, images(N), labels(N), randomize="base")
    assert found.modules == ("conv2", "conv1")
    alone = randomization_test(unicam.residual(1), images(N), labels(N), randomize="base", seed=4)
    assert alone.modules == found.modules


def test_seed_determines_the_result():
    first, again, other = (randomization_test(pair(), images(N), labels(N), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.spearman, again.spearman) and not torch.equal(first.spearman, other.spearman)


class Attention(nn.Module):
    """Weights in the model itself, in attention (its out_proj never runs), shared ones, a head behind the layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.place = nn.Parameter(torch.randn(1, 16, 8))
        self.patches = nn.Conv2d(3, 8, 3, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(x + self.attention(x, x, x)[0]).mean(1))


def test_weights_of_modules_that_do_not_run_themselves():
    student = Attention(1).eval()
    unicam = UniCAM(student, "norm", Attention(2).eval())
    assert randomization_test(unicam, images(N), labels(N)).modules == ("norm", "attention", "patches", "Attention")
    seen = []
    student.norm.register_forward_hook(lambda *_: seen.append(student.attention.out_proj.weight.clone()))
    randomization_test(unicam, images(N), labels(N))
    assert not torch.equal(seen[0], seen[-1]) and torch.equal(seen[0], student.attention.out_proj.weight)


class Recurrent(nn.Module):
    """A module that keeps a second list of its weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn = nn.LSTM(12, 6, batch_first=True)
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.mean(1))[0].transpose(1, 2)[:, :, None])


def test_recurrent_weights_are_randomized_and_restored():
    student = Recurrent(1).eval()
    before = student(images(N))
    found = randomization_test(UniCAM(student, "out", Recurrent(2).eval()), images(N), labels(N))
    assert found.modules == ("rnn",)
    assert float(found.means[0]) < 0.99
    assert torch.equal(student(images(N)), before)
    assert all(a is b for a, b in zip(student.rnn._flat_weights, student.rnn.parameters()))


def test_old_weight_norm_is_randomized_although_reset_parameters_has_no_effect():
    with pytest.warns():
        student, base = (ConvNet(seed=seed).eval() for seed in (1, 2))
        nn.utils.weight_norm(student.conv2)
    found = randomization_test(UniCAM(student, "conv2", base), images(N), labels(N), modules=["conv2"])
    assert float(found.means[0]) < 0.99


def test_plain_functions():
    student, base = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    unicam = UniCAM(lambda x: student(x), student.conv2, lambda x: base(x), base.conv2)
    found = randomization_test(unicam, images(N), labels(N))
    assert [name.split()[0] for name in found.modules] == ["Conv2d", "Conv2d"]
    named = randomization_test(unicam, images(N), labels(N), modules=[student.conv2, student.conv1])
    assert torch.equal(named.spearman, found.spearman)


def test_compiled_models_have_names_without_the_wrapper():
    student = torch.compile(ConvNet(seed=1).eval(), backend="eager")
    found = randomization_test(UniCAM(student, "conv2", ConvNet(seed=2).eval()), images(N), labels(N))
    assert found.modules == ("conv2", "conv1")


@pytest.mark.parametrize("randomize", ["student", "base", "both"])
def test_the_call_leaves_nothing_behind(randomize):
    unicam = pair()
    models = unicam.forward_func, unicam.base_func
    for model in models:
        model.conv1.requires_grad_(False)
    parameters = [parameter for model in models for parameter in model.parameters()]
    versions = [parameter._version for parameter in parameters]
    population = unicam.reference(images(N), labels(N))
    x = images(N).requires_grad_()
    with unchanged_state(models, (x,)):
        randomization_test(unicam, x, labels(N), randomize=randomize, reference=(x, labels(N)))
    assert all(a is b for a, b in zip(parameters, (each for model in models for each in model.parameters())))
    assert [parameter._version for parameter in parameters] == versions
    unicam.attribute(images(N), labels(N), reference=population)  # the population still belongs to the models


def test_the_mode_of_the_grad_is_kept_and_inference_mode_is_allowed():
    with torch.inference_mode():
        inside = randomization_test(pair(), images(N), labels(N))
    assert torch.equal(inside.spearman, randomization_test(pair(), images(N), labels(N)).spearman)


class Raising(ConvNet):
    """Raises at a certain run."""

    at_run = 0
    error: BaseException = KeyboardInterrupt()

    def forward(self, x: Tensor, scale: object = 1.0) -> Tensor:
        self.at_run -= 1
        if self.at_run == 0:
            raise self.error
        return super().forward(x, scale)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=["interrupt", "error"])
@pytest.mark.parametrize("at_run", [1, 2, 3, 5])
def test_models_are_restored_after_an_interrupt(at_run, error):
    student = Raising(seed=1).train()
    student.conv2.register_buffer("seen", torch.ones(3))
    unicam = UniCAM(student, "conv2", ConvNet(seed=2).eval(), feature_layer="conv3")
    student.at_run, student.error = at_run, error
    parameters = list(student.parameters())
    with unchanged_state((student, unicam.base_func)), pytest.raises(type(error)):
        randomization_test(unicam, images(N), labels(N), internal_batch_size=N)
    assert all(a is b for a, b in zip(parameters, student.parameters())) and student.at_run == 0


def test_an_interrupt_in_a_reset_restores_the_model():
    class Interrupting(nn.Conv2d):
        armed = False

        def reset_parameters(self) -> None:
            if self.armed:
                nn.init.zeros_(self.weight)
                raise KeyboardInterrupt
            super().reset_parameters()

    student = ConvNet(seed=1).eval()
    student.conv1 = Interrupting(3, 4, 3, padding=1)
    student.conv1.armed = True
    unicam = UniCAM(student, "conv2", ConvNet(seed=2).eval())
    with unchanged_state((student,)), pytest.raises(KeyboardInterrupt):
        randomization_test(unicam, images(N), labels(N))


def test_training_mode_changes_no_statistics_of_the_randomized_model():
    student, base = (nn.Sequential(nn.BatchNorm2d(3), ConvNet(seed=seed)) for seed in (1, 2))
    unicam = UniCAM(student.train(), "1.conv2", base.eval())
    with pytest.warns(UserWarning, match="In training mode: forward_func") as warned, unchanged_state((student, base)):
        randomization_test(unicam, images(N), labels(N))
    assert len([each for each in warned if "training mode" in str(each.message)]) == 1


def test_constant_maps_count_as_0_with_a_warning():
    student = ConvNet(seed=1).eval()

    class Zero(nn.Conv2d):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    trained = student.conv2
    student.conv2 = Zero(4, 6, 3, stride=2, padding=1)
    student.conv2.load_state_dict(trained.state_dict())
    unicam = UniCAM(student, "conv2", ConvNet(seed=2).eval())
    with pytest.warns(UserWarning, match="8 of 16 maps are constant"):
        found = randomization_test(unicam, images(N), labels(N), modules=["conv2"])
    assert found.means.tolist() == [0.0] and found.null.tolist() == [0.0]


def test_repr_and_single_inputs():
    found = randomization_test(pair(), images(1), [0], reference=(images(12, seed=5), labels(12)), net=True, n_steps=2)
    assert found.null is None and found.n == 1
    assert repr(found) == (
        f"RandomizationTest(both, 3 module(s), 1 inputs; with all of them random: spearman {found.means[-1]:.3f}, of absolute "
        f"values {found.absolute_means[-1]:.3f})"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"unicam": "layer4"}, TypeError, "unicam must be a UniCAM, got 'layer4'"),
        ({"unicam": pair(layer=["conv1", "conv2"])}, ValueError, "unicam has a list of layers"),
        ({"unicam": pair(layer=["conv2"])}, ValueError, "unicam has a list of layers"),
        ({"unicam": pair(layer="fc", feature_layer=None)}, ValueError, "maps have a single position"),
        ({"randomize": "teacher"}, ValueError, "randomize must be 'student', 'base' or 'both', got 'teacher'"),
        ({"net": True}, ValueError, "pass n_steps=16"),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer"),
        ({"reference": images(N)}, TypeError, r"reference must be a tuple \(inputs, target\)"),
        ({"return_convergence_delta": True, "n_steps": 4}, ValueError, "return_convergence_delta has no place"),
        ({"modules": ["conv9"]}, ValueError, "modules='conv9' is no layer of forward_func .* Close matches"),
        ({"modules": []}, ValueError, "modules is an empty list"),
        ({"modules": ["relu1"]}, ValueError, "'relu1' of modules has no parameters"),
        ({"unicam": pair(layer="conv1", feature_layer=None), "attribute_to_layer_input": True}, ValueError, "nothing to rand"),
        ({"target": [0] * 3}, ValueError, "target has shape"),
    ],
)
def test_errors(change, error, message):
    arguments = {"unicam": pair(), "inputs": images(N), "target": labels(N), **change}
    with pytest.raises(error, match=message):
        randomization_test(**arguments)


def test_a_finished_population_is_refused_before_any_model_runs():
    unicam = pair()
    population = unicam.reference(images(N), labels(N))
    unicam.forward_func.forward = forbidden
    with pytest.raises(TypeError, match="is a ReferencePopulation, which belongs to the weights"):
        randomization_test(unicam, images(N), labels(N), reference=population)


def test_models_of_different_modules_are_not_randomized_together():
    base = ConvNet(seed=2).eval()
    base.conv1 = nn.Sequential(base.conv1, nn.Conv2d(4, 4, 1))
    unicam = UniCAM(ConvNet(seed=1).eval(), "conv2", base)
    with pytest.raises(ValueError, match="The modules of the models differ.*'conv1.*Pass modules="):
        randomization_test(unicam, images(N), labels(N), randomize="both")
    found = randomization_test(unicam, images(N), labels(N), randomize="both", modules=["conv2", "conv1"])
    assert found.modules == ("conv2", "conv1")


def test_figure_is_legible_and_begins_at_the_trained_network():
    from figures import assert_legible

    found = randomization_test(pair(), images(N), labels(N))
    figure = found.plot(title="A test")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["trained", "conv3", "conv2", "conv1"]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([1.0, *found.means.tolist()])
    assert_legible(figure)
