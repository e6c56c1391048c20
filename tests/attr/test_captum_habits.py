"""UniCAM in the ways in which Captum's users call LayerGradCam.

The oracle is LayerGradCam itself: of a function whose only output is UniCAM's objective it has to give UniCAM's map. So
whatever Captum does about layers, hooks, modes and gradients is done here too, or a test fails.
"""

import dataclasses
from typing import Any, Callable, Optional

import pytest
import torch
from captum.attr import FeatureAblation, LayerAttribution, LayerGradCam
from models import ConvNet, SeveralOutputs, TwoInputs, activations, images, labels
from state import unchanged_state
from reference.geometries import correlation, remove
from torch import Tensor, nn

from captum_kd import UniCAM, flatten
from captum_kd.distance.centering import geometry
from captum_kd.distance.labels import label_geometry

N = 8

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


class MultiLayer(nn.Module):
    """Linear layers on (N, 3), one of them after a module of two inputs and two outputs."""

    def __init__(self, seed: int, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear0 = nn.Linear(3, 4)
        self.both = Both()
        self.relu = nn.ReLU(inplace=inplace)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor, add: Any = None) -> Tensor:
        hidden = self.linear0(x if add is None else x + add)
        first, second = self.both(hidden, hidden.tanh())
        return self.last(self.relu(first + second))


