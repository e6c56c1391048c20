"""The same maps in other types, memory formats and compilations: half precision, autocast, channels-last, torch.compile."""

import warnings
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from models import ConvNet, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import resolve_layer

N, M = 12, 16

pytestmark = pytest.mark.filterwarnings("ignore:The population is")

HALF = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float16: 0.03, torch.bfloat16: 0.15}
FEATURES = [None, "conv3", flatten]


def pair() -> tuple[nn.Module, nn.Module]:
    return ConvNet(seed=1), ConvNet(seed=2)


def unicam_of(student: nn.Module, base: nn.Module, features: Any, teacher: Any = None) -> UniCAM:
    """Two layers at once; features of the layers, of a deeper one, or with all positions."""
    return UniCAM(
        student,
        ["conv1", "conv2"],
        base,
        feature_layer=features if isinstance(features, str) else None,
        feature_transform=features if callable(features) else global_average_pool,
        teacher_func=teacher,
    )


def all_maps(unicam: UniCAM, x: Tensor, references: Tensor) -> list[Tensor]:
    """Both directions at both layers, in batch and in reference mode."""
    population = unicam.reference(references, labels(M))
    batch = unicam.attribute_transfer(x, labels(N))
    beside = unicam.attribute_transfer(x, labels(N), reference=population)
    return [single for maps in (*batch, *beside) for single in maps]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# --------------------------------------------------------------------------- half types


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("features", FEATURES, ids=["own", "deeper", "flat"])
@pytest.mark.parametrize("has_teacher", [False, True])
def test_half_models_give_float32s_maps_in_the_layers_type(dtype, features, has_teacher):
    def teacher(to: torch.dtype) -> Any:
        return ConvNet(seed=3).to(to) if has_teacher else None

    x, references = images(N), images(M, seed=5)
    student, base = pair()
    expected = all_maps(unicam_of(student, base, features, teacher(torch.float32)), x, references)
    student, base = student.to(dtype), base.to(dtype)
    found = all_maps(unicam_of(student, base, features, teacher(dtype)), x.to(dtype), references.to(dtype))
    grad_cam = LayerGradCam(student, student.conv1).attribute(x.to(dtype), labels(N))
    for half, single in zip(found, expected):
        assert half.dtype == grad_cam.dtype == dtype
        assert relative_difference(half, single) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALF)
