"""What kind of tensors come back, from which types and under which of torch's modes."""

import pytest
import torch
from conv_pairs import M, N, expected_flat_map, inputs, pair, relative_difference
from models import ConvNet, activations, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("features", [None, "conv3"])
def test_half_precision_models(dtype, features):
    """Distances and gradients of the objective are computed in float32."""
    student, base = pair(torch.float32)
    expected = UniCAM(student, "conv1", base, feature_layer=features).attribute(images(N), labels(N))
    halved = UniCAM(student.to(dtype), "conv1", base.to(dtype), feature_layer=features)
    found = halved.attribute(images(N).to(dtype), labels(N))
    assert found.dtype == dtype
    assert relative_difference(found, expected) < (0.1 if dtype == torch.bfloat16 else 0.01)


def test_small_gradients_do_not_vanish_in_half_precision():
    """Large features have small gradients, and pooling shares them out: 3e-7 a position, where float16 has steps of 6e-8."""
    student, base = pair(torch.float32)
    with torch.no_grad():
        for model in (student, base):
            model.conv3.weight.mul_(20_000)
            model.conv3.bias.mul_(20_000)
    x, y = images(32, 96, 96), labels(32)
    expected = UniCAM(student, "conv1", base, feature_layer="conv3").attribute(x, y)
    halved = UniCAM(student.half(), "conv1", base.half(), feature_layer="conv3")
    assert relative_difference(halved.attribute(x.half(), y), expected) < 0.01


def test_models_of_different_dtypes():
    student, base = ConvNet(seed=1), ConvNet(seed=2).double()
    maps = UniCAM(lambda x: student(x.float()), student.conv2, base, base.conv2).attribute_transfer(
        inputs(), labels(N)
    )
    assert (maps.distilled.dtype, maps.residual.dtype) == (torch.float32, torch.float64)
    exact = UniCAM(ConvNet(seed=1).double(), "conv2", base).attribute_transfer(inputs(), labels(N))
    assert relative_difference(maps.distilled, exact.distilled) < 1e-4
    assert relative_difference(maps.residual, exact.residual) < 1e-4


@pytest.mark.parametrize("attr_dim_summation", [True, False])
@pytest.mark.parametrize("features", [None, "conv3"])
def test_result_carries_no_graph_and_no_larger_storage(features, attr_dim_summation):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer=features)
    found = unicam.attribute(
        inputs().requires_grad_(),
        labels(N),
        attr_dim_summation=attr_dim_summation,
        grad_kwargs={"create_graph": True},
    )
    assert not found.requires_grad and found.grad_fn is None
    assert found.untyped_storage().nbytes() == found.numel() * found.element_size()


def test_result_is_not_the_layers_memory():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    first = unicam.attribute(inputs(), labels(N), attr_dim_summation=False)
    kept = first.clone()
    unicam.attribute(inputs(seed=9), labels(N), attr_dim_summation=False)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("features", [None, "conv3"])
@pytest.mark.parametrize("internal_batch_size", [None, 3])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_opened_inside(mode, internal_batch_size, features):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer=features)
    expected = unicam.attribute(inputs(), labels(N))
    with mode():
        found = unicam.attribute(inputs(), labels(N), internal_batch_size=internal_batch_size)
    torch.testing.assert_close(found, expected)


def test_inputs_and_populations_made_in_inference_mode():
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3")
    expected = unicam.attribute(inputs(), 1, reference=unicam.reference(inputs(M, seed=5), labels(M)))
    with torch.inference_mode():
        x, population = inputs(), unicam.reference(inputs(M, seed=5), labels(M))
    torch.testing.assert_close(unicam.attribute(x, 1, reference=population), expected)


class Widening(nn.Module):
    """A linear layer in autocast's type whose output is float32."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(5, 6)
        self.wide = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.linear(x).float() + 3)


def test_autocast_runs_the_models_and_leaves_the_distances_alone():
    student, base = Widening(1), Widening(2)
    x, y = torch.randn(N, 5, generator=torch.Generator().manual_seed(0)), labels(N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = UniCAM(student, "wide", base).attribute(x, y)
        own, other = activations(student, "wide", x), activations(base, "wide", x)
    assert found.dtype == torch.float32
    assert not torch.equal(own, activations(student, "wide", x))  # autocast was at work
    assert relative_difference(found, expected_flat_map(own, other, y)) < 1e-4
