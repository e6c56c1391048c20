"""What is refused of calls with a Teacher, before any model runs where that is possible, and what errors leave behind."""

from typing import Any

import pytest
import torch
from conv_pairs import N, inputs
from conv_teachers import conv, make, references, teacher_of_width, watched
from models import ConvNet, TinyTransformer, images
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"teacher_func": None, "teacher_layer": "conv2"}, ValueError, "teacher_layer was given without teacher_func"),
        ({"teacher_func": "resnet50"}, TypeError, "teacher_func must be callable .* got str"),
        ({"teacher_layer": "covn2"}, ValueError, "teacher_layer='covn2' is no layer of teacher_func.*Close matches"),
        ({"teacher_layer": 3}, TypeError, "teacher_layer must be an nn.Module, a dotted name or a list"),
        ({"teacher_layer": ["conv1", "conv2"]}, ValueError, "teacher_layer has 2 entries for 1 layer"),
        (
            {"teacher_func": TinyTransformer()},
            ValueError,
            "teacher_layer was not given, and teacher_func has no counterpart of layer 'conv2'.*Pass teacher_layer",
        ),
        ({"teacher_func": lambda x: x}, ValueError, "teacher_layer cannot be inferred .* pass teacher_layer as a module"),
        (
            {"teacher_func": lambda x: x, "teacher_layer": "conv2"},
            ValueError,
            "teacher_layer='conv2' is a name, but teacher_func is a plain function",
        ),
    ],
)
def test_malformed_teachers(arguments, kind, message):
    with pytest.raises(kind, match=message):
        make(**arguments)


def test_too_few_inputs():
    unicam = make()
    runs = watched(unicam.forward_func, unicam.base_func, unicam.teacher_func)
    with pytest.raises(ValueError, match=r"4 input.*at least 5 with a Teacher\. .*reference="):
        unicam.attribute(inputs(4))
    with pytest.raises(ValueError, match="at least 4 inputs, got 3"):
        unicam.reference(inputs(3))
    assert runs == []
    assert unicam.attribute(inputs(5)).abs().amax() > 0
    assert unicam.attribute(inputs(1), reference=unicam.reference(inputs(4, seed=5))).abs().amax() > 0


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ([0.5] * N, TypeError, "target must hold integer class labels"),
        (torch.zeros(N), TypeError, "use target.long()"),
        ([0, 1], ValueError, "pass one label per input"),
    ],
)
def test_the_form_of_labels_is_checked_all_the_same(method, target, kind, message):
    unicam = make()
    runs = watched(unicam.forward_func, unicam.base_func, unicam.teacher_func)
    with pytest.raises(kind) as error:
        getattr(unicam, method)(inputs(), target)
    assert message in str(error.value) and runs == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("call", ["batch", "reference population", "reference mode"])
def test_non_finite_features_of_the_teacher(call, value):
    unicam = make()
    population = unicam.reference(references()) if call == "reference mode" else None
    unicam.teacher_func.conv2.register_forward_hook(lambda m, i, o: o * value)
    with pytest.raises(ValueError, match="layer 'conv2' of teacher_func gives non-finite features"):
        if call == "reference population":
            unicam.reference(references())
        else:
            unicam.attribute(inputs(), reference=population)


def test_inputs_of_another_size_with_features_of_the_teacher_that_keep_positions():
    unicam = make(feature_transform=lambda a: flatten(a) if a.shape[1] == 9 else global_average_pool(a))
    population = unicam.reference(references())
    with pytest.raises(ValueError, match="have 576 features, those of the reference population 324"):
        unicam.attribute(images(N, 16, 16, dtype=torch.float64), reference=population)


def test_a_layer_of_the_teacher_never_reached():
    teacher = teacher_of_width()
    teacher.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="never reached layer 'unused' of teacher_func"):
        make(teacher_func=teacher, teacher_layer="unused").attribute(inputs())


@pytest.mark.parametrize("call", ["batch", "reference", "reference mode", "transfer in parts"])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_teacher_that_raises_leaves_nothing_behind(error, call):
    class Broken(ConvNet):
        at_run = 0

        def forward(self, x: Tensor) -> Tensor:
            self.at_run -= 1
            if self.at_run == 0:
                raise error
            return super().forward(nn.functional.dropout(x, 0.1))

    student, base, teacher = conv(1).train(), conv(2).eval(), Broken(width=9, seed=3).double()
    base.conv1.requires_grad_(False)
    for model in (student, base, teacher):
        model.conv3.weight.grad = torch.ones_like(model.conv3.weight)
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3", teacher_func=teacher)
    population = unicam.reference(references())
    x = inputs().requires_grad_()

    def state() -> list[Any]:
        kept: list[Any] = [torch.get_rng_state().tolist(), torch.is_grad_enabled(), x.requires_grad, x.grad]
        for model in (student, base, teacher):
            for module in model.modules():
                kept += [module.training, len(module._forward_hooks), len(module._forward_pre_hooks)]
            for parameter in model.parameters():
                kept += [parameter.requires_grad, id(parameter.grad), parameter.detach().sum().item()]
        return kept + [len(nn.modules.module._global_forward_hooks)]

    calls = {
        "batch": lambda: unicam.attribute(x),
        "reference": lambda: unicam.reference(x),
        "reference mode": lambda: unicam.attribute(x, reference=population),
        "transfer in parts": lambda: unicam.attribute_transfer(x, internal_batch_size=3),
    }
    before = state()
    calls[call]()
    assert state() == before
    teacher.at_run = 2 if call == "transfer in parts" else 1
    with pytest.raises(type(error)):
        calls[call]()
    assert state() == before
    assert student.conv3.weight.grad.eq(1).all()
