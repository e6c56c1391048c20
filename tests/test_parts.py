"""Layers that are no part of their model are refused at once; those that it can run are taken, wherever it keeps them."""

import collections
import copy
import functools
import types
import weakref

import pytest
import torch
from models import ConvNet, Untouched, images, labels
from torch import nn
from torch.nn import functional as F

from captum_kd import UniCAM
from captum_kd.metrics import compare_transfer, feature_similarity_score, relevance_score
from captum_kd.metrics.torchmetrics import LayerFeatures

X, Y = images(8), labels(8)

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPED = {
    "itself": lambda model: model,
    "data parallel": nn.DataParallel,
    "compiled": compiled,
    "data parallel of compiled": lambda model: nn.DataParallel(compiled(model)),
    "method": lambda model: model.forward,
    "partial": lambda model: functools.partial(model, scale=1.0),
    "partial of partial of method": lambda model: functools.partial(functools.partial(model.forward), scale=1.0),
    "method of a wrapper": lambda model: nn.Sequential(model).forward,
    "compiled part": lambda model: nn.Sequential(compiled(model)),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_models_own_layer_is_found_in_wrappers(wrap):
    model, base = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    expected = UniCAM(model, model.conv2, base).attribute(X, Y)
    found = UniCAM(wrap(model), model.conv2, wrap(base), base.conv2).attribute(X, Y)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_copys_layer_is_refused_in_wrappers(wrap):
    model = Untouched()
    with pytest.raises(ValueError, match="layer is a Conv2d that is no part of forward_func .*pass a module of this"):
        UniCAM(wrap(model), copy.deepcopy(model).conv2, Untouched(seed=2), "conv2")


class Holding(nn.Module):
    """Runs a layer that is none of its submodules."""

    def __init__(self, how: str, layer: nn.Module) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 3, 1)
        if how == "list":
            self.held = [layer]
        elif how == "object":
            self.held = type("Holder", (), {})()
            self.held.layer = layer
        elif how == "weak reference":
            self.held = weakref.ref(layer)
        elif how == "weak proxy":
            gone = nn.Conv2d(3, 3, 1)
            self.held = [weakref.proxy(gone), weakref.proxy(layer)]
        else:
            self.conv.register_forward_hook(lambda module, args, output: layer(output))

    def forward(self, x):
        x = self.conv(x)
        if self.how == "hook":
            return x
        return {"list": lambda: self.held[0], "object": lambda: self.held.layer, "weak reference": lambda: self.held(),
                "weak proxy": lambda: self.held[1]}[self.how]()(x)  # fmt: skip


@pytest.mark.parametrize("how", ["list", "object", "weak reference", "weak proxy", "hook"])
def test_a_layer_that_is_not_registered_is_taken(how):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 1)
    model, base = Holding(how, layer).eval(), ConvNet(seed=2).eval()
    found = UniCAM(model, layer, base, "conv1").attribute(X, Y)
    plain = nn.Sequential(model.conv, layer) if how != "hook" else None
    if plain is not None:
        assert torch.equal(found, UniCAM(plain, layer, base, "conv1").attribute(X, Y))
    assert found.abs().amax() > 0


HELD = nn.Conv2d(3, 4, 1)
REGISTRY = types.SimpleNamespace(layers={"held": HELD})


class Registry:
    @classmethod
    def get(cls) -> nn.Module:
        return REGISTRY.layers["held"]


class Holder(nn.Module):
    def forward(self, x):
        return self.run(x)


class ByProperty(Holder):
    @property
    def held(self):
        return REGISTRY.layers["held"]

    def run(self, x):
        return self.held(x)


class ByClass(Holder):
    held = [HELD]

    def run(self, x):
        return self.held[0](x)


class ByStaticMethod(Holder):
    @staticmethod
    def run(x):
        return HELD(x)


class ByRegistry(Holder):
    def run(self, x):
        return Registry.get()(x)


class ByQueue(Holder):
    def __init__(self):
        super().__init__()
        self.held = collections.deque([types.MappingProxyType({"held": HELD})])

    def run(self, x):
        return self.held[0]["held"](x)


class ByFile(Holder):
    def run(self, x):
        return nets.held(x)


nets = types.ModuleType("nets")  # as a file beside the user's own
nets.__file__, nets.held = "/somewhere/nets.py", HELD


@pytest.mark.parametrize("holder", [ByProperty, ByClass, ByStaticMethod, ByRegistry, ByQueue, ByFile])
def test_a_layer_of_a_class_a_registry_or_another_file_is_taken(holder):
    found = UniCAM(holder().eval(), HELD, ConvNet(seed=2).eval(), "conv1").attribute(X, Y)
    assert torch.equal(found, UniCAM(HELD, HELD, ConvNet(seed=2).eval(), "conv1").attribute(X, Y))
    assert found.abs().amax() > 0


def test_a_model_of_a_class_that_reaches_many_others_has_its_own_layers_only():
    class Many(ConvNet):
        made = ConvNet  # and all that its file imports

        def forward(self, x):
            return torch.relu(super().forward(F.relu(x)))

    with pytest.raises(ValueError, match="no part of forward_func"):
        UniCAM(Many(), ConvNet().conv2, Untouched())


def test_what_a_plain_function_runs_shows_in_the_pass_only():
    model = ConvNet(seed=1).eval()
    unicam = UniCAM(lambda x: model(x), nn.Conv2d(3, 3, 1), model, "conv2")
    with pytest.raises(ValueError, match="never reached layer Conv2d of forward_func"):
        unicam.attribute(X, Y)


@pytest.mark.parametrize(
    "call",
    [
        lambda foreign: relevance_score(Untouched(), foreign, X, Y),
        lambda foreign: relevance_score(Untouched(), "conv2", X, Y, given=(Untouched(), foreign)),
        lambda foreign: feature_similarity_score(Untouched(), "conv2", Untouched(), foreign, X),
        lambda foreign: LayerFeatures(Untouched(), foreign),
        lambda foreign: compare_transfer(
            Untouched(), Untouched(), {"deep": {"student": "conv2", "base": foreign}}, [(X, Y)], show_progress=False
        ),
    ],
)
def test_metrics_refuse_foreign_layers_before_any_pass(call):
    with pytest.raises(ValueError, match="is a Conv2d that is no part of"):
        call(ConvNet().conv2)


def test_a_method_takes_no_names_so_the_error_speaks_of_none():
    model = Untouched()
    with pytest.raises(ValueError) as error:
        UniCAM(model.forward, ConvNet().conv2, model)
    assert "dotted name" not in str(error.value)
