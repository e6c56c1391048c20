"""Layers by name and by identity: parts called ``module``, wrappers, the whole model."""

import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._models.layer_names import Layer, counterpart, resolve_layer
from captum_kd.metrics import feature_similarity_score

N = 8

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Both(nn.Module):
    """Owns ``conv`` and ``module.conv``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 3, 1)
        self.module = Inner()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.module(self.conv(x)).mean((2, 3)))


class Student(nn.Module):
    """A wrapper with a part beside the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def resolved(model: nn.Module, layer) -> Layer:
    return resolve_layer(model, layer, model="forward_func", argument="layer")


WRAPPERS = {
    "plain": lambda model: model,
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "compiled parallel": lambda model: compiled(nn.DataParallel(model)),
    "parallel compiled": lambda model: nn.DataParallel(compiled(model)),
}


def test_names_of_named_modules_go_first():
    model = Both()
    assert resolved(model, "conv").module is model.conv
    assert resolved(model, "module.conv").module is model.module.conv
    assert resolved(model, "module").module is model.module
    parallel = nn.DataParallel(model)
    assert resolved(parallel, "module.conv").module is model.conv
    assert resolved(parallel, "module.module.conv").module is model.module.conv


@pytest.mark.parametrize("name", ["conv", "module.conv", "module", "fc"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("base_wrapper", WRAPPERS)
def test_the_counterpart_of_a_module_is_the_one_of_its_name_whatever_the_wrappers(wrapper, base_wrapper, name):
    student, base = Both(), Both()
    layer = resolved(WRAPPERS[wrapper](student), student.get_submodule(name))
    assert (layer.module, layer.name) == (student.get_submodule(name), name)
    found = counterpart(layer, WRAPPERS[base_wrapper](base), model="base_func", argument="base_layer")
    assert (found.module, found.name) == (base.get_submodule(name), name)


@pytest.mark.parametrize("name", ["conv1", "module.conv1", "_orig_mod.conv1", "module._orig_mod.conv1"])
@pytest.mark.parametrize("wrapper", [*WRAPPERS, "with a loss"])
def test_wrappers_do_not_matter_where_a_name_is_clear_without_them(wrapper, name):
    student = ConvNet()
    model = Student(student) if wrapper == "with a loss" else WRAPPERS[wrapper](student)
    assert resolved(model, name)[:2] == (student.conv1, "conv1")


@pytest.mark.parametrize("name", ["", "module", "convolution", "module.fc2"])
def test_no_such_name(name):
    with pytest.raises(ValueError, match=f"layer='{name}' is no layer of forward_func"):
        resolved(ConvNet(), name)


def test_maps_of_two_layers_that_differ_by_module_alone():
    student, base = Both(1).double(), Both(2).double()
    x = images(N, dtype=torch.float64)
    for name in ("conv", "module.conv"):
        expected = UniCAM(student, student.get_submodule(name), base, base.get_submodule(name)).attribute(x, labels(N))
        torch.testing.assert_close(UniCAM(student, name, base).attribute(x, labels(N)), expected)
        by_module = UniCAM(student, student.get_submodule(name), base).attribute(x, labels(N))
        torch.testing.assert_close(by_module, expected)


# ------------------------------------------------------------------------ the whole model


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_counterpart_of_the_student_itself_is_the_base(wrapper):
    """Its map is that of its output, as an identity behind it gives it."""
    student, base = ConvNet(seed=1).double(), ConvNet(seed=2).double()
    x = images(N, dtype=torch.float64)
    behind = [nn.Sequential(model, nn.Identity()) for model in (student, base)]
    expected = UniCAM(behind[0], "1", behind[1]).attribute_transfer(x, labels(N))
    model = WRAPPERS[wrapper](student)
    for layer in (model, student):
        found = UniCAM(model, layer, base).attribute_transfer(x, labels(N))
        torch.testing.assert_close(tuple(found), tuple(expected))
    found = UniCAM(base, base, model).attribute_transfer(x, labels(N))
    torch.testing.assert_close(tuple(found), tuple(expected)[::-1])


def test_the_whole_model_as_feature_layer():
    student, base = ConvNet(seed=1).double(), ConvNet(seed=2).double()
    x = images(N, dtype=torch.float64)
    found = UniCAM(student, "conv2", base, feature_layer=student).attribute(x, labels(N))
    torch.testing.assert_close(
        found, UniCAM(student, "conv2", base, feature_layer="fc").attribute(x, labels(N))
    )


def test_score_of_whole_models():
    student, base = ConvNet(seed=1).double(), ConvNet(seed=2).double()
    x = images(N, dtype=torch.float64)
    torch.testing.assert_close(
        feature_similarity_score(student, student, base, base, x),
        feature_similarity_score(student, "fc", base, "fc", x),
    )


def test_a_module_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"layer is a Conv2d that is no part of forward_func \(ConvNet\)"):
        UniCAM(ConvNet(), ConvNet().conv1, ConvNet())


def test_a_module_that_a_model_keeps_in_a_list_has_no_counterpart():
    model = ConvNet()
    model.unregistered = [nn.Conv2d(3, 3, 1)]
    with pytest.raises(ValueError, match="base_layer cannot be inferred from layer Conv2d of forward_func .* not contain"):
        UniCAM(model, model.unregistered[0], ConvNet())