def test_the_net_map_of_half_models_is_subtracted_in_float32(dtype):
    student, base = (model.to(dtype) for model in pair())
    references = images(M, seed=5).to(dtype)
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(references, labels(M))
    maps = unicam.attribute_transfer(images(N).to(dtype), labels(N), reference=population, n_steps=4)
    expected = (maps.distilled.float() - maps.residual.float()).to(dtype)
    torch.testing.assert_close(maps.net, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_the_geometry_of_a_half_model_is_float32s(dtype):
    """Held against the exact features that the half model gives: only the map itself is rounded."""
    student, base = (model.to(dtype) for model in pair())
    kept: dict[nn.Module, Tensor] = {}
    handles = [
        model.conv2.register_forward_hook(lambda module, given, out: kept.update({module: out.detach().double()}))
        for model in (student, base)
    ]
    x = images(N).to(dtype)
    found = UniCAM(student, "conv2", base).attribute(x, labels(N))
    for handle in handles:
        handle.remove()
    own, other = kept[student.conv2], kept[base.conv2]
    models = nn.Sequential(Given(own)), nn.Sequential(Given(other))
    expected = UniCAM(models[0], "0", models[1]).attribute(x.double(), labels(N))
    assert relative_difference(found, expected) < 2 * torch.finfo(dtype).eps


class Given(nn.Module):
    """A layer whose output is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output.clone()


def test_models_of_two_types_are_compared_in_the_wider_one():
    """The Base's features differ by less than float32 can tell apart."""
    draw = torch.Generator().manual_seed(0)
    own, other = (torch.randn(N, 3, 2, 2, generator=draw) for _ in range(2))
    base = nn.Sequential(Given(1000 + 1e-6 * other.double()))

    def explained(student: Tensor, removed: nn.Module) -> Tensor:
        return UniCAM(nn.Sequential(Given(student)), "0", removed).attribute(torch.zeros(N, 1), labels(N))

    expected = explained(own.double(), base)
    assert relative_difference(explained(own, base), expected) < 1e-5
    assert relative_difference(explained(own, nn.Sequential(Given(1000 + 1e-6 * other))), expected) > 1e-2


def explain_long_layers(dtype: torch.dtype) -> Tensor:
    """An objective's gradient is shared out among a layer's positions: of 200,000 each has little."""
    draw = torch.Generator().manual_seed(0)
    student, base = (torch.randn(N, 3, 1, generator=draw).expand(N, 3, 200_000).to(dtype) for _ in range(2))
    unicam = UniCAM(nn.Sequential(Given(student)), "0", nn.Sequential(Given(base)), channels_last=False)
    return unicam.attribute(torch.zeros(N, 1), labels(N))


def test_maps_too_small_for_float16_are_warned_of_at_the_call():
    with pytest.warns(UserWarning) as caught:
        explain_long_layers(torch.float16)
    (warning,) = [w for w in caught if "float16" in str(w.message)]
    assert "The maps of layer '0' of forward_func reach" in str(warning.message)
    assert "model.bfloat16()" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_types_have_the_range_for_small_maps(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="The population is")
        assert 0 < explain_long_layers(dtype).abs().amax() < 1.5e-5


# ----------------------------------------------------------------------------- autocast


@pytest.mark.parametrize("features", FEATURES, ids=["own", "deeper", "flat"])
def test_autocast_gives_float32s_maps(features):
    x, references = images(N), images(M, seed=5)
    unicam = unicam_of(*pair(), features)
    expected = all_maps(unicam, x, references)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_maps(unicam, x, references)
    for half, single in zip(found, expected):
        assert half.dtype == torch.bfloat16  # what the convolutions give
        assert relative_difference(half, single) < TOLERANCE[torch.bfloat16]


class Projected(nn.Module):
    """A transform with a matrix product, which autocast runs in half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.linear = nn.LazyLinear(5)

    def forward(self, activations: Tensor) -> Tensor:
        return self.linear(global_average_pool(activations))


def test_transforms_with_products_under_autocast():
    project = Projected()
    project(torch.zeros(1, 6, 2, 2))
    student, base = pair()
    unicam = UniCAM(student, "conv2", base, feature_transform=project)
    expected = unicam.attribute(images(N), labels(N))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = unicam.attribute(images(N), labels(N))
    assert relative_difference(found, expected) < TOLERANCE[torch.bfloat16]


# ------------------------------------------------------------------------ memory format


@pytest.mark.parametrize("features", FEATURES, ids=["own", "deeper", "flat"])
def test_channels_last_memory_gives_the_contiguous_maps(features):
    x, references = images(N), images(M, seed=5)
    expected = all_maps(unicam_of(*pair(), features), x, references)
    student, base = (model.to(memory_format=torch.channels_last) for model in pair())
    x, references = (value.to(memory_format=torch.channels_last) for value in (x, references))
    assert student.conv1(x).is_contiguous(memory_format=torch.channels_last)  # the format goes through the model
    for last, contiguous in zip(all_maps(unicam_of(student, base, features), x, references), expected):
        torch.testing.assert_close(last, contiguous, rtol=1e-4, atol=1e-6 * float(contiguous.abs().amax()) + 1e-9)


def test_a_population_serves_the_models_in_another_memory_format():
    student, base = pair()
    unicam = unicam_of(student, base, None)
    population = unicam.reference(images(M, seed=5), labels(M))
    expected = unicam.attribute(images(N), 1, reference=population)
    student.to(memory_format=torch.channels_last), base.to(memory_format=torch.channels_last)
    found = unicam.attribute(images(N).to(memory_format=torch.channels_last), 1, reference=population)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_channels_of_channels_last_memory_add_up_to_the_map():
    student, base = (model.to(memory_format=torch.channels_last) for model in pair())
    unicam = UniCAM(student, "conv2", base)
    x = images(N).to(memory_format=torch.channels_last)
    channels = unicam.attribute(x, labels(N), attr_dim_summation=False)
    assert channels.shape == (N, 6, 6, 6)
    torch.testing.assert_close(channels.sum(1, keepdim=True), unicam.attribute(x, labels(N)))


# ------------------------------------------------------------------------------ compiled


def compiled(model: nn.Module, called: bool, **options: Any) -> nn.Module:
    wrapped = torch.compile(model, **options)
    if called:  # afterwards hooks are skipped, unless compilation is off
        wrapped(images(N))
    return wrapped


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("features", FEATURES, ids=["own", "deeper", "flat"])
def test_compiled_models_give_the_eager_maps(features, called):
    x, references = images(N), images(M, seed=5)
    expected = all_maps(unicam_of(*pair(), features, ConvNet(seed=3)), x, references)
    student, base, teacher = (compiled(ConvNet(seed=i), called, backend="aot_eager") for i in (1, 2, 3))
    torch.testing.assert_close(all_maps(unicam_of(student, base, features, teacher), x, references), expected)


def test_a_population_serves_models_that_are_compiled_afterwards():
    student, base = pair()
    unicam = unicam_of(student, base, None)
    population = unicam.reference(images(M, seed=5), labels(M))
    expected = unicam.attribute(images(N), 1, reference=population)
    of_compiled = unicam_of(*(compiled(model, True, backend="eager") for model in (student, base)), None)
    torch.testing.assert_close(of_compiled.attribute(images(N), 1, reference=population), expected)


def test_compiled_half_models_in_channels_last_memory():
    student, base = pair()
    expected = unicam_of(student, base, "conv3").attribute(images(N), labels(N))
    models = (model.bfloat16().to(memory_format=torch.channels_last) for model in pair())
    x = images(N).bfloat16().to(memory_format=torch.channels_last)
    wrapped = [torch.compile(model, backend="eager") for model in models]
    for model in wrapped:
        model(x)
    for found, single in zip(unicam_of(*wrapped, "conv3").attribute(x, labels(N)), expected):
        assert found.dtype == torch.bfloat16
        assert relative_difference(found, single) < TOLERANCE[torch.bfloat16]


def test_inside_a_compiled_function_is_an_error_that_says_where_to_call():
    student = ConvNet(seed=1)
    layer = resolve_layer(student, "conv2", model="forward_func", argument="layer")
    # After an error in compiled code torch 2.6 leaves gradients off.
    with torch.enable_grad(), pytest.raises(ValueError, match="torch.compile compiles.* outside"):
        torch.compile(lambda x: capture_layers(student, [layer], (x,)), backend="eager")(images(N))
