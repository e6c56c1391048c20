"""UniCAM as a Captum LayerAttribution: what LayerGradCam takes and gives, and Captum's tools around it."""

import threading
import warnings

import matplotlib
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel
from captum.attr import visualization
from loops import assert_infidelity_is_that_of_single_images
from models import ConvNet, SeveralOutputs, TinyTransformer, TwoInputs, images, labels
from reference import literal
from torch import Tensor, nn

import captum_kd.observation
from captum_kd import UniCAM, global_average_pool
from captum_kd.layers import catch_layers, resolve_layer

N, M = 8, 10

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def pair(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    return ConvNet(seed=1).to(dtype), ConvNet(seed=2).to(dtype)


def inputs(n: int = N, seed: int = 0) -> Tensor:
    return images(n, seed=seed, dtype=torch.float64)


def caught(model: nn.Module, layer: str, *args: Tensor, at_input: bool = False) -> Tensor:
    """What a layer gives (of several runs the last one), by a hook of its own."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, i, o: kept.append((i[0] if at_input else o).detach().clone())
    )
    with torch.no_grad():
        model(*args)
    handle.remove()
    return kept[-1]


def expected_map(student: nn.Module, base: nn.Module, layer: str, x: Tensor, y: Tensor) -> Tensor:
    """Batch mode with pooled features of the layer itself."""
    own, other = caught(student, layer, x), caught(base, layer, x)
    return literal.batch_map(own, global_average_pool, global_average_pool(other), y)


def expected_flat_map(own: Tensor, other: Tensor, y: Tensor) -> Tensor:
    """The same for layers that give (N, C)."""
    return literal.batch_map(own[:, :, None], lambda a: a[:, :, 0], other, y)[:, :, 0]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# ------------------------------------------------------------------------------- shapes


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
@pytest.mark.parametrize("container", ["tuple", "dict", "dataclass"])
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
    own, other = (caught(model, "conv2", x, at_input=True) for model in (student, base))
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


# ------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("target", [labels(N), labels(N).tolist(), labels(N).int(), range(N), None])
def test_labels_in_every_form(target):
    student, base = pair()
    classes = torch.eye(3, dtype=torch.float64)[labels(N)]  # one row a label: range(N) means the same labels
    unicam = UniCAM(student, "conv2", base, class_embeddings=classes if isinstance(target, range) else None)
    x = inputs()
    own, other = caught(student, "conv2", x), global_average_pool(caught(base, "conv2", x))
    expected = literal.batch_map(own, global_average_pool, other, None if target is None else labels(N))
    torch.testing.assert_close(unicam.attribute(x, target), expected)


@pytest.mark.parametrize("target", [1, [1], torch.tensor(1), torch.tensor([1]), torch.tensor([[1]])])
def test_one_label_applies_to_all_inputs(target):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))
    found = unicam.attribute(inputs(), target, reference=population)
    torch.testing.assert_close(found, unicam.attribute(inputs(), [1] * N, reference=population))


def two_inputs() -> tuple[TwoInputs, TwoInputs, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator).double(), torch.randn(N, 3, generator=generator).double()
    return TwoInputs(seed=1).double(), TwoInputs(seed=2).double(), x


def test_tuple_inputs():
    student, base, x = two_inputs()
    own, other = caught(student, "mix", *x), caught(base, "mix", *x)
    found = UniCAM(student, "mix", base).attribute(x, labels(N))
    assert found.shape == (N, 1)
    torch.testing.assert_close(found, expected_flat_map(own, other, labels(N)))


@pytest.mark.parametrize("internal_batch_size", [None, 3])
@pytest.mark.parametrize("shift", ["per example", "constant", "row"])
def test_additional_forward_args(shift, internal_batch_size):
    """A tensor with one row per input goes along with the inputs, anything else goes to every batch."""
    student, base, x = two_inputs()
    value = {
        "per example": torch.randn(N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
        "constant": 0.5,
        "row": torch.linspace(-1, 1, 6, dtype=torch.float64),
    }[shift]
    found = UniCAM(student, "mix", base).attribute(
        x, labels(N), additional_forward_args=value, internal_batch_size=internal_batch_size
    )
    own, other = caught(student, "mix", *x, value), caught(base, "mix", *x, value)
    torch.testing.assert_close(found, expected_flat_map(own, other, labels(N)))
    assert not torch.allclose(found, UniCAM(student, "mix", base).attribute(x, labels(N)))


def test_several_additional_forward_args_as_a_tuple():
    seen = []

    def forward(x, *args):
        seen.append((x.shape[0], [getattr(arg, "shape", arg) for arg in args]))
        return student(x)

    student, base = pair()
    UniCAM(forward, student.conv2, base, base.conv2).reference(
        inputs(), additional_forward_args=(1.5,), internal_batch_size=6
    )
    assert seen == [(6, [1.5]), (2, [1.5])]


@pytest.mark.parametrize("mode", ["batch", "reference"])
@pytest.mark.parametrize("deeper", [False, True])
@pytest.mark.parametrize("internal_batch_size", [1, 3, N, 100])
def test_internal_batch_size_does_not_change_the_maps(internal_batch_size, deeper, mode):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3" if deeper else None)
    population = unicam.reference(inputs(M, seed=5), labels(M)) if mode == "reference" else None
    whole = unicam.attribute_transfer(inputs(), labels(N), reference=population)
    parts = unicam.attribute_transfer(
        inputs(), labels(N), reference=population, internal_batch_size=internal_batch_size
    )
    torch.testing.assert_close(tuple(parts), tuple(whole))


def test_internal_batch_size_bounds_the_forward_passes():
    student, base = pair()
    sizes = []
    student.register_forward_hook(lambda m, i, o: sizes.append(len(i[0])))
    UniCAM(student, "conv2", base).attribute(inputs(), labels(N), internal_batch_size=3)
    assert sizes == [3, 3, 2]


def test_internal_batch_size_does_not_change_a_reference_population():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    whole = unicam.reference(inputs(M), labels(M))
    parts = unicam.reference(inputs(M), labels(M), internal_batch_size=3)
    x, y = inputs(N, seed=3), labels(N)
    torch.testing.assert_close(unicam.attribute(x, y, reference=parts), unicam.attribute(x, y, reference=whole))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("deeper", [False, True])
def test_reference_mode_gives_a_single_image_the_same_map_alone_and_in_any_batch(deeper, labelled):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3" if deeper else None)
    population = unicam.reference(inputs(M, seed=5), labels(M) if labelled else None)
    x, y = inputs(), labels(N)
    batch = unicam.attribute(x, y if labelled else None, reference=population)
    for rows in ([0], [3], [7, 3, 0], [5, 5]):
        found = unicam.attribute(x[rows], y[rows] if labelled else None, reference=population)
        torch.testing.assert_close(found, batch[rows])


def test_one_forward_pass_of_each_model_serves_both_directions():
    student, base = pair()
    calls = []
    for name, model in (("student", student), ("base", base)):
        model.register_forward_hook(lambda m, i, o, name=name: calls.append(name))
    UniCAM(student, "conv1", base, feature_layer="conv3").attribute_transfer(inputs(), labels(N))
    assert sorted(calls) == ["base", "student"]


def test_progress_is_shown_when_asked_for(capsys):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    silent = unicam.attribute(inputs(), labels(N), internal_batch_size=4)
    assert capsys.readouterr().err == ""
    shown = unicam.attribute(inputs(), labels(N), internal_batch_size=4, show_progress=True)
    assert "ConvNet" in capsys.readouterr().err
    assert torch.equal(shown, silent)


# ---------------------------------------------------------------------- models and layers


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
    tokens = caught(base, "block", inputs())[:, 1:].transpose(1, 2).reshape(N, 8, 3, 3)
    own = caught(student, "conv2", inputs())
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
    together = unicam.attribute_transfer(inputs(), labels(N), internal_batch_size=internal_batch_size)
    separate = features if isinstance(features, list) else [features] * len(layers)
    assert isinstance(together.distilled, list) and len(together.distilled) == len(layers)
    for i, (layer, deep) in enumerate(zip(layers, separate)):
        alone = UniCAM(student, layer, base, feature_layer=deep).attribute_transfer(inputs(), labels(N))
        torch.testing.assert_close(together.distilled[i], alone.distilled)
        torch.testing.assert_close(together.residual[i], alone.residual)


def test_list_of_layers_in_reference_mode():
    student, base = pair()
    unicam = UniCAM(student, ["conv1", "conv2"], base)
    together = unicam.attribute(inputs(), 1, reference=unicam.reference(inputs(M, seed=5), labels(M)))
    for layer, found in zip(("conv1", "conv2"), together):
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
    own, other = caught(student, "shared", inputs()), global_average_pool(caught(base, "head", inputs()))
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
    own = caught(student, "drop", x)
    assert (own == 0).float().mean() > 0.3
    other = global_average_pool(caught(base, "drop", x))
    expected = literal.batch_map(own, global_average_pool, other, y)
    torch.manual_seed(11)
    torch.testing.assert_close(UniCAM(student, "drop", base).attribute(x, y), expected)


# ------------------------------------------------------------------- wrappers and modes


def compiled(model: nn.Module) -> nn.Module:
    """Compiled and called once, after which hooks are skipped unless compilation is off."""
    compiled_model = torch.compile(model, backend="eager")
    compiled_model(inputs())
    return compiled_model


@pytest.mark.filterwarnings("error:Using `torch.compile")
def test_compiled_models():
    student, base = pair()
    unicam = UniCAM(compiled(student), ["conv1", "conv2"], compiled(base), feature_layer="conv3")
    found = unicam.attribute(inputs(), labels(N))
    student, base = pair()
    plain = UniCAM(student, ["conv1", "conv2"], base, feature_layer="conv3")
    torch.testing.assert_close(found, plain.attribute(inputs(), labels(N)))


def test_a_compiled_layer_of_a_plain_model():
    student, base = pair()
    expected = expected_map(student, base, "conv2", inputs(), labels(N))
    student.conv2 = torch.compile(student.conv2, backend="eager")
    student(inputs())
    by_name = UniCAM(student, "conv2", base).attribute(inputs(), labels(N))
    by_module = UniCAM(student, student.conv2, base).attribute(inputs(), labels(N))
    torch.testing.assert_close((by_name, by_module), (expected, expected))


def compiled_in_place(model: nn.Module) -> nn.Module:
    """As a whole and layer by layer, by Module.compile()."""
    model.compile(backend="eager")
    model.conv2.compile(backend="eager")
    model(inputs())
    return model


@pytest.mark.filterwarnings("error:Using `torch.compile")
@pytest.mark.parametrize("features", [None, "conv3"])
def test_models_compiled_in_place(features):
    student, base = pair()
    expected = UniCAM(student, "conv2", base, feature_layer=features).attribute(inputs(), labels(N))
    unicam = UniCAM(compiled_in_place(student), "conv2", compiled_in_place(base), feature_layer=features)
    torch.testing.assert_close(unicam.attribute(inputs(), labels(N)), expected)


@pytest.mark.parametrize("features", [False, True])
def test_compiled_plain_functions(features):
    student, base = pair()
    deep = dict(feature_layer=student.conv3, base_feature_layer=base.conv3) if features else {}
    plain = UniCAM(student, student.conv2, base, base.conv2, **deep)
    expected = plain.attribute(inputs(), labels(N))

    def function(model: nn.Module):
        called = torch.compile(lambda x: model(x), backend="eager")
        called(inputs())
        return called

    unicam = UniCAM(function(student), student.conv2, function(base), base.conv2, **deep)
    torch.testing.assert_close(unicam.attribute(inputs(), labels(N)), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
@pytest.mark.parametrize("features", [None, "conv3"])
@pytest.mark.parametrize("name", ["conv2", "module.conv2"])
@pytest.mark.parametrize(
    "wrapped",
    [lambda model: compiled(nn.DataParallel(model)), lambda model: nn.DataParallel(compiled(model))],
    ids=["compiled parallel", "parallel compiled"],
)
def test_compiled_and_data_parallel_models(wrapped, name, features):
    student, base = pair()
    expected = UniCAM(student, "conv2", base, feature_layer=features).attribute(inputs(), labels(N))
    unicam = UniCAM(wrapped(student), name, wrapped(base), feature_layer=features)
    torch.testing.assert_close(unicam.attribute(inputs(), labels(N)), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
@pytest.mark.parametrize("name", ["conv2", "module.conv2"])
def test_data_parallel_without_devices_is_the_model_itself(name):
    student, base = pair()
    expected = expected_map(student, base, "conv2", inputs(), labels(N))
    parallel = UniCAM(nn.DataParallel(student), name, nn.DataParallel(base))
    torch.testing.assert_close(parallel.attribute(inputs(), labels(N)), expected)


class OnDevice(Tensor):
    """A CPU tensor that says it is on a CUDA device, for tests of the devices' order."""

    @staticmethod
    def put(value: Tensor, index: int) -> "OnDevice":
        placed = value.as_subclass(OnDevice)
        placed.index = index
        return placed

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        placed = [arg for arg in args if isinstance(arg, OnDevice) and hasattr(arg, "index")]
        if func == Tensor.device.__get__:
            return torch.device("cuda", placed[0].index)
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, OnDevice) and placed:
            result.index = placed[0].index
        return result


