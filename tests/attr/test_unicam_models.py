"""Which layers of which models: by name and by module, of functions, of other architectures, run twice or frozen."""

import pytest
import torch
from conv_pairs import M, N, expected_map, inputs, pair
from models import ConvNet, TinyTransformer, activations, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def test_layers_by_name_and_by_module():
    student, base = pair()
    by_name = UniCAM(student, "conv1", base, feature_layer="conv3").attribute(inputs(), labels(N))
    by_module = UniCAM(
        student, student.conv1, base, base.conv1, feature_layer=student.conv3, base_feature_layer=base.conv3
    )
    torch.testing.assert_close(by_module.attribute(inputs(), labels(N)), by_name)
    mixed = UniCAM(student, student.conv1, base, feature_layer=student.conv3)
    torch.testing.assert_close(mixed.attribute(inputs(), labels(N)), by_name)


def test_layer_under_a_second_name():
    student, base = pair()
    student.alias = student.conv2
    found = UniCAM(student, "alias", base, "conv2").attribute(inputs(), labels(N))
    torch.testing.assert_close(found, expected_map(student, base, "conv2", inputs(), labels(N)))


def test_layer_of_a_plain_function():
    student, base = pair()
    unicam = UniCAM(lambda x: student(x), student.conv2, lambda x: base(x), base.conv2)
    torch.testing.assert_close(
        unicam.attribute(inputs(), labels(N)), expected_map(student, base, "conv2", inputs(), labels(N))
    )


def test_base_of_another_architecture():
    student, base = ConvNet(seed=1).double(), TinyTransformer(seed=2).double().eval()
    maps = UniCAM(student, "conv2", base, "block").attribute_transfer(inputs(), labels(N))
    tokens = activations(base, "block", inputs())[:, 1:].transpose(1, 2).reshape(N, 8, 3, 3)
    own = activations(student, "conv2", inputs())
    pool = global_average_pool
    torch.testing.assert_close(maps.distilled, literal.batch_map(own, pool, pool(tokens), labels(N)))
    torch.testing.assert_close(maps.residual, literal.batch_map(tokens, pool, pool(own), labels(N)))


@pytest.mark.parametrize(
    "features",
    [None, "conv3", ["conv3", "conv3", "fc"], ["conv2", "conv3", "fc"], [None, "conv3", None]],
    ids=["own", "shared", "deeper", "chained", "mixed"],
)
@pytest.mark.parametrize("internal_batch_size", [None, 3])
def test_list_of_layers_equals_separate_calls(features, internal_batch_size):
    """Also where one map layer lies behind another one, whose graph must not be cut there."""
    student, base = pair()
    layers = ["conv1", "conv2", "conv3"]
    if features == "conv3":
        layers = ["conv2", "conv1"]
    unicam = UniCAM(student, layers, base, feature_layer=features)
    raise_together = unicam.attribute_transfer(inputs(), labels(N), internal_batch_size=internal_batch_size)
    separate = features if isinstance(features, list) else [features] * len(layers)
    assert isinstance(raise_together.distilled, list) and len(raise_together.distilled) == len(layers)
    for i, (layer, deep) in enumerate(zip(layers, separate)):
        alone = UniCAM(student, layer, base, feature_layer=deep).attribute_transfer(inputs(), labels(N))
        torch.testing.assert_close(raise_together.distilled[i], alone.distilled)
        torch.testing.assert_close(raise_together.residual[i], alone.residual)


def test_list_of_layers_in_reference_mode():
    student, base = pair()
    unicam = UniCAM(student, ["conv1", "conv2"], base)
    raise_together = unicam.attribute(inputs(), 1, reference=unicam.reference(inputs(M, seed=5), labels(M)))
    for layer, found in zip(("conv1", "conv2"), raise_together):
        alone = UniCAM(student, layer, base)
        population = alone.reference(inputs(M, seed=5), labels(M))
        torch.testing.assert_close(found, alone.attribute(inputs(), 1, reference=population))


def test_list_of_one_layer_gives_a_list():
    student, base = pair()
    assert [m.shape for m in UniCAM(student, ["conv2"], base).attribute(inputs(), labels(N))] == [(N, 1, 6, 6)]


def test_residual_is_a_unicam_of_the_swapped_models():
    student, base = pair()
    residual = UniCAM(student, "conv2", base).residual()
    assert isinstance(residual, UniCAM)
    assert (residual.forward_func, residual.base_func, residual.layer) == (base, student, base.conv2)
    torch.testing.assert_close(
        residual.attribute(inputs(), labels(N)), expected_map(base, student, "conv2", inputs(), labels(N))
    )


class TwiceUsed(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def test_of_a_layer_that_runs_twice_the_last_run_counts():
    student, base = TwiceUsed(1).double(), TwiceUsed(2).double()
    torch.testing.assert_close(
        UniCAM(student, "shared", base).attribute(inputs(), labels(N)),
        expected_map(student, base, "shared", inputs(), labels(N)),
    )


def test_of_a_layer_that_runs_twice_ahead_of_the_features_the_last_run_counts():
    student, base = TwiceUsed(1).double(), TwiceUsed(2).double()
    own, other = activations(student, "shared", inputs()), global_average_pool(activations(base, "head", inputs()))
    expected = literal.batch_map(
        own, lambda a: global_average_pool(student.head(torch.tanh(a))), other, labels(N)
    )
    found = UniCAM(student, "shared", base, feature_layer="head").attribute(inputs(), labels(N))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layer", ["conv2", "relu2"])
def test_in_place_activations_leave_what_was_caught_alone(layer):
    """ConvNet's ReLUs overwrite the convolutions' outputs."""
    student, base = pair()
    torch.testing.assert_close(
        UniCAM(student, layer, base).attribute(inputs(), labels(N)),
        expected_map(student, base, layer, inputs(), labels(N)),
    )


@pytest.mark.parametrize("features", [None, "conv3"])
def test_frozen_parameters(features):
    student, base = pair()
    expected = UniCAM(student, "conv1", base, feature_layer=features).attribute(inputs(), labels(N))
    for model in (student, base):
        model.requires_grad_(False)
    found = UniCAM(student, "conv1", base, feature_layer=features).attribute(inputs(), labels(N))
    torch.testing.assert_close(found, expected)


class Dropping(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(x))


def test_models_are_evaluated_in_the_mode_they_are_in():
    student, base = Dropping(1).double(), Dropping(2).double().eval()
    x, y = inputs(), labels(N)
    torch.manual_seed(11)
    own = activations(student, "drop", x)
    assert (own == 0).float().mean() > 0.3
    other = global_average_pool(activations(base, "drop", x))
    expected = literal.batch_map(own, global_average_pool, other, y)
    torch.manual_seed(11)
    torch.testing.assert_close(UniCAM(student, "drop", base).attribute(x, y), expected)
