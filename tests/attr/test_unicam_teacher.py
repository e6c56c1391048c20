"""UniCAM with a Teacher, whose geometry takes the place of the labels': maps against a literal rendering of the formula."""

from typing import Any, Callable

import pytest
import torch
from conv_pairs import inputs, relative_difference
from conv_teachers import MODES, conv, explain, layer_of, literal_map, make, pooled, references, teacher_of_width, tokens_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import ChannelsLast, Columns, ConvNet, SeveralOutputs, TinyTransformer, activations
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")

TRANSFORMS = {"pooled": global_average_pool, "flat": flatten}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_maps_of_both_directions(transform, mode):
    student, base, teacher, f = conv(1), conv(2), teacher_of_width(), TRANSFORMS[transform]
    unicam = UniCAM(student, "conv2", base, feature_transform=f, teacher_func=teacher)
    x = inputs()
    own, other, third = (layer_of(model, "conv2") for model in (student, base, teacher))
    distilled = literal_map(mode, own, f, lambda v: f(other(v)), lambda v: f(third(v)), x)
    residual = literal_map(mode, other, f, lambda v: f(own(v)), lambda v: f(third(v)), x)
    assert relative_difference(explain(unicam, mode, x), distilled) < 1e-6
    assert relative_difference(explain(unicam.residual(), mode, x), residual) < 1e-6
    population = unicam.reference(references()) if mode == "reference" else None
    both = unicam.attribute_transfer(x, reference=population)
    assert relative_difference(both.distilled, distilled) < 1e-6
    assert relative_difference(both.residual, residual) < 1e-6
    assert relative_difference(distilled, residual) > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_deeper_feature_layer_names_the_teachers_layer_too(mode):
    student, base, teacher = conv(1), conv(2), teacher_of_width()

    def deep(a):
        return global_average_pool(student.conv3(student.relu2(student.conv2(torch.relu(a)))))

    unicam = UniCAM(student, "conv1", base, feature_layer="conv3", teacher_func=teacher)
    third = pooled(teacher, "conv3")
    expected = literal_map(mode, layer_of(student, "conv1"), deep, pooled(base, "conv3"), third, inputs())
    assert relative_difference(explain(unicam, mode, inputs()), expected) < 1e-6


def odd_teachers() -> dict[str, tuple[nn.Module, Any, Callable[[Tensor], Tensor]]]:
    """Teachers of other architectures, the layer argument, and its output in canonical layout."""
    wide, tokens = teacher_of_width(), TinyTransformer(patch=2, prefix=2, seed=3).double().eval()
    last, several = ChannelsLast(seed=3).double(), SeveralOutputs("dict", seed=3).double()
    return {
        "another layer": (wide, "conv3", layer_of(wide, "conv3")),
        "a module": (wide, wide.conv1, layer_of(wide, "conv1")),
        "no positions": (wide, "fc", layer_of(wide, "fc")),
        "tokens": (tokens, "block", tokens_of(tokens, 6, 2)),
        "channels last": (last, "stage", lambda x: activations(last, "stage", x).permute(0, 3, 1, 2)),
        "a function": (lambda x: wide(x), wide.conv2, layer_of(wide, "conv2")),
        "several outputs": (several, "split", lambda x: [several.split.first(x), several.split.second(x)]),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", odd_teachers())
def test_teachers_of_other_architectures(kind, transform, mode):
    student, base, f = conv(1), conv(2), TRANSFORMS[transform]
    teacher, layer, canonical = odd_teachers()[kind]

    def third(x: Tensor) -> Tensor:
        found = canonical(x)
        return torch.cat([f(part) for part in (found if isinstance(found, list) else [found])], dim=1).detach()

    unicam = UniCAM(student, "conv2", base, feature_transform=f, teacher_func=teacher, teacher_layer=layer)
    other = layer_of(base, "conv2")
    expected = literal_map(mode, layer_of(student, "conv2"), f, lambda x: f(other(x)), third, inputs())
    assert relative_difference(explain(unicam, mode, inputs()), expected) < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(5, 12),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    shared=st.floats(0, 3),
    seed=st.integers(0, 10**6),
)
def test_any_features(n, widths, shared, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, sum(widths), generator=generator).double()
    x += shared * torch.randn(n, 1, generator=generator).double()  # what all three have in common
    a, b = widths[0], widths[0] + widths[1]
    models = Columns(0, a), Columns(a, b), Columns(b, sum(widths))
    unicam = UniCAM(models[0], "layer", models[1], teacher_func=models[2])
    own, other, teacher = x[:, :a], x[:, a:b], x[:, b:]
    p, q, t = (literal.u_centered(literal.distances(features)) for features in (own, other, teacher))
    for whole, rest in ((p, literal.without(p, q)), (t, literal.without(t, q))):
        assume(rest.norm() > 1e-3 * whole.norm())  # nearly nothing left has few digits in any rendering
    expected = literal.teacher_batch_map(own[:, :, None], lambda t: t[:, :, 0], other, teacher)[:, :, 0]
    torch.testing.assert_close(unicam.attribute(x), expected, rtol=1e-6, atol=1e-9)
    # One input added to the others: the same population, seen from one of its members.
    alone = unicam.attribute(x[:1], reference=unicam.reference(x[1:]))
    torch.testing.assert_close(alone, expected[:1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_layer_input_of_the_teacher_too(mode):
    student, base, teacher = conv(1), conv(2), teacher_of_width()
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher, teacher_layer="conv3")

    def features(model, name):
        return lambda x: global_average_pool(activations(model, name, x, at_input=True))

    own = layer_of(student, "conv2", at_input=True)
    other, third = features(base, "conv2"), features(teacher, "conv3")
    expected = literal_map(mode, own, global_average_pool, other, third, inputs())
    population = unicam.reference(references(), None, None, True) if mode == "reference" else None
    found = unicam.attribute(inputs(), attribute_to_layer_input=True, reference=population)
    assert relative_difference(found, expected) < 1e-6


class Moved(nn.Module):
    """A Teacher whose features are turned, scaled and shifted."""

    def __init__(self, teacher: ConvNet) -> None:
        super().__init__()
        self.teacher = teacher
        self.turn = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).double())[0]
        self.moved = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = global_average_pool(self.teacher.conv2(self.teacher.relu1(self.teacher.conv1(x))))
        return self.moved(1e3 * features @ self.turn + 7)


@pytest.mark.parametrize("mode", MODES)
def test_turned_scaled_and_shifted_features_of_the_teacher_make_no_difference(mode):
    moved = make(teacher_func=Moved(teacher_of_width()), teacher_layer="moved")
    torch.testing.assert_close(explain(moved, mode, inputs()), explain(make(), mode, inputs()))


@pytest.mark.parametrize("mode", MODES)
def test_residual_is_the_distilled_map_of_swapped_models_with_the_same_teacher(mode):
    student, base, teacher = conv(1), conv(2, width=5), teacher_of_width()
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher, teacher_layer="conv3")
    residual = unicam.residual()
    assert residual.teacher_func is teacher
    swapped = UniCAM(base, "conv2", student, teacher_func=teacher, teacher_layer="conv3")
    torch.testing.assert_close(explain(residual, mode, inputs()), explain(swapped, mode, inputs()))
    torch.testing.assert_close(explain(residual.residual(), mode, inputs()), explain(unicam, mode, inputs()))


def test_order_of_the_references_does_not_matter():
    unicam = make()
    found = unicam.attribute(inputs(), reference=unicam.reference(references().flip(0)))
    torch.testing.assert_close(found, explain(unicam, "reference", inputs()))
