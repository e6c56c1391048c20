"""Whether the code of a model shows that a module runs at most once in a pass."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_kd._models.single_calls import runs_once_at_most

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.deep = True


class Straight(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Branches(Model):
    def forward(self, x: Tensor) -> Tensor:
        if self.deep:
            x = checkpoint(self.a, x, use_reentrant=False)
        else:
            x = self.a(x)
        return self.b(x)


class OneBranch(Model):
    def forward(self, x: Tensor) -> Tensor:
        if self.deep:
            return self.a(x)
        return self.b(x)


class ByMethods(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.to(torch.float32)))

    def features(self, x: Tensor) -> Tensor:
        return self.a(x)

    def head(self, x: Tensor) -> Tensor:
        return self.b(x)

    def to(self, *args, **kwargs):
        return super().to(*args, **kwargs)


class Blocks(Model):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.a(x)


class Asking(Model):
    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, "deep", None):
            x = self.b(x)
        return self.a(x)


class InAVariable(Model):
    def forward(self, x: Tensor) -> Tensor:
        run = self.a
        x = run(x)
        return run(x) if x.mean() > 0 else x


class InAList(Model):
    def forward(self, x: Tensor) -> Tensor:
        for run in [self.a] * (2 if x.mean() > 0 else 1):
            x = run(x)
        return x


class ALoopThatMayRunItsVariableAgain(Model):
    def forward(self, x: Tensor) -> Tensor:
        for place, block in enumerate(self.blocks):
            x = block(x)
            if x.mean() > place:
                x = block(x)
        return x


class Searching(Model):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return dict(self.named_children())["a"](x) if x.mean() > 0 else x


class ByNameAgain(Model):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return getattr(self, "a")(x) if x.mean() > 0 else x


def _again(model: Model, x: Tensor) -> Tensor:
    return model.a(x) if x.mean() > 0 else x


class GivesItselfToAFunction(Model):
    def forward(self, x: Tensor) -> Tensor:
        return _again(self, self.a(x))


class OtherNameOfSelf(Model):
    def forward(this, x: Tensor) -> Tensor:  # noqa: N805
        return this.again(this.a(x))

    def again(this, x: Tensor) -> Tensor:  # noqa: N805
        return this.a(x) if x.mean() > 0 else x


class MethodTwice(ByMethods):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.features(x))


class Twice(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(x))


class BothBranches(Model):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.mean() > 0:
            x = self.a(x)
        return x


class InALoop(Model):
    def forward(self, x: Tensor) -> Tensor:
        while x.mean() > 0:
            x = self.a(x) - 1
        return x


class InALoopOfBlocks(Model):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        return x


class InALambda(Model):
    def forward(self, x: Tensor) -> Tensor:
        run = lambda y: self.a(y)  # noqa: E731
        return run(run(x))


class InAComprehension(Model):
    def forward(self, x: Tensor) -> Tensor:
        return sum(self.a(row) for row in x)


class CallsItself(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward(x) if x.mean() > 0 else self.a(x)


class ByName(Model):
    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, "a")(x)


@pytest.mark.parametrize("kind", (Straight, Branches, OneBranch, ByMethods, Blocks, Asking))
def test_code_that_names_a_module_once_on_every_path(kind):
    model = kind()
    assert runs_once_at_most(model, model.a)


@pytest.mark.parametrize(
    "kind",
    (
        MethodTwice, Twice, BothBranches, InALoop, InALambda, InAComprehension, CallsItself, ByName, InAVariable, InAList,
        Searching, ByNameAgain, GivesItselfToAFunction, OtherNameOfSelf,
    ),  # fmt: skip
)
def test_code_that_may_run_a_module_again(kind):
    model = kind()
    assert not runs_once_at_most(model, model.a)


def test_lists_of_modules():
    once = Blocks()
    assert runs_once_at_most(once, once.blocks[1])
    for again in (InALoopOfBlocks(), ALoopThatMayRunItsVariableAgain()):
        assert not runs_once_at_most(again, again.blocks[1])


def test_every_step_to_the_module_counts():
    inner = Straight()
    assert runs_once_at_most(nn.Sequential(nn.ReLU(), nn.Sequential(inner)), inner.a)
    assert not runs_once_at_most(nn.Sequential(inner, inner), inner.a)
    outer = Twice()
    outer.a = inner
    assert not runs_once_at_most(outer, inner.a)


def test_functions_methods_and_replaced_forward_methods():
    model = ByMethods()
    assert runs_once_at_most(model.features, model.a)
    assert not runs_once_at_most(model.features, model.b)
    assert runs_once_at_most(functools.partial(model), model.a)
    assert not runs_once_at_most(lambda x: model(x), model.a)
    model.forward = lambda x: model.a(model.a(x))
    assert not runs_once_at_most(model, model.a)


def test_code_without_source():
    space: dict = {"Model": Model}
    exec("class Unknown(Model):\n    def forward(self, x):\n        return self.a(x)", space)
    model = space["Unknown"]()
    assert not runs_once_at_most(model, model.a)


@pytest.mark.parametrize(
    ("build", "layer"),
    (
        (torchvision.models.resnet18, "layer2"),
        (torchvision.models.densenet121, "features.denseblock2"),
        (torchvision.models.mobilenet_v3_small, "features.5"),
        (torchvision.models.swin_t, "features.3"),
        (torchvision.models.vit_b_32, "encoder.layers.encoder_layer_3"),
        (functools.partial(timm.create_model, "resnet18"), "layer2"),
        (functools.partial(timm.create_model, "vit_tiny_patch16_224"), "blocks.3"),
        (functools.partial(timm.create_model, "convnext_atto"), "stages.1"),
        (functools.partial(timm.create_model, "efficientnet_lite0"), "blocks.3"),
    ),
)
def test_known_architectures(build, layer):
    with torch.device("meta"):
        model = build()
    assert runs_once_at_most(model, model.get_submodule(layer))
