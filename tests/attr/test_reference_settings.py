"""A reference population serves the models and settings it was made with, and no others."""

import copy
import functools
import pickle
import types

import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM, flatten

M = 6

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


class Normed(nn.Module):
    """A convolution with running statistics and a projection; the middle has no weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.middle = nn.Identity()
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.bn(self.conv(x)))
        self.cache = x.detach().mean().reshape(1)
        return self.fc(self.drop(x.mean((2, 3)) * self.scale))


def normed(seed: int = 0) -> Normed:
    return Normed(seed).eval()


def make(student: nn.Module, base: nn.Module, **settings) -> UniCAM:
    return UniCAM(student, "middle", base, **settings)


def populated(unicam: UniCAM):
    return unicam.reference(images(M, seed=5), labels(M))


def use(unicam: UniCAM, population) -> Tensor:
    return unicam.attribute(images(3), labels(3), reference=population)


def refused(unicam: UniCAM, population, *words: str) -> None:
    """By an error that says so before any model runs."""
    runs: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, given: runs.append(module))
    try:
        with pytest.raises(ValueError) as error:
            use(unicam, population)
    finally:
        handle.remove()
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "Make a population with reference()" in message and len(message) < 400
    assert runs == []


# --------------------------------------------------------------------------------- models


@pytest.mark.parametrize("position", [0, 1, -1])
@pytest.mark.parametrize("name", [name for name, _ in Normed().named_parameters()])
def test_one_changed_entry_of_any_parameter(name, position):
    student = normed(1)
    unicam = make(student, normed(2))
    population = populated(unicam)
    entries = student.get_parameter(name).data.flatten()
    student.get_parameter(name).data.view(-1)[position] += 1e-6 * entries.abs().max() + 1e-6
    refused(unicam, population, "Student's weights or buffers (running statistics, for example) are not those")


@pytest.mark.parametrize("name", ["bn.running_mean", "bn.running_var", "scale"])
def test_one_changed_entry_of_a_buffer(name):
    base = normed(2)
    unicam = make(normed(1), base)
    population = populated(unicam)
    base.get_buffer(name)[2] += 1e-3
    refused(unicam, population, "Base model's weights or buffers (running statistics, for example) are not those")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda weight: weight.neg_(), "conv.weight"),
        (lambda weight: weight[1].neg_(), "conv.weight"),
        (lambda weight: weight.copy_(weight.flip(0)), "conv.weight"),
        (lambda weight: weight.copy_(weight.flip(0)), "bn.bias"),
    ],
    ids=["signs", "signs of a channel", "order of channels", "order of a vector"],
)
def test_changes_that_keep_a_sum(change, name):
    student = normed(1)
    nn.init.normal_(student.bn.bias)
    unicam = make(student, normed(2))
    population = populated(unicam)
    with torch.no_grad():
        change(student.get_parameter(name))
    refused(unicam, population, "Student's weights or buffers")


def step(student: nn.Module) -> None:
    student(images(3)).sum().backward()
    torch.optim.SGD(student.parameters(), 1e-3).step()


def quantize(student: nn.Module) -> None:
    torch.ao.quantization.quantize_dynamic(student, {nn.Linear}, inplace=True)


CHANGES = {
    "optimizer step": (step, "weights or buffers"),
    "load_state_dict": (lambda student: student.load_state_dict(normed(3).state_dict()), "weights or buffers"),
    "assigned": (lambda student: student.load_state_dict(normed(3).state_dict(), assign=True), "weights or buffers"),
    "dtype": (lambda student: student.double(), "weights or buffers"),
    "quantized": (quantize, "modules, or their modes"),
}


@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("change", CHANGES)
def test_ways_to_change_a_model(change):
    student = normed(1)
    unicam = make(student, normed(2))
    population = populated(unicam)
    student.load_state_dict(normed(1).state_dict())  # the same weights
    use(unicam, population)
    CHANGES[change][0](student)
    refused(unicam, population, f"Student's {CHANGES[change][1]}")


@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:.*[Ss]parse")
@pytest.mark.parametrize("kind", ["quantized", "sparse", "meta"])
def test_weights_without_plain_values_are_accepted(kind):
    student = normed(1)
    if kind == "quantized":
        quantize(student)
    else:
        weight = student.fc.weight.detach()
        student.fc.weight = nn.Parameter(weight.to("meta") if kind == "meta" else weight.to_sparse(), requires_grad=False)
        student.fc.forward = lambda x: x
        student.fc._hf_hook = None  # as accelerate marks modules whose weights it brings when they are needed
    unicam = make(student, normed(2))
    assert use(unicam, pickle.loads(pickle.dumps(populated(unicam)))).shape == (3, 1, 10, 10)


def test_models_swapped_by_hand_and_other_models():
    population = populated(make(normed(1), normed(2)))
    refused(make(normed(2), normed(1)), population, "Student's weights or buffers")
    refused(make(normed(3), normed(2)), population, "Student's weights or buffers")
    refused(make(normed(1), normed(3)), population, "Base model's weights or buffers")
    assert use(make(normed(1), normed(2)), population).shape == (3, 1, 10, 10)


@pytest.mark.parametrize("part", [None, "bn", "drop"])
def test_another_mode(part):
    student = normed(1)
    unicam = make(student, normed(2))
    population = populated(unicam)
    (student.get_submodule(part) if part else student).train()
    refused(unicam, population, "Student's modules, or their modes (train() or eval()), are not those")
    student.eval()
    use(unicam, population)


def test_running_statistics_do_not_count_in_training_mode():
    """There they play no part, and every pass, that of the population too, changes them."""
    unicam = make(Normed(1), normed(2))
    population = populated(unicam)
    before = unicam.forward_func.bn.running_mean.clone()
    use(unicam, population)
    use(unicam, population)
    assert not torch.equal(unicam.forward_func.bn.running_mean, before)


def test_frozen_weights_and_caches_do_not_count():
    unicam = make(normed(1), normed(2))
    population = populated(unicam)
    unicam.forward_func.requires_grad_(False)
    use(unicam, population)
    assert unicam.forward_func.cache != 0
    unicam.forward_func.to(memory_format=torch.channels_last)
    use(unicam, population)


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
def test_wrappers_do_not_count():
    student, base = normed(1), normed(2)
    population = populated(make(student, base))
    wrapped = make(nn.DataParallel(student), torch.compile(base, backend="eager"))
    torch.testing.assert_close(use(wrapped, population), use(make(student, base), population))


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_same_weights_on_every_device_and_in_every_memory_layout(device):
    student, base = normed(1), normed(2)
    unicam = make(student, base)
    population = populated(unicam)
    for model in (student, base):
        model.to(device, memory_format=torch.channels_last)
    unicam.attribute(images(3).to(device), 1, reference=population)


# -------------------------------------------------------------------------- plain functions


class Runner:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def run(self, x: Tensor) -> Tensor:
        return self.model(x)

    __call__ = run


def with_model(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def in_a_closure(model):
    return lambda x: model(x)


def in_an_inner_function(model):
    return lambda x: [inner for inner in (lambda: model(x),)][0]()


def in_a_function_of_a_closure(model):
    run = in_a_closure(model)
    return torch.no_grad()(lambda x: run(x))


def in_a_list(model):
    models = {"all": [model]}
    return lambda x: models["all"][0](x)


def as_a_default(model):
    def forward(x, *, model=model):
        return model(x)

    return forward


def as_a_global(model):
    """Two functions of one file, one of which calls the other."""
    file = types.ModuleType("file")
    exec("def inner(x): return model(x)\n\ndef forward(x): return inner(x)", vars(file))
    file.model = model
    return file.forward


FUNCTIONS = {
    "closure": in_a_closure,
    "inner function": in_an_inner_function,
    "function of a closure": in_a_function_of_a_closure,
    "list": in_a_list,
    "default": as_a_default,
    "global": as_a_global,
    "partial": lambda model: functools.partial(with_model, model),
    "keyword of a partial": lambda model: functools.partial(functools.partial(lambda x, run: run(x)), run=model),
    "method of a module": lambda model: model.forward,
    "method": lambda model: Runner(model).run,
    "callable object": Runner,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_model_behind_a_plain_function_counts(function):
    """Its layer has no weights of its own."""

    def of(student: nn.Module) -> UniCAM:
        base = normed(2)
        return UniCAM(function(student), student.middle, function(base), base.middle)

    population = populated(of(normed(1)))
    assert use(of(normed(1)), population).shape == (3, 1, 10, 10)
    refused(of(normed(3)), population, "Student's weights or buffers")
    changed = normed(1)
    changed.bn.running_mean[1] += 0.1
    refused(of(changed), population, "Student's weights or buffers")


def test_functions_that_hold_the_same_model_are_the_same_model():
    student, base = normed(1), normed(2)
    population = populated(UniCAM(lambda x: student(x), student.middle, in_a_list(base), base.middle))
    use(UniCAM(functools.partial(with_model, student), student.middle, in_a_closure(base), base.middle), population)


def test_what_a_function_gathers_does_not_count():
    seen: list[Tensor] = []
    student, base = normed(1), normed(2)

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return student(x)

    unicam = UniCAM(forward, student.middle, in_a_closure(base), base.middle)
    population = populated(unicam)
    use(unicam, population)
    use(unicam, population)
    assert len(seen) == 3


@pytest.mark.parametrize(("made_at", "used_at"), [("conv2", "conv1"), ("relu2", "relu1")])
def test_another_layer_of_a_plain_function(made_at, used_at):
    student, base = ConvNet(width=4, seed=1), ConvNet(width=4, seed=2)

    def of(layer: str) -> UniCAM:
        return UniCAM(in_a_closure(student), student.get_submodule(layer), in_a_closure(base), base.get_submodule(layer))

    population = populated(of(made_at))
    assert use(of(made_at), population).shape == (3, 1, 6, 6)
    refused(of(used_at), population, "made with Student's layers=", "of its modules")


# ------------------------------------------------------------------------ feature transforms


def strip(width: int):
    return lambda x: x[:, :, :width].flatten(1)


class Strip:
    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, x: Tensor) -> Tensor:
        return x[:, :, : self.width].flatten(1)

    def method(self, x: Tensor) -> Tensor:
        return self(x)


class StripModule(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.width].flatten(1)


def of_width(x: Tensor, width: int = 3) -> Tensor:
    return x[:, :, :width].flatten(1)


def projected(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


TRANSFORMS = {
    "closure": lambda: strip(3),
    "partial": lambda: functools.partial(of_width, width=3),
    "object": lambda: Strip(3),
    "method": lambda: Strip(3).method,
    "module": lambda: StripModule(3),
    "module's weights": lambda: projected(3),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_feature_transforms_are_the_same_object(transform):
    """Another object of the same name may compute other features."""
    student, base, same = normed(1), normed(2), transform()
    population = populated(make(student, base, feature_transform=same))
    again = make(student, base, feature_transform=same)
    for kept in (population, copy.deepcopy(population), pickle.loads(pickle.dumps(population))):
        assert use(again, kept).shape == (3, 1, 10, 10)
    refused(make(student, base, feature_transform=transform()), population, "feature_transform", "is not the object")


@pytest.mark.parametrize("transform", [projected, lambda width: nn.Sequential(nn.MaxPool2d(width), nn.Flatten())])
def test_modules_as_transforms_are_known_by_their_contents_after_unpickling(transform):
    student, base = normed(1), normed(2)
    population = populated(make(student, base, feature_transform=transform(3)))
    kept = pickle.loads(pickle.dumps(population))
    use(make(student, base, feature_transform=transform(3)), kept)
    refused(make(student, base, feature_transform=transform(2)), kept, "feature_transform=")


def test_feature_transforms_of_other_names_are_named():
    student, base = normed(1), normed(2)
    population = populated(make(student, base))
    words = ("made with feature_transform='global_average_pool'", "but this call has 'flatten'")
    refused(make(student, base, feature_transform=flatten), population, *words)


# --------------------------------------------------------------------------- class embeddings


def test_one_changed_entry_of_the_class_embeddings():
    table = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    student, base = normed(1), normed(2)
    population = populated(make(student, base, class_embeddings=table))
    assert use(make(student, base, class_embeddings=table.clone()), population).shape == (3, 1, 10, 10)
    for row, column in ((0, 1), (1, 17), (2, 49)):
        other = table.clone()
        other[row, column] += 1e-4
        refused(make(student, base, class_embeddings=other), population, "class_embeddings", "3 x 50")