class Replicated(nn.Module):
    """Runs halves of a batch on replicas in threads, as DataParallel does; the second half is ready first."""

    def __init__(self, module: nn.Module, order: list) -> None:
        super().__init__()
        self.module = module
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        replicas = [self.module._replicate_for_data_parallel() for _ in self.order]
        halves = [OnDevice.put(half, index) for half, index in zip(x.chunk(2), self.order)]
        results = {}

        def run(part: int) -> None:
            results[part] = replicas[part](halves[part])

        for part in reversed(range(2)):
            thread = threading.Thread(target=run, args=(part,))
            thread.start()
            thread.join()
        return torch.cat([results[part].as_subclass(Tensor) for part in range(2)])


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("said_by", ["argument", "model"])
def test_layer_outputs_of_several_devices_are_put_in_the_batch_order(order, said_by):
    layer_module = Doubling()
    model = Replicated(layer_module, order)
    if said_by == "model":
        model.device_ids = order
    layer = resolve_layer(model, layer_module, model="forward_func", argument="layer")
    devices = catch_layers(
        model, [layer], (torch.arange(4.0)[:, None],), device_ids=order if said_by == "argument" else None
    )
    assert [device[layer_module].tensors[0].flatten().tolist() for device in devices] == [[0, 2], [4, 6]]


