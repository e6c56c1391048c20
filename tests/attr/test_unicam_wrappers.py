"""Compiled and data-parallel models, and models that run on several devices."""

import threading

import pytest
import torch
from conv_pairs import N, expected_map, inputs, pair
from models import labels
from torch import Tensor, nn

import captum_kd._models.layer_outputs
from captum_kd import UniCAM
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import resolve_layer

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


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
    devices = capture_layers(
        model, [layer], (torch.arange(4.0)[:, None],), device_ids=order if said_by == "argument" else None
    )
    assert [device[layer_module].tensors[0].flatten().tolist() for device in devices] == [[0, 2], [4, 6]]


@pytest.mark.parametrize("device_ids", [None, [0], [0, 2]])
def test_devices_in_unknown_order_are_an_error(device_ids):
    layer_module = Doubling()
    model = Replicated(layer_module, [0, 1])
    layer = resolve_layer(model, layer_module, model="forward_func", argument="layer")
    with pytest.raises(ValueError, match="device_ids"):
        capture_layers(model, [layer], (torch.arange(4.0)[:, None],), device_ids=device_ids)


@pytest.mark.parametrize("features", [None, "conv3"])
@pytest.mark.parametrize("internal_batch_size", [None, 5])
def test_parts_from_several_devices_make_one_population(monkeypatch, features, internal_batch_size):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer=features)
    expected = unicam.attribute_transfer(inputs(), labels(N))

    def on_two_devices(forward_func, layers, values, *args, **kwargs):
        halves = [(values[0][:2],), (values[0][2:],)]
        return [capture_layers(forward_func, layers, half, *args, **kwargs)[0] for half in halves]

    monkeypatch.setattr(captum_kd._models.layer_outputs, "capture_layers", on_two_devices)
    found = unicam.attribute_transfer(inputs(), labels(N), internal_batch_size=internal_batch_size)
    torch.testing.assert_close(tuple(found), tuple(expected))
