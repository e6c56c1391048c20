"""UniCAM at several layers at once: one pass of each model, what separate calls give, and what Captum makes of lists."""

import copy
from typing import Any, Optional

import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.metrics import infidelity
from conv_pairs import N, inputs, pair
from models import ConvNet, SeveralOutputs, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import sensitivity_max

M = 12

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


class CountsPasses(nn.Module):
    """Identity that counts how often it is run, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        counts = self

        class Counted(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Tensor) -> Tensor:
                return value.clone()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                counts.backwards += 1
                return grad

        return Counted.apply(x)


class Counted(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 3)
        self.counts = CountsPasses()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.counts(torch.tanh(self.conv2(torch.tanh(self.conv1(x))))))


# -------------------------------------------------------------------------------- passes


@pytest.mark.parametrize(
    "features, backwards",
    [(None, 0), ("conv3", 1), (["conv3", "conv3", "conv3"], 1)],
    ids=["own features", "one for all", "listed"],
)
def test_all_layers_take_one_pass_of_each_model(features, backwards):
    models = Counted(1).double(), Counted(2).double()
    unicam = UniCAM(models[0], ["conv1", "conv2", "conv3"], models[1], feature_layer=features)
    maps = unicam.attribute_transfer(inputs(), labels(N))
    assert [len(direction) for direction in maps] == [3, 3]
    assert [(m.counts.forwards, m.counts.backwards) for m in models] == [(1, backwards)] * 2


def test_different_feature_layers_take_a_backward_pass_each():
    student, base = Counted(1).double(), Counted(2).double()
    unicam = UniCAM(student, ["conv1", "conv1"], base, feature_layer=["conv2", "conv3"])
    unicam.attribute(inputs(), labels(N))
    assert (student.counts.forwards, student.counts.backwards) == (1, 1)  # conv2 is ahead of what counts


def test_a_reference_population_is_measured_once_for_layers_that_share_features():
    student, base = pair()
    unicam = UniCAM(student, ["conv1", "conv2"], base, feature_layer="conv3")
    population = unicam.reference(inputs(M, seed=5), labels(M))
    assert population.layers[0] is population.layers[1]
    expected = unicam.attribute(inputs(), 1, reference=population)
    torch.testing.assert_close(unicam.attribute(inputs(), 1, reference=copy.deepcopy(population)), expected)


# ------------------------------------------------------------------------ separate calls


def settings(names: list, at: Optional[int]) -> Any:
    return names if at is None else names[at]


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("mode", ["batch", "reference"])
@pytest.mark.parametrize(
    "layers, base_layers, features, base_features",
    [
        (["conv1", "conv2"], ["conv1", "conv2"], [None, None], [None, None]),
        (["conv3", "conv1"], ["conv2", "conv1"], [None, "conv3"], ["conv2", "fc"]),
        (["conv1", "conv1"], ["conv1", "conv1"], ["conv3", "fc"], ["conv3", "fc"]),
        (["conv2", "conv2"], ["conv1", "conv2"], [None, None], [None, None]),
        (["conv1", "conv1"], ["conv1", "conv2"], ["conv3", "conv3"], ["conv3", "conv3"]),
    ],
    ids=["own", "mixed", "one layer, two features", "two counterparts", "two counterparts, shared features"],
)
def test_every_entry_is_what_a_call_for_its_layers_gives(layers, base_layers, features, base_features, mode, teacher):
    student, base = pair()

    def maps(at: Optional[int]) -> list:
        unicam = UniCAM(
            student,
            settings(layers, at),
            base,
            settings(base_layers, at),
            feature_layer=settings(features, at) if any(features) else None,
            base_feature_layer=settings(base_features, at) if any(base_features) else None,
            teacher_func=ConvNet(seed=3).double() if teacher else None,
            teacher_layer=settings(["conv2", "conv3"], at) if teacher else None,
        )
        reference = unicam.reference(inputs(M, seed=5), labels(M)) if mode == "reference" else None
        both = unicam.attribute_transfer(inputs(), labels(N), reference=reference)
        residual = unicam.residual().attribute(inputs(), labels(N), reference=reference, internal_batch_size=3)
        return [unicam.attribute(inputs(), labels(N), reference=reference), *both, residual]

    raise_together = maps(None)
    for at in range(2):
        for of_all, alone in zip(raise_together, maps(at)):
            assert isinstance(of_all, list) and len(of_all) == 2
            torch.testing.assert_close(of_all[at], alone)


def test_residual_explains_the_base_models_layers():
    student, base = pair()
    residual = UniCAM(student, ["conv1", "conv2"], base, ["conv2", "conv3"]).residual()
    assert residual.layer == [base.conv2, base.conv3]
    assert [m.shape[2:] for m in residual.attribute(inputs(), labels(N))] == [(6, 6), (3, 3)]


def test_an_entry_of_a_layer_with_several_outputs_is_a_tuple():
    student, base = SeveralOutputs("tuple", 1).double(), SeveralOutputs("tuple", 2).double()
    several, single = UniCAM(student, ["split", "head"], base).attribute(inputs(), labels(N))
    assert [m.shape for m in several] == [(N, 1, 12, 12), (N, 1, 6, 6)]
    assert single.shape == (N, 1, 12, 12)


# -------------------------------------------------------------------------- Captum's tools


@pytest.fixture
def explained():
    student, base = pair()
    unicam = UniCAM(student, ["conv1", "conv2"], base)
    return student, unicam, unicam.reference(inputs(M, seed=5), labels(M))


def test_entries_are_maps_for_interpolate_and_infidelity(explained):
    student, unicam, population = explained
    for single in unicam.attribute(inputs(), labels(N), reference=population):
        upsampled = LayerAttribution.interpolate(single, (12, 12))
        assert upsampled.shape == (N, 1, 12, 12)
        scores = infidelity(
            student, lambda x: (0.1 * x, 0.9 * x), inputs(), upsampled.expand(-1, 3, -1, -1), target=labels(N)
        )
        assert scores.shape == (N,)


def test_captums_tools_take_no_lists(explained):
    """NoiseTunnel and infidelity know tensors and tuples: for them, one UniCAM a layer."""
    student, unicam, population = explained
    with pytest.raises(AssertionError, match="list"):
        NoiseTunnel(unicam).attribute(inputs(), nt_samples=2, target=labels(N), reference=population)
    maps = unicam.attribute(inputs(), labels(N), reference=population)
    with pytest.raises(AssertionError, match="list"):
        infidelity(student, lambda x: (0.1 * x, 0.9 * x), inputs(), maps, target=labels(N))
    with pytest.raises(TypeError, match="one layer"):
        sensitivity_max(unicam.attribute, inputs(), target=labels(N), reference=population)


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments",
    [
        dict(layer=["conv1", "conv2", "conv1"]),
        dict(layer=["conv1", "conv1"], feature_layer="conv3"),
        dict(layer=["conv1", "conv1"], feature_layer=["conv3", "conv3"], base_feature_layer=["fc", "fc"]),
    ],
)
def test_the_same_layers_twice(arguments):
    student, base = pair()
    with pytest.raises(ValueError, match=r"Entries 0 and \d of layer are the same: layer 'conv1' of forward_func"):
        UniCAM(student, base_func=base, **arguments)


def test_a_name_and_its_module_are_the_same_layer():
    student, base = pair()
    with pytest.raises(ValueError, match="Entries 0 and 1"):
        UniCAM(student, ["conv2", student.conv2], base)


def test_teacher_layers_tell_entries_apart():
    student, base = pair()
    unicam = UniCAM(student, ["conv2", "conv2"], base, teacher_func=ConvNet(seed=3).double(), teacher_layer=["conv2", "conv3"])
    first, second = unicam.attribute(inputs())
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("argument", ["base_layer", "feature_layer", "base_feature_layer", "teacher_layer"])
def test_lists_of_other_lengths(argument):
    student, base = pair()
    arguments: dict = {argument: ["conv1", "conv2", "conv3"]}
    if argument == "teacher_layer":
        arguments["teacher_func"] = ConvNet(seed=3).double()
    with pytest.raises(ValueError, match=f"{argument} has 3 entries for 2 layer"):
        UniCAM(student, ["conv1", "conv2"], base, **arguments)