@pytest.mark.parametrize("device_ids", [None, [0], [0, 2]])
def test_devices_in_unknown_order_are_an_error(device_ids):
    layer_module = Doubling()
    model = Replicated(layer_module, [0, 1])
    layer = resolve_layer(model, layer_module, model="forward_func", argument="layer")
    with pytest.raises(ValueError, match="device_ids"):
        catch_layers(model, [layer], (torch.arange(4.0)[:, None],), device_ids=device_ids)


@pytest.mark.parametrize("features", [None, "conv3"])
@pytest.mark.parametrize("internal_batch_size", [None, 5])
def test_parts_from_several_devices_make_one_population(monkeypatch, features, internal_batch_size):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer=features)
    expected = unicam.attribute_transfer(inputs(), labels(N))

    def on_two_devices(forward_func, layers, values, *args, **kwargs):
        halves = [(values[0][:2],), (values[0][2:],)]
        return [catch_layers(forward_func, layers, half, *args, **kwargs)[0] for half in halves]

    monkeypatch.setattr(captum_kd.observation, "catch_layers", on_two_devices)
    found = unicam.attribute_transfer(inputs(), labels(N), internal_batch_size=internal_batch_size)
    torch.testing.assert_close(tuple(found), tuple(expected))


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
        own, other = caught(student, "wide", x), caught(base, "wide", x)
    assert found.dtype == torch.float32
    assert not torch.equal(own, caught(student, "wide", x))  # autocast was at work
    assert relative_difference(found, expected_flat_map(own, other, y)) < 1e-4


