"""UniCAM with a Teacher: its geometry takes the place of the labels'."""

import copy
import pickle
import warnings
from typing import Any, Callable

import pytest
import torch
from captum.attr import NoiseTunnel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loops import assert_infidelity_is_that_of_single_images
from models import ChannelsLast, Columns, ConvNet, SeveralOutputs, TinyTransformer, activations, images, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool
from captum_kd.metrics import sensitivity_max

N, M = 7, 10
MODES = ["batch", "reference"]
TRANSFORMS = {"pooled": global_average_pool, "flat": flatten}

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def conv(seed: int, width: int = 6) -> ConvNet:
    return ConvNet(width=width, seed=seed).double()


def teacher_of_width(width: int = 9) -> ConvNet:
    return conv(3, width)


def inputs(n: int = N, seed: int = 0) -> Tensor:
    return images(n, seed=seed, dtype=torch.float64)


def references() -> Tensor:
    return inputs(M, seed=5)


def make(**arguments: Any) -> UniCAM:
    arguments = {"teacher_func": teacher_of_width(), "base_func": conv(2), **arguments}
    return UniCAM(arguments.pop("forward_func", conv(1)), arguments.pop("layer", "conv2"), **arguments)


def explain(unicam: UniCAM, mode: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    population = unicam.reference(references()) if mode == "reference" else None
    return unicam.attribute(x, *args, reference=population, **kwargs)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


def literal_map(
    mode: str,
    own: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    other: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """``own`` gives the activations of inputs, ``other`` and ``teacher`` features."""
    if mode == "batch":
        return literal.teacher_batch_map(own(x), features, other(x), teacher(x))
    r = references()
    return literal.teacher_reference_map(own(x), features, other(x), teacher(x), features(own(r)), other(r), teacher(r))


def layer_of(model: nn.Module, name: str, at_input: bool = False) -> Callable[[Tensor], Tensor]:
    return lambda x: activations(model, name, x, at_input=at_input)


def pooled(model: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: global_average_pool(activations(model, name, x))


# -------------------------------------------------------------- against the literal rendering


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_maps_of_both_directions(transform, mode):
    student, base, teacher, f = conv(1), conv(2), teacher_of_width(), TRANSFORMS[transform]
    unicam = UniCAM(student, "conv2", base, feature_transform=f, teacher_func=teacher)
    x = inputs()
    own, other, third = (layer_of(model, "conv2") for model in (student, base, teacher))
    distilled = literal_map(mode, own, f, lambda v: f(other(v)), lambda v: f(third(v)), x)
    residual = literal_map(mode, other, f, lambda v: f(own(v)), lambda v: f(third(v)), x)
    assert difference(explain(unicam, mode, x), distilled) < 1e-6
    assert difference(explain(unicam.residual(), mode, x), residual) < 1e-6
    population = unicam.reference(references()) if mode == "reference" else None
    both = unicam.attribute_transfer(x, reference=population)
    assert difference(both.distilled, distilled) < 1e-6
    assert difference(both.residual, residual) < 1e-6
    assert difference(distilled, residual) > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_deeper_feature_layer_names_the_teachers_layer_too(mode):
    student, base, teacher = conv(1), conv(2), teacher_of_width()

    def deep(a):
        return global_average_pool(student.conv3(student.relu2(student.conv2(torch.relu(a)))))

    unicam = UniCAM(student, "conv1", base, feature_layer="conv3", teacher_func=teacher)
    third = pooled(teacher, "conv3")
    expected = literal_map(mode, layer_of(student, "conv1"), deep, pooled(base, "conv3"), third, inputs())
    assert difference(explain(unicam, mode, inputs()), expected) < 1e-6


def tokens_of(model: TinyTransformer, side: int, prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda x: activations(model, "block", x)[:, prefix:].transpose(1, 2).unflatten(2, (side, side))


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
    assert difference(explain(unicam, mode, inputs()), expected) < 1e-6


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
    p, q, t = (literal.u_centred(literal.distances(features)) for features in (own, other, teacher))
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
    assert difference(found, expected) < 1e-6


# --------------------------------------------------------------------------- what stays as it is


def test_without_a_teacher_the_objective_is_that_of_the_labels():
    plain = UniCAM(conv(1), "conv2", conv(2))
    assert plain.teacher_func is None
    found = make(teacher_func=None).attribute(inputs(), labels(N))
    assert torch.equal(found, plain.attribute(inputs(), labels(N)))
    assert difference(make().attribute(inputs(), labels(N)), found) > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [2, [1] * N, list(range(N)), labels(N), [-5, 10**6] + [0] * (N - 2)])
def test_labels_have_no_effect(target, mode):
    unicam = make(class_embeddings=torch.eye(3))
    expected = explain(make(), mode, inputs())
    assert torch.equal(explain(unicam, mode, inputs(), target), expected)


def test_labels_and_embeddings_of_the_population_have_no_effect():
    unicam, embedded = make(), make(class_embeddings=torch.eye(3))
    expected = unicam.attribute(inputs(), reference=unicam.reference(references()))
    for population in (unicam.reference(references(), [1] * M), embedded.reference(references(), labels(M))):
        assert not population.is_labelled and population.has_teacher
        assert torch.equal(unicam.attribute(inputs(), 3, reference=population), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("internal_batch_size", [1, 3, N, 100])
@pytest.mark.parametrize("features", [None, "conv3"])
def test_internal_batch_size_does_not_change_the_maps(features, internal_batch_size, mode):
    unicam = make(layer="conv1", feature_layer=features)
    whole = unicam.reference(references()) if mode == "reference" else None
    parts = unicam.reference(references(), internal_batch_size=internal_batch_size) if whole is not None else None
    expected = unicam.attribute_transfer(inputs(), reference=whole)
    found = unicam.attribute_transfer(inputs(), internal_batch_size=internal_batch_size, reference=parts)
    torch.testing.assert_close(tuple(found), tuple(expected))


@pytest.mark.parametrize("features", [None, "conv3"])
def test_a_single_image_has_the_same_map_alone_and_in_any_batch(features):
    unicam = make(layer="conv1", feature_layer=features)
    population, x = unicam.reference(references()), inputs()
    batch = unicam.attribute(x, reference=population)
    for rows in ([0], [3], [6, 3, 0], [5, 5]):
        torch.testing.assert_close(unicam.attribute(x[rows], reference=population), batch[rows])


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
def test_one_forward_pass_of_each_model(method):
    models = {"student": conv(1), "base": conv(2), "teacher": teacher_of_width()}
    calls = []
    for name, model in models.items():
        model.register_forward_hook(lambda m, i, o, name=name: calls.append((name, len(i[0]))))
    unicam = UniCAM(models["student"], "conv1", models["base"], feature_layer="conv3", teacher_func=models["teacher"])
    getattr(unicam, method)(inputs())
    assert sorted(calls) == [("base", N), ("student", N), ("teacher", N)]
    calls.clear()
    getattr(unicam, method)(inputs(), internal_batch_size=4)
    assert [rows for name, rows in calls if name == "teacher"] == [4, 3]


def test_progress_over_the_teachers_passes_is_shown_when_asked_for(capsys):
    unicam = make(teacher_func=TinyTransformer().double(), teacher_layer="block")
    unicam.attribute(inputs(), internal_batch_size=4)
    assert capsys.readouterr().err == ""
    unicam.attribute(inputs(), internal_batch_size=4, show_progress=True)
    assert "TinyTransformer" in capsys.readouterr().err


def test_relu_and_channels():
    unicam = make()
    plain = unicam.attribute(inputs())
    assert plain.amin() < 0
    assert torch.equal(unicam.attribute(inputs(), relu_attributions=True), plain.clamp(min=0))
    split = unicam.attribute(inputs(), attr_dim_summation=False)
    assert split.shape == (N, 6, 6, 6)
    torch.testing.assert_close(split.sum(1, keepdim=True), plain)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [None, "conv3", ["conv1", "conv3"], [None, "fc"]], ids=str)
def test_list_of_layers_equals_separate_calls(at, mode):
    unicam = make(layer=["conv1", "conv2"], teacher_layer=at)
    together = explain(unicam, mode, inputs())
    assert isinstance(together, list)
    for layer, found, alone in zip(("conv1", "conv2"), together, at if isinstance(at, list) else [at, at]):
        torch.testing.assert_close(found, explain(make(layer=layer, teacher_layer=alone), mode, inputs()))


def test_several_outputs_give_a_tuple():
    student, base = SeveralOutputs("tuple", seed=1).double(), SeveralOutputs("tuple", seed=2).double()
    unicam = UniCAM(student, "split", base, teacher_func=teacher_of_width(), teacher_layer="conv2")
    assert [a.shape for a in unicam.attribute(inputs())] == [(N, 1, 12, 12), (N, 1, 6, 6)]


def test_result_carries_no_graph():
    found = make(layer="conv1", feature_layer="conv3").attribute(inputs().requires_grad_())
    assert not found.requires_grad and found.untyped_storage().nbytes() == found.numel() * found.element_size()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", [torch.no_grad, torch.inference_mode])
def test_gradients_are_opened_inside(precision, mode):
    unicam = make(layer="conv1", feature_layer="conv3")
    expected = explain(unicam, mode, inputs())
    with precision():
        torch.testing.assert_close(explain(unicam, mode, inputs()), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_teacher_of_another_dtype(dtype, mode):
    student, base, teacher = conv(1).float(), conv(2).float(), teacher_of_width()
    exact = explain(make(), mode, inputs())
    half = copy.deepcopy(teacher).to(dtype)
    unicam = UniCAM(student, "conv2", base, teacher_func=lambda x: half(x.to(dtype)), teacher_layer=half.conv2)
    population = unicam.reference(references().float()) if mode == "reference" else None
    found = unicam.attribute(inputs().float(), reference=population)
    assert found.dtype == torch.float32
    assert difference(found, exact) < (1e-2 if dtype == torch.float16 else 1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="DataParallel moves to the devices that there are")
def test_wrapped_teachers_have_the_same_layers_and_populations():
    unicam, wrapped = make(), make(teacher_func=nn.DataParallel(teacher_of_width()), teacher_layer="module.conv2")
    population = unicam.reference(references())
    expected = unicam.attribute(inputs(), reference=population)
    torch.testing.assert_close(wrapped.attribute(inputs(), reference=population), expected)


# ------------------------------------------------------------------------------------ layouts


def test_hints_about_the_student_do_not_concern_a_teacher_whose_layout_tells():
    """The Student's 3 x 3 tokens behind one, the Teacher's 6 x 6 behind two; a Teacher with channels in front."""
    student, base = (TinyTransformer(seed=seed).double().eval() for seed in (1, 2))
    tokens = TinyTransformer(patch=2, prefix=2, seed=3).double().eval()
    for teacher, layer in ((tokens, "block"), (teacher_of_width(), "conv2")):
        plain = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer=layer)
        hints = dict(grid=(3, 3), prefix_tokens=1, channels_last=True)
        hinted = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer=layer, **hints)
        assert torch.equal(hinted.attribute(inputs()), plain.attribute(inputs()))


class Unfolding(nn.Module):
    """Patches of 4 x 4 pixels to tokens without any 4-D output that would show the grid."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.unfold(x, 4, stride=4).transpose(1, 2))


def test_hints_serve_a_teacher_whose_layout_does_not_tell():
    x = images(N, 8, 12, dtype=torch.float64)
    student, base, teacher = (Unfolding(seed).double() for seed in (1, 2, 3))
    with pytest.raises(ValueError, match="layer 'layer' of teacher_func gives 6 tokens"):
        UniCAM(conv(1), "conv2", conv(2), teacher_func=teacher, teacher_layer="layer").attribute(x)
    found = UniCAM(student, "layer", base, grid=(2, 3), teacher_func=teacher).attribute(x)
    pool = global_average_pool
    own, other, third = (m(x).detach().transpose(1, 2).unflatten(2, (2, 3)) for m in (student, base, teacher))
    assert difference(found, literal.teacher_batch_map(own, pool, pool(other), pool(third))) < 1e-6


class Cube(nn.Module):
    """(N, 6, 6, 6) with channels last behind a layer that does not say so, and no other 4-D output."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(12, 6))
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(2, (6, 2)).unflatten(4, (6, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3) @ self.weight)


@pytest.mark.parametrize("channels_last", [None, False, True])
def test_the_hint_of_channels_last_serves_a_teacher_whose_layout_does_not_tell(channels_last):
    student, base, teacher, pool = conv(1), conv(2), Cube(3).double(), global_average_pool
    # The convolutions are told by the hint itself, which for them goes first: the Student takes it as it is.
    layers = ((student, "conv2"), (base, "conv2"), (teacher, "layer"))
    own, other, third = (activations(model, name, inputs()) for model, name in layers)
    if channels_last:
        own, other, third = (a.permute(0, 3, 1, 2) for a in (own, other, third))
    arguments = dict(teacher_func=teacher, teacher_layer="layer", channels_last=channels_last)
    found = UniCAM(student, "conv2", base, **arguments).attribute(inputs())
    assert difference(found, literal.teacher_batch_map(own, pool, pool(other), pool(third))) < 1e-6


def test_hints_that_do_not_fit_a_teacher_whose_layout_does_not_tell_leave_the_square():
    student, base = (TinyTransformer(seed=seed).double().eval() for seed in (1, 2))
    x = images(N, 12, 12, dtype=torch.float64)
    student_hints = dict(grid=(3, 3), prefix_tokens=1)
    teacher = Unfolding(3).double()
    found = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer="layer", **student_hints).attribute(x)
    own, other = (tokens_of(model, 3, 1)(x) for model in (student, base))
    third = teacher(x).detach().mean(1)
    pool = global_average_pool
    assert difference(found, literal.teacher_batch_map(own, pool, pool(other), third)) < 1e-6


# -------------------------------------------------------------------------------- invariances


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


# ---------------------------------------------------------------------------- nothing to follow


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_without_geometry_warns_and_gives_zeros(mode):
    teacher = teacher_of_width()
    nn.init.zeros_(teacher.conv2.weight)
    unicam = make(teacher_func=teacher)
    population = unicam.reference(references()) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher"):
        both = unicam.attribute_transfer(inputs(), reference=population)
    assert torch.equal(both.distilled, torch.zeros(N, 1, 6, 6))
    assert torch.equal(both.residual, torch.zeros(N, 1, 6, 6))


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_without_geometry_is_warned_of_at_the_call(mode):
    teacher = teacher_of_width()
    nn.init.zeros_(teacher.conv2.weight)
    unicam = make(teacher_func=teacher)
    population = unicam.reference(references()) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher") as record:
        unicam.attribute_transfer(inputs(), reference=population)
    assert {warning.filename for warning in record if "Teacher" in str(warning.message)} == {__file__}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_teacher_that_is_the_base_gives_zeros_and_a_residual_map(scale, mode, dtype):
    """What the Student has beside the Base is orthogonal to the Base: the rest would be rounding errors."""
    student, base, teacher = conv(1).to(dtype), conv(2).to(dtype), conv(2).to(dtype)
    with torch.no_grad():
        teacher.conv2.weight *= scale
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher)
    population = unicam.reference(references().to(dtype)) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher is left"):
        both = unicam.attribute_transfer(inputs().to(dtype), reference=population)
    assert torch.equal(both.distilled, torch.zeros(N, 1, 6, 6, dtype=dtype))
    assert both.residual.isfinite().all() and both.residual.abs().amax() > 0


