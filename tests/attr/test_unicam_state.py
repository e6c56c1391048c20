"""What UniCAM leaves behind: nothing, however a call ends."""

import gc
import weakref
from typing import Any, Callable

import pytest
import torch
from models import ConvNet, images, labels
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import UniCAM

N = 8

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


class Failing(nn.Module):
    """Passes values on until it is told to raise, at a certain run."""

    error: Any = None
    at_run = 1

    def forward(self, x: Tensor) -> Tensor:
        self.at_run -= 1
        if self.error is not None and self.at_run == 0:
            raise self.error
        return x


class Used(nn.Module):
    """A model with a past: gradients, a frozen layer, hooks of its own, dropout switched on."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = ConvNet(seed=seed).eval()
        self.drop = nn.Dropout(0.2)
        self.failing = Failing()
        self.last = nn.Linear(3, 4)
        self.unused = nn.Linear(2, 2)
        self.last.register_forward_hook(lambda m, i, o: None)
        self.net.conv2.register_forward_hook(lambda m, i, o: None)
        self.net.conv2.register_forward_pre_hook(lambda m, i: None)
        self.net.conv1.requires_grad_(False)
        for parameter in (self.net.conv2.weight, self.last.bias):
            parameter.grad = torch.randn_like(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.failing(self.net(x))))


@pytest.fixture
def models():
    return Used(1), Used(2)


@pytest.fixture
def unchanged(models):
    """Runs a call, whatever it raises, and compares the state after it with the one before."""

    def check(call: Callable[[Tensor], Any], raises: Any = None) -> None:
        x = images(N).requires_grad_()
        with unchanged_state(models, (x,)):
            if raises is None:
                call(x)
            else:
                with pytest.raises(raises):
                    call(x)

    return check


def make(models: tuple[nn.Module, nn.Module], kind: str) -> UniCAM:
    settings: dict[str, dict[str, Any]] = {
        "own": {"layer": "net.conv2"},
        "deeper": {"layer": "net.conv1", "feature_layer": "last"},
        "list": {"layer": ["net.conv1", "net.conv2"], "feature_layer": "last"},
    }
    return UniCAM(models[0], base_func=models[1], **settings[kind])


CALLS = {
    "batch": lambda unicam, x: unicam.attribute(x, labels(N)),
    "without labels": lambda unicam, x: unicam.attribute(x),
    "layer input": lambda unicam, x: unicam.attribute(x, labels(N), attribute_to_layer_input=True),
    "transfer in parts": lambda unicam, x: unicam.attribute_transfer(x, labels(N), internal_batch_size=3),
    "reference": lambda unicam, x: unicam.reference(x, labels(N)),
    "reference mode": lambda unicam, x: unicam.attribute(x, 1, reference=unicam.reference(x, labels(N))),
    "residual": lambda unicam, x: unicam.residual().attribute(x, labels(N)),
}


@pytest.mark.parametrize("kind", ["own", "deeper", "list"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_nothing_behind(models, unchanged, call, kind):
    unicam = make(models, kind)
    unchanged(lambda x: CALLS[call](unicam, x))


@pytest.mark.parametrize("kind", ["own", "deeper"])
@pytest.mark.parametrize("call", ["batch", "layer input", "transfer in parts", "reference"])
@pytest.mark.parametrize("failing", ["student", "base"])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_model_that_raises_leaves_nothing_behind(models, unchanged, error, failing, call, kind):
    unicam = make(models, kind)
    model = models[0] if failing == "student" else models[1]
    model.failing.error = error
    if call == "transfer in parts":
        model.failing.at_run = 2  # the second of three batches
    unchanged(lambda x: CALLS[call](unicam, x), raises=type(error))
    assert model.failing.at_run == 0


def test_an_interrupt_on_the_way_back_leaves_nothing_behind(models, unchanged):
    """With deeper features and several batches the models run a second time for the maps."""
    unicam = make(models, "deeper")
    models[0].failing.error = KeyboardInterrupt()
    models[0].failing.at_run = 5  # the second of the second three
    unchanged(lambda x: CALLS["transfer in parts"](unicam, x), raises=KeyboardInterrupt)
    assert models[0].failing.at_run == 0


@pytest.mark.parametrize("features", [None, "last"])
def test_a_layer_never_reached_leaves_nothing_behind(models, unchanged, features):
    unicam = UniCAM(models[0], "unused", models[1], feature_layer=features)
    unchanged(lambda x: unicam.attribute(x, labels(N)), raises=ValueError)


def test_features_ahead_of_the_layer_leave_nothing_behind(models, unchanged):
    unicam = UniCAM(models[0], "net.conv3", models[1], feature_layer="net.conv1")
    unchanged(lambda x: unicam.attribute(x, labels(N)), raises=ValueError)


def test_a_transform_that_raises_leaves_nothing_behind(models, unchanged):
    def transform(activations):
        raise KeyError("of the user")

    unicam = UniCAM(models[0], "net.conv2", models[1], feature_transform=transform)
    unchanged(lambda x: unicam.attribute(x, labels(N)), raises=KeyError)


def test_non_finite_features_leave_nothing_behind(models, unchanged):
    with torch.no_grad():
        models[1].net.conv2.bias.fill_(torch.inf)
    unicam = make(models, "own")
    unchanged(lambda x: unicam.attribute(x, labels(N)), raises=ValueError)


@pytest.mark.parametrize("target", [[0] * N, [0, 1], [0.5] * N])
def test_invalid_arguments_leave_nothing_behind(models, unchanged, target):
    unicam = make(models, "own")
    unchanged(lambda x: unicam.attribute(x, target), raises=(ValueError, TypeError))


def test_a_compiled_model_is_compiled_again_after_a_call():
    runs = []

    def backend(graph, example_inputs):
        runs.append("compiled")
        return lambda *args: runs.append("run") or graph.forward(*args)

    student, base = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)), ConvNet(seed=2)
    compiled = torch.compile(student, backend=backend)
    compiled(images(N))
    UniCAM(compiled, "1", base, "fc").attribute(images(N), labels(N))
    assert runs == ["compiled", "run"]
    compiled(images(N))
    assert runs == ["compiled", "run", "run"]


# ------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("kind", ["own", "deeper", "list"])
def test_no_reference_to_the_models_is_kept(kind):
    models = Used(1), Used(2)
    x = images(N)
    unicam = make(models, kind)
    population = unicam.reference(x, labels(N))
    maps = unicam.attribute_transfer(x, labels(N), reference=population)
    kept = [weakref.ref(module) for model in models for module in model.modules()]
    del models, unicam
    gc.collect()
    assert maps is not None and population is not None
    assert [reference() for reference in kept if reference() is not None] == []


def test_no_reference_to_the_models_is_kept_after_an_error():
    models = Used(1), Used(2)
    models[1].failing.error = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        make(models, "deeper").attribute(images(N), labels(N))
    kept = [weakref.ref(model) for model in models]
    del models
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("kind", ["own", "deeper", "list"])
@pytest.mark.parametrize("call", ["batch", "transfer in parts", "reference mode"])
def test_activations_go_with_the_call(models, call, kind):
    """At once, not when the collector of cycles happens to run: on a GPU that would be too late."""
    unicam = make(models, kind)
    given = []
    handles = [
        module.register_forward_hook(lambda m, i, o: given.append(weakref.ref(o)))
        for model in models
        for module in (model.net.conv1, model.net.conv2, model.last)
    ]
    clone = Tensor.clone

    def noting(tensor: Tensor, **kwargs: Any) -> Tensor:
        copy = clone(tensor, **kwargs)
        given.append(weakref.ref(copy))
        return copy

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "clone", noting)
            maps = CALLS[call](unicam, images(N))
        assert len(given) >= 10
        assert [reference().shape for reference in given if reference() is not None] == []
        assert maps is not None
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()