# ------------------------------------------------------------------------------- result


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


# ----------------------------------------------------------------------- Captum's tools


def test_is_a_layer_attribution():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base, device_ids=[0])
    assert isinstance(unicam, LayerAttribution)
    assert (unicam.forward_func, unicam.layer, unicam.device_ids) == (student, student.conv2, [0])
    assert not unicam.has_convergence_delta()
    assert unicam.multiplies_by_inputs


def test_body_of_attribute_is_whole_without_its_decorator():
    """NoiseTunnel calls it so."""
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    bare = UniCAM.attribute.__wrapped__(unicam, inputs(), labels(N))
    torch.testing.assert_close(bare, unicam.attribute(inputs(), labels(N)))


def test_interpolate():
    student, base = pair()
    small = UniCAM(student, "conv2", base).attribute(inputs(), labels(N))
    large = LayerAttribution.interpolate(small, (12, 12))
    assert large.shape == (N, 1, 12, 12)
    assert torch.equal(large[:, :, ::2, ::2], small)


def test_visualize_image_attr():
    matplotlib.use("Agg")
    student, base = pair()
    large = LayerAttribution.interpolate(UniCAM(student, "conv2", base).attribute(inputs(), labels(N)), (12, 12))
    figure, axis = visualization.visualize_image_attr(
        large[0].permute(1, 2, 0).numpy(),
        inputs()[0].permute(1, 2, 0).sigmoid().numpy(),
        method="blended_heat_map",
        sign="all",
        use_pyplot=False,
    )
    drawn = [image.get_array() for image in axis.images]
    assert drawn[-1].shape == (12, 12)
    strongest = large[0, 0].abs().argmax()
    assert abs(drawn[-1]).argmax() == strongest or abs(drawn[-1].flatten()[strongest]) == 1


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("target", [1, labels(3)])
def test_noise_tunnel_in_reference_mode_equals_a_loop_over_single_images(nt_type, target):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))
    x, samples, deviation = inputs(3), 4, 0.3
    torch.manual_seed(0)
    found = NoiseTunnel(unicam).attribute(
        x, nt_type=nt_type, nt_samples=samples, stdevs=deviation, target=target, reference=population
    )
    torch.manual_seed(0)
    noise = torch.normal(0, torch.tensor(deviation).repeat(3 * samples, 3, 12, 12)).reshape(3, samples, 3, 12, 12)
    expected = []
    for i in range(3):
        label = target if isinstance(target, int) else int(target[i])
        maps = torch.stack([unicam.attribute((x[i] + z)[None], label, reference=population)[0] for z in noise[i]])
        mean, square = maps.mean(0), maps.square().mean(0)
        expected.append({"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean**2}[nt_type])
    torch.testing.assert_close(found, torch.stack(expected))


def test_noise_tunnel_in_parts_equals_one_part():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))

    def tunnel(part):
        settings = dict(nt_samples=4, stdevs=0.0, target=labels(3), reference=population)
        return NoiseTunnel(unicam).attribute(inputs(3), nt_samples_batch_size=part, **settings)

    torch.testing.assert_close(tunnel(3), tunnel(None))


def test_noise_tunnel_in_batch_mode_warns_that_copies_mislead():
    student, base = pair()
    with pytest.warns(UserWarning, match="near-copies of others.*reference="):
        NoiseTunnel(UniCAM(student, "conv2", base)).attribute(
            inputs(), nt_samples=4, stdevs=0.01, target=labels(N)
        )


@pytest.mark.parametrize("labelled", [True, False])
def test_no_warning_in_reference_mode_or_for_different_inputs(labelled):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    y = labels(40) if labelled else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unicam.attribute(inputs(40), y)
        population = unicam.reference(inputs(40, seed=5), y)
        unicam.attribute(inputs(2).repeat_interleave(4, dim=0), 1 if labelled else None, reference=population)


def test_a_small_population_is_warned_of_at_the_call():
    student, base = pair()
    with pytest.warns(UserWarning, match="The population is 8 inputs") as record:
        UniCAM(student, "conv2", base).attribute(inputs(), labels(N))
    assert record[0].filename == __file__


def test_infidelity_of_interpolated_maps_in_reference_mode_equals_a_loop_over_single_images():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))

    def maps_of(x, y):
        return unicam.attribute(x, y, reference=population)

    assert_infidelity_is_that_of_single_images(student, maps_of, inputs(), labels(N))