def test_only_inputs_that_the_teacher_does_not_tell_apart_from_the_population_are_concerned():
    """Of features that are constant but for one input, that input alone can follow the Teacher."""

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer((x.mean((1, 2, 3)) > 10).double()[:, None])

    unicam = make(teacher_func=Bright(), teacher_layer="layer")
    population = unicam.reference(references())
    x = inputs()
    x[2] += 20
    with pytest.warns(UserWarning, match="7 of 7 inputs"):
        # One against the rest is no geometry either: its U-centred matrix is zero.
        assert unicam.attribute(x, reference=population).abs().amax() == 0
    both_kinds = references()
    both_kinds[:2] += 20
    population = unicam.reference(both_kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unicam.attribute(x, reference=population).flatten(1).abs().amax(1).min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_that_is_nearly_the_base_keeps_its_digits(mode):
    student, base, teacher = conv(1), conv(2), conv(2)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 1e-5 * torch.randn_like(parameter)
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher)
    expected = literal_map(
        mode, layer_of(student, "conv2"), global_average_pool, pooled(base, "conv2"), pooled(teacher, "conv2"), inputs()
    )
    assert difference(explain(unicam, mode, inputs()), expected) < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_a_base_without_geometry_takes_nothing_away(mode):
    student, base, teacher = conv(1), conv(2), teacher_of_width()
    nn.init.zeros_(base.conv2.weight)
    found = explain(UniCAM(student, "conv2", base, teacher_func=teacher), mode, inputs())
    another = conv(4)
    nn.init.zeros_(another.conv2.weight)
    assert found.abs().amax() > 0
    torch.testing.assert_close(
        found, explain(UniCAM(student, "conv2", another, teacher_func=teacher), mode, inputs())
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_student_that_is_the_base_warns_and_gives_zeros(mode):
    unicam = make(base_func=conv(1))
    population = unicam.reference(references()) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left"):
        found = unicam.attribute(inputs(), reference=population)
    assert torch.equal(found, torch.zeros(N, 1, 6, 6))


# ------------------------------------------------------------------------------- Captum's tools


@pytest.mark.parametrize("target", [1, labels(3), None])
def test_noise_tunnel_equals_a_loop_over_single_images(target):
    unicam = make()
    population = unicam.reference(references())
    x, samples, deviation = inputs(3), 4, 0.3
    torch.manual_seed(0)
    found = NoiseTunnel(unicam).attribute(
        x, nt_type="smoothgrad", nt_samples=samples, stdevs=deviation, target=target, reference=population
    )
    torch.manual_seed(0)
    noise = torch.normal(0, torch.tensor(deviation).repeat(3 * samples, 3, 12, 12)).reshape(3, samples, 3, 12, 12)
    for i in range(3):
        maps = [unicam.attribute((x[i] + z)[None], reference=population)[0] for z in noise[i]]
        torch.testing.assert_close(found[i], torch.stack(maps).mean(0))


@pytest.mark.parametrize("target", [1, labels(4), None])
def test_sensitivity_max_equals_a_loop_over_single_images(target):
    unicam, samples, radius = make(), 3, 0.05
    population = unicam.reference(references())

    def perturbed(x: Tensor, radius: float = radius) -> Tensor:
        number = (torch.arange(len(x)) % samples + 1).to(x)[:, None, None, None]
        return x + radius * torch.sin(37 * x + number)

    x = inputs(4)
    found = sensitivity_max(
        unicam.attribute,
        x,
        perturb_func=perturbed,
        perturb_radius=radius,
        n_perturb_samples=samples,
        target=target,
        reference=population,
    )
    for i, image in enumerate(x):
        before = unicam.attribute(image[None], reference=population)
        copies = perturbed(image.expand(samples, -1, -1, -1))
        changes = [(unicam.attribute(c[None], reference=population) - before).norm() / before.norm() for c in copies]
        torch.testing.assert_close(found[i], max(changes), rtol=1e-8, atol=0)


def test_infidelity_equals_a_loop_over_single_images():
    student = conv(1)
    unicam = make(forward_func=student)
    population = unicam.reference(references())

    def maps_of(x, y):
        return unicam.attribute(x, y, reference=population)

    assert_infidelity_is_that_of_single_images(student, maps_of, inputs(), labels(N))


# -------------------------------------------------------------------------------- populations


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_population_serves_as_well(copied):
    unicam = make(layer=["conv1", "conv2"])
    population = unicam.reference(references())
    other = copied(population)
    assert repr(population) == repr(other) == "ReferencePopulation(10 inputs with a Teacher, 2 layer(s))"
    for a, b in zip(population.layers, other.layers):
        assert a.teacher.points.data_ptr() != b.teacher.points.data_ptr()
        assert not a.teacher.points.requires_grad
    expected = unicam.attribute(inputs(), reference=population)
    assert all(map(torch.equal, unicam.attribute(inputs(), reference=other), expected))


def watched(*models: nn.Module) -> list[nn.Module]:
    """The models that have run."""
    runs: list[nn.Module] = []
    for model in models:
        model.register_forward_pre_hook(lambda m, i: runs.append(m))
    return runs


@pytest.mark.parametrize(
    ("made_by", "used_by", "message"),
    [
        ({"teacher_func": None}, {}, r"made without a Teacher, but the UniCAM that uses it has one \(teacher_func\)"),
        ({}, {"teacher_func": None}, r"made with a Teacher, but the UniCAM that uses it has none \(teacher_func\)"),
        ({}, {"teacher_func": conv(4, 9)}, "The Teacher's weights are not those the reference population was made with"),
        ({}, {"teacher_layer": "conv3"}, "made with teacher layers=.*conv2.* but this call has .*conv3"),
    ],
    ids=["without", "with", "another", "another layer"],
)
def test_a_population_made_with_another_teacher_is_an_error(made_by, used_by, message):
    population = make(**made_by).reference(references(), labels(M))
    unicam = make(**used_by)
    runs = watched(unicam.forward_func, unicam.base_func)
    with pytest.raises(ValueError, match=message) as error:
        unicam.attribute(inputs(), labels(N), reference=population)
    assert "Make a population with reference()" in str(error.value)
    assert runs == []


def test_a_population_serves_another_unicam_made_alike():
    torch.testing.assert_close(
        make().attribute(inputs(), reference=make().reference(references())), explain(make(), "reference", inputs())
    )


def test_a_population_serves_both_directions():
    unicam = make()
    population, there = unicam.reference(references()), unicam.residual().reference(references())
    residual = unicam.residual().attribute(inputs(), reference=population)
    torch.testing.assert_close(residual, unicam.residual().attribute(inputs(), reference=there))
    torch.testing.assert_close(
        unicam.attribute(inputs(), reference=there), unicam.attribute(inputs(), reference=population)
    )


# -------------------------------------------------------------------------------------- errors


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
        ({"teacher_func": lambda x: x}, ValueError, "teacher_layer cannot be told .* pass teacher_layer as a module"),
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
    with pytest.raises(ValueError, match="4 input.*at least 5 with a Teacher.*reference="):
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
        ([0.5] * N, TypeError, "target must hold class labels"),
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
