"""The shapes of maps, as LayerGradCam has them, and the settings that change what a map shows."""

import pytest
import torch
from captum.attr import LayerGradCam
from conv_pairs import N, expected_map, inputs, pair
from models import ConvNet, SeveralOutputs, activations, images, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def convolutions(dimensions: int, seed: int) -> nn.Module:
    """Two convolutions over 1, 2 or 3 dimensions and a classifier."""
    torch.manual_seed(seed)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return nn.Sequential(conv(2, 5, 3), nn.Tanh(), conv(5, 4, 3), nn.Flatten(), nn.LazyLinear(3))


SHAPES = {
    "N,C": (2, "4", (2, 6, 7), (3,)),
    "N,C,L": (1, "2", (2, 9), (4, 5)),
    "N,C,h,w": (2, "2", (2, 8, 9), (4, 4, 5)),
    "N,C,D,h,w": (3, "2", (2, 6, 7, 8), (4, 2, 3, 4)),
}


@pytest.mark.parametrize("attr_dim_summation", [True, False])
@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_is_that_of_layer_grad_cam(shape, at_input, attr_dim_summation):
    dimensions, layer, size, layer_size = SHAPES[shape]
    student, base = convolutions(dimensions, 1), convolutions(dimensions, 2)
    x = torch.randn(N, *size)
    for model in (student, base):
        model(x)
    settings = dict(attribute_to_layer_input=at_input, attr_dim_summation=attr_dim_summation)
    grad_cam = LayerGradCam(student, student.get_submodule(layer)).attribute(x, 0, **settings)
    attributions = UniCAM(student, layer, base).attribute(x, labels(N), **settings)
    assert attributions.shape == grad_cam.shape
    if not at_input:
        assert attributions.shape == (N, *((1,) if attr_dim_summation else layer_size[:1]), *layer_size[1:])


def test_several_outputs_give_a_tuple_as_layer_grad_cam_does():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :2] * 2, x[:, 2:, ::2]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.two(x)
            return first.mean((2, 3)) + second.mean((1, 2, 3))[:, None]

    student, base = Model(), ConvNet(seed=2)
    grad_cam = LayerGradCam(student, student.two).attribute(images(N), 0)
    attributions = UniCAM(student, "two", base, "conv2").attribute(images(N), labels(N))
    assert isinstance(attributions, tuple)
    assert [a.shape for a in attributions] == [g.shape for g in grad_cam] == [(N, 1, 12, 12), (N, 1, 6, 12)]


@pytest.mark.parametrize("deeper", [False, True])
@pytest.mark.parametrize("container", ["tuple", "dict", "dataclass", "named tuple"])
def test_outputs_in_a_container_give_a_tuple_of_maps(container, deeper):
    student, base = SeveralOutputs(container, seed=1).double(), SeveralOutputs(container, seed=2).double()
    unicam = UniCAM(student, "split", base, feature_layer="head" if deeper else None)
    first, second = unicam.attribute(inputs(), labels(N))
    assert (first.shape, second.shape) == ((N, 1, 12, 12), (N, 1, 6, 6))
    # The containers hold the same tensors.
    plain = SeveralOutputs("tuple", seed=1).double(), SeveralOutputs("tuple", seed=2).double()
    expected = UniCAM(plain[0], "split", plain[1], feature_layer="head" if deeper else None)
    torch.testing.assert_close((first, second), expected.attribute(inputs(), labels(N)))


def test_several_outputs_make_one_geometry():
    """The features of all tensors stand side by side: each map is that of its part of the whole."""
    student, base = SeveralOutputs("tuple", seed=1).double(), SeveralOutputs("tuple", seed=2).double()
    x = inputs()
    with torch.no_grad():
        (a, b, _), (c, d, _) = student.split(x), base.split(x)
    pool = global_average_pool
    other = torch.cat([pool(c), pool(d)], dim=1)
    first, second = UniCAM(student, "split", base).attribute(x, labels(N))
    expected = literal.batch_map(a, lambda t: torch.cat([pool(t), pool(b)], dim=1), other, labels(N))
    torch.testing.assert_close(first, expected)
    expected = literal.batch_map(b, lambda t: torch.cat([pool(a), pool(t)], dim=1), other, labels(N))
    torch.testing.assert_close(second, expected)


def test_outputs_off_the_path_to_deeper_features_get_a_map_of_zeros():
    """The head sees the first of the two tensors only."""
    student, base = SeveralOutputs("tuple", seed=1), SeveralOutputs("tuple", seed=2)
    first, second = UniCAM(student, "split", base, feature_layer="head").attribute(images(N), labels(N))
    assert first.abs().amax() > 0
    assert torch.equal(second, torch.zeros(N, 1, 6, 6))


def test_layer_input():
    student, base = pair()
    x, y = inputs(), labels(N)
    own, other = (activations(model, "conv2", x, at_input=True) for model in (student, base))
    expected = literal.batch_map(own, global_average_pool, global_average_pool(other), y)
    found = UniCAM(student, "conv2", base).attribute(x, y, attribute_to_layer_input=True)
    torch.testing.assert_close(found, expected)


def test_layer_input_of_map_and_feature_layer_alike():
    student, base = pair()
    x, y = inputs(), labels(N)
    deep = UniCAM(student, "conv2", base, feature_layer="conv3")
    # What goes into conv3 is what comes out of relu2, and what goes into conv2 out of relu1.
    expected = UniCAM(student, "relu1", base, feature_layer="relu2").attribute(x, y)
    torch.testing.assert_close(deep.attribute(x, y, attribute_to_layer_input=True), expected)


def test_layer_input_given_by_keyword():
    class Model(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 4, 3).double()
            self.second = nn.Conv2d(4, 4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(input=self.first(x))

    student, base = Model(1), Model(2)
    found = UniCAM(student, "second", base).attribute(inputs(), labels(N), attribute_to_layer_input=True)
    torch.testing.assert_close(found, expected_map(student, base, "first", inputs(), labels(N)))


def test_without_summation_channels_add_up_to_the_map():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    split = unicam.attribute(inputs(), labels(N), attr_dim_summation=False)
    assert split.shape == (N, 6, 6, 6)
    torch.testing.assert_close(split.sum(1, keepdim=True), unicam.attribute(inputs(), labels(N)))


def test_relu_is_off_unless_asked_for():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    plain = unicam.attribute(inputs(), labels(N))
    assert plain.amin() < 0
    assert torch.equal(unicam.attribute(inputs(), labels(N), relu_attributions=True), plain.clamp(min=0))


def test_grad_kwargs_reach_autograd(monkeypatch):
    student, base = pair()
    seen = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **kw: seen.append(kw) or grad(*a, **kw))
    UniCAM(student, "conv2", base).attribute(inputs(), labels(N), grad_kwargs={"create_graph": True})
    assert any(kwargs.get("create_graph") for kwargs in seen)


@pytest.mark.parametrize("grad_kwargs", [{"retain_graph": False}, {"retain_graph": None}])
@pytest.mark.parametrize("internal_batch_size", [None, 3])
def test_layers_that_share_a_graph_keep_it_for_each_other(grad_kwargs, internal_batch_size):
    student, base = pair()
    unicam = UniCAM(student, ["conv1", "conv2"], base, feature_layer="conv3")
    found = unicam.attribute(
        inputs(), labels(N), grad_kwargs=grad_kwargs, internal_batch_size=internal_batch_size
    )
    torch.testing.assert_close(found, unicam.attribute(inputs(), labels(N)))