class Both(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a.sigmoid(), 2 * b


class OneConv(nn.Module):
    """One convolution of one or two images of one channel."""

    def __init__(self, seed: int, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Optional[Tensor] = None) -> Tensor:
        hidden = self.conv1(x) if y is None else self.conv1(x + y)
        return self.fc(self.relu1(self.norm(hidden)).flatten(1))


@dataclasses.dataclass
class Output:
    logits: Tensor


class Structured(ConvNet):
    """A model of dict or dataclass outputs."""

    kind: Callable[[Tensor], Any] = Output

    def forward(self, x: Tensor, scale: Any = 1.0) -> Any:
        return self.kind(super().forward(x, scale))


def as_dict(logits: Tensor) -> dict[str, Tensor]:
    return {"logits": logits}


def gray(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(n: int = N) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layer_grad_cam_of_the_objective(
    student: Callable[..., Any], layer: nn.Module, other: Tensor, y: Tensor, *args: Any, **settings: Any
) -> Any:
    """``other`` are the Base's features; the Student's are those of ``layer``, all tensors of it, flattened."""
    at_input = settings.get("attribute_to_layer_input", False)

    def objective(*inputs: Any) -> Tensor:
        kept = []
        # Copies: what comes behind the layer may work in place.
        handle = layer.register_forward_hook(lambda module, given, output: kept.append(copied(given if at_input else output)))
        try:
            student(*inputs)
        finally:
            handle.remove()
        tensors = kept[-1] if isinstance(kept[-1], tuple) else (kept[-1],)
        own = torch.cat([tensor.flatten(1) for tensor in tensors], 1)
        rest = remove(geometry(own), geometry(other))
        return correlation(rest, label_geometry(y, None, own.dtype))[None]

    return LayerGradCam(objective, layer).attribute(*args, target=None, **settings)


def copied(value: Any) -> Any:
    return tuple(tensor.clone() for tensor in value) if isinstance(value, tuple) else value.clone()


def other_features(base: nn.Module, name: str, *args: Any, at_input: bool = False) -> Tensor:
    return activations(base, name, *args, at_input=at_input).flatten(1)


CASES = {
    "linear": (MultiLayer, "linear0", lambda: (rows(),), {}),
    "linear, ReLU of the map": (MultiLayer, "linear0", lambda: (rows(),), {"relu_attributions": True}),
    "linear, in-place ReLU": (lambda seed: MultiLayer(seed, inplace=True), "relu", lambda: (rows(),), {}),
    "further inputs": (MultiLayer, "linear0", lambda: (rows(), 2 * rows()), {}),
    "convolution": (OneConv, "conv1", lambda: (gray(),), {}),
    "convolution, two inputs": (OneConv, "conv1", lambda: (gray(), gray(seed=1)), {}),
    "convolution, not summed": (OneConv, "conv1", lambda: (gray(),), {"attr_dim_summation": False}),
    "normalization ahead of an in-place ReLU": (lambda seed: OneConv(seed, inplace=True), "norm", lambda: (gray(),), {}),
    "in-place ReLU": (lambda seed: OneConv(seed, inplace=True), "relu1", lambda: (gray(),), {}),
    "layer input": (OneConv, "norm", lambda: (gray(),), {"attribute_to_layer_input": True}),
    "layer input, ReLU of the map": (
        OneConv, "norm", lambda: (gray(),), {"attribute_to_layer_input": True, "relu_attributions": True},
    ),
    "input of an in-place layer": (
        lambda seed: OneConv(seed, inplace=True), "fc", lambda: (gray(),), {"attribute_to_layer_input": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_maps_are_those_of_layer_grad_cam_for_the_objective(case, frozen):
    make, name, arguments, settings = CASES[case]
    student, base = make(1).double().eval(), make(2).double().eval()
    for model in (student, base):
        model.requires_grad_(not frozen)
    inputs = tuple(value.requires_grad_(not frozen) for value in arguments())
    at_input = settings.get("attribute_to_layer_input", False)
    other = other_features(base, name, *inputs, at_input=at_input)
    given = inputs if len(inputs) > 1 else inputs[0]
    with unchanged_state([student, base], inputs):
        unicam = UniCAM(student, name, base, feature_transform=flatten)
        found = unicam.attribute(given, labels(N), **settings)
    expected = layer_grad_cam_of_the_objective(student, student.get_submodule(name), other, labels(N), given, **settings)
    assert float(expected.abs().max()) > 0 and not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_a_module_of_several_tensors_has_a_map_for_each():
    student, base = MultiLayer(1).double(), MultiLayer(2).double()
    kept: list[Any] = []
    handle = base.both.register_forward_hook(lambda module, given, output: kept.append(output))
    base(rows())
    handle.remove()
    other = torch.cat([tensor.detach() for tensor in kept[0]], 1)
    found = UniCAM(student, student.both, base, feature_transform=flatten).attribute(rows(), labels(N))
    expected = layer_grad_cam_of_the_objective(student, student.both, other, labels(N), rows())
    assert isinstance(found, tuple) and len(found) == 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [Output, as_dict])
def test_what_a_model_returns_does_not_matter(kind):
    student, base = (Structured(seed=seed).double() for seed in (1, 2))
    plain = [ConvNet(seed=seed).double() for seed in (1, 2)]
    for model in (student, base):
        model.kind = kind
    x = images(N, dtype=torch.float64)
    found = UniCAM(student, "conv2", base, feature_layer="conv3").attribute(x, labels(N))
    torch.testing.assert_close(found, UniCAM(plain[0], "conv2", plain[1], feature_layer="conv3").attribute(x, labels(N)))


# ---------------------------------------------------------------------------- modes and hooks


def test_in_training_mode_batches_normalize_themselves_and_leave_their_mark_as_with_captum():
    """The consequence that the class documents: maps hang on the batch, running statistics move once a pass."""
    student, base, twin = (OneConv(seed).double() for seed in (1, 2, 1))
    x = gray()
    other = other_features(base.train(), "norm", x)
    expected = layer_grad_cam_of_the_objective(twin, twin.norm, other, labels(N), x)
    moved = int(base.norm.num_batches_tracked)
    found = UniCAM(student, "norm", base, feature_transform=flatten).attribute(x, labels(N))
    torch.testing.assert_close(found, expected)
    assert int(student.norm.num_batches_tracked) == int(twin.norm.num_batches_tracked) == 1
    assert int(base.norm.num_batches_tracked) == moved + 1
    torch.testing.assert_close(student.norm.running_mean, twin.norm.running_mean)
    in_parts = UniCAM(student, "norm", base, feature_transform=flatten).attribute(x, labels(N), internal_batch_size=4)
    assert not torch.allclose(in_parts, found)
    student.eval(), base.eval()
    unicam = UniCAM(student, "norm", base, feature_transform=flatten)
    torch.testing.assert_close(
        unicam.attribute(x, labels(N), internal_batch_size=4), unicam.attribute(x, labels(N))
    )
    assert int(student.norm.num_batches_tracked) == 3


def test_hooks_of_the_users_own_change_what_is_seen_and_stay():
    """A hook that was there before sees the layer first, as with Captum's."""
    student, base = OneConv(1).double().eval(), OneConv(2).double().eval()
    seen: list[Any] = []
    student.conv1.register_forward_hook(lambda module, given, output: output * torch.tensor([1.0, -3.0])[:, None, None])
    student.conv1.register_forward_pre_hook(lambda module, given: (given[0] + 0.5,))
    student.relu1.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("backward"))
    student.fc.register_forward_hook(lambda module, given, output: seen.append("forward"))
    x, y = gray(), labels(N)
    other = other_features(base, "conv1", x)
    with unchanged_state([student, base]):
        found = UniCAM(student, "conv1", base, feature_transform=flatten).attribute(x, y)
    assert seen == ["forward"]
    torch.testing.assert_close(found, layer_grad_cam_of_the_objective(student, student.conv1, other, y, x))
    with unchanged_state([student, base]):
        UniCAM(student, "conv1", base, feature_layer="fc").attribute(x, y)
    assert "backward" in seen


@pytest.mark.parametrize("inplace", [False, True])
def test_modules_used_twice_and_functions_around_models(inplace):
    class Twice(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.relu = nn.ReLU(inplace=inplace)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(self.relu(self.conv(x))))

    student, base = Twice(1).double(), Twice(2).double()
    for name in ("conv", "relu"):
        layer = student.get_submodule(name)
        other = other_features(base, name, gray())
        settings: dict[str, Any] = {"feature_transform": flatten}
        found = UniCAM(lambda x: student(x), layer, lambda x: base(x), base.get_submodule(name), **settings).attribute(
            gray(), labels(N)
        )
        torch.testing.assert_close(found, layer_grad_cam_of_the_objective(student, layer, other, labels(N), gray()))


# -------------------------------------------------------------------------- beside other methods


def test_maps_serve_as_feature_masks_of_other_methods():
    student, base = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    x, y = images(N), labels(N)
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(x, y)
    before = unicam.attribute(x[:1], y[:1], reference=population)
    upsampled = LayerAttribution.interpolate(before, (12, 12), interpolate_mode="bilinear")
    mask = (upsampled > upsampled.median()).long()
    ablated = FeatureAblation(student).attribute(x[:1], target=1, feature_mask=mask)
    for part in (0, 1):
        assert len(ablated[(mask == part).expand_as(ablated)].unique()) == 1
    torch.testing.assert_close(unicam.attribute(x[:1], y[:1], reference=population), before)


def test_constants_and_tensors_as_additional_arguments_with_several_inputs_and_outputs():
    student, base = TwoInputs(1).double(), TwoInputs(2).double()
    left = torch.randn(N, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shift = torch.randn(N, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    other = other_features(base, "mix", left, rows(), shift)
    found = UniCAM(student, "mix", base).attribute((left, rows()), labels(N), additional_forward_args=shift)
    expected = layer_grad_cam_of_the_objective(
        student, student.mix, other, labels(N), (left, rows()), additional_forward_args=shift
    )
    torch.testing.assert_close(found, expected)
    both = SeveralOutputs("tuple", 1), SeveralOutputs("tuple", 2)
    shapes = [single.shape for single in UniCAM(both[0], "split", both[1]).attribute(images(N), labels(N))]
    assert shapes == [(N, 1, 12, 12), (N, 1, 6, 6)]
