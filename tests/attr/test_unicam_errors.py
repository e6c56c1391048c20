"""Bad input: what the error says, and that no model has run for it where that was possible."""

import copy
import re

import pytest
import torch
from models import ConvNet, SeveralOutputs, TinyTransformer, TwoInputs, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM, flatten

N, M = 8, 10

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.fixture
def runs():
    """The names of the models that have run."""
    return []


@pytest.fixture
def pair(runs):
    student, base = ConvNet(seed=1), ConvNet(seed=2)
    student.register_forward_pre_hook(lambda m, i: runs.append("student"))
    base.register_forward_pre_hook(lambda m, i: runs.append("base"))
    return student, base


@pytest.fixture
def unicam(pair):
    return UniCAM(pair[0], "conv2", pair[1])


def says(error: pytest.ExceptionInfo, *parts: str) -> None:
    """The message has all parts, as whole words."""
    assert [part for part in parts if not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", str(error.value))] == []


# -------------------------------------------------------------------------- constructor


@pytest.mark.parametrize(
    ("argument", "position"), [("layer", 0), ("base_layer", 1), ("feature_layer", 2), ("base_feature_layer", 3)]
)
def test_unknown_layer_name(pair, argument, position):
    names = ["conv1", "conv1", "conv3", "conv3"]
    names[position] = "covn2"
    with pytest.raises(ValueError) as error:
        UniCAM(pair[0], names[0], pair[1], names[1], feature_layer=names[2], base_feature_layer=names[3])
    says(error, f"{argument}='covn2'", "ConvNet", "Close matches", "'conv2'")


def test_unknown_layer_name_without_close_matches(pair):
    with pytest.raises(ValueError, match="layer='decoder' is no layer of forward_func") as error:
        UniCAM(pair[0], "decoder", pair[1])
    assert "Close matches" not in str(error.value)


def test_base_without_a_counterpart(pair):
    with pytest.raises(ValueError) as error:
        UniCAM(pair[0], "conv2", TinyTransformer())
    says(error, "base_layer was not given", "no counterpart of layer 'conv2'", "Pass base_layer")


def test_base_without_a_counterpart_of_the_feature_layer(pair):
    with pytest.raises(ValueError) as error:
        UniCAM(pair[0], "conv2", TinyTransformer(), "block", feature_layer="conv3")
    says(error, "base_feature_layer was not given", "'conv3'", "Pass base_feature_layer")


@pytest.mark.parametrize("function", ["student", "base"])
def test_layer_name_of_a_plain_function(pair, function):
    student, base = pair
    with pytest.raises(ValueError, match="plain function") as error:
        if function == "student":
            UniCAM(lambda x: student(x), "conv2", base)
        else:
            UniCAM(student, "conv2", lambda x: base(x), "conv2")
    says(error, "'conv2'", "pass the layer's module itself")


def test_counterpart_of_a_plain_functions_layer(pair):
    student, base = pair
    with pytest.raises(ValueError, match="base_layer cannot be inferred .* pass base_layer as a module"):
        UniCAM(lambda x: student(x), student.conv2, base)


@pytest.mark.parametrize("layer", [3, None, {"conv2"}, nn.Conv2d])
def test_layer_of_another_type(pair, layer):
    with pytest.raises(TypeError, match="^layer must be an nn.Module, a dotted name or a list of them, got"):
        UniCAM(pair[0], layer, pair[1])


def test_list_with_something_else_than_layers(pair):
    with pytest.raises(TypeError, match="^layer must be an nn.Module or a dotted name, got int"):
        UniCAM(pair[0], ["conv2", 3], pair[1])


def test_empty_list_of_layers(pair):
    with pytest.raises(ValueError, match="layer is an empty list; pass at least one"):
        UniCAM(pair[0], [], pair[1])


@pytest.mark.parametrize("argument", ["base_layer", "feature_layer", "base_feature_layer"])
def test_lists_of_different_lengths(pair, argument):
    with pytest.raises(ValueError, match=f"{argument} has 1 entries for 2 layer.* one for each"):
        UniCAM(pair[0], ["conv1", "conv2"], pair[1], **{argument: ["conv3"]})


@pytest.mark.parametrize("argument", ["forward_func", "base_func", "feature_transform"])
def test_models_and_transforms_that_cannot_be_called(pair, argument):
    arguments = dict(forward_func=pair[0], base_func=pair[1], feature_transform=flatten)
    arguments[argument] = "resnet18"
    with pytest.raises(TypeError, match=f"{argument} must be callable .* got str"):
        UniCAM(layer="conv2", **arguments)


@pytest.mark.parametrize(
    ("embeddings", "kind", "message"),
    [
        ([[0.0, 1.0]], TypeError, "got list"),
        (torch.eye(3).long(), TypeError, "got a tensor of torch.int64"),
        (torch.ones(3), ValueError, r"got \(3,\)"),
        (torch.ones(1, 4), ValueError, r"got \(1, 4\)"),
        (torch.ones(3, 0), ValueError, r"got \(3, 0\)"),
        (torch.full((3, 2), torch.nan), ValueError, "non-finite"),
    ],
)
def test_malformed_class_embeddings(pair, embeddings, kind, message):
    with pytest.raises(kind, match=f"class_embeddings .*{message}"):
        UniCAM(pair[0], "conv2", pair[1], class_embeddings=embeddings)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("grid", 4),
        ("grid", (4,)),
        ("grid", (4, 0)),
        ("grid", (4.0, 4)),
        ("prefix_tokens", -1),
        ("prefix_tokens", 1.0),
        ("channels_last", "yes"),
    ],
)
def test_malformed_layout_hints(pair, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* got ") as error:
        UniCAM(pair[0], "conv2", pair[1], **{argument: value})
    says(error, repr(value))


# ------------------------------------------------------------------- inputs and arguments


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        (images(N).tolist(), TypeError, "inputs must be a tensor or a tuple of tensors, got list"),
        ((images(N), 3), TypeError, "inputs must be a tensor or a tuple of tensors, got int"),
        ((), ValueError, "inputs is an empty tuple; pass a tensor"),
        (torch.tensor(1.0), ValueError, r"inputs has shape \(\): the first dimension must hold the examples"),
        (torch.empty(0, 3, 12, 12), ValueError, r"inputs has shape \(0, 3, 12, 12\)"),
        (images(N).to_sparse(), TypeError, "inputs must .* sparse_coo"),
        (torch.quantize_per_tensor(images(N), 0.1, 0, torch.qint8), TypeError, "inputs must .* quantized"),
        (images(N).to("meta"), TypeError, "inputs must .* without values"),
        ((images(N), images(N - 1)), ValueError, r"have \[8, 7\] rows; all must describe the same examples"),
    ],
    ids=["list", "number", "empty tuple", "scalar", "no rows", "sparse", "quantized", "meta", "mismatch"],
)
def test_malformed_inputs(unicam, runs, method, inputs, kind, message):
    with pytest.raises(kind, match=message):
        getattr(unicam, method)(inputs)
    assert runs == []


@pytest.mark.parametrize("n", [1, 3])
def test_too_few_inputs_without_labels(unicam, runs, n):
    with pytest.raises(ValueError) as error:
        unicam.attribute(images(n))
    says(error, f"{n} input(s)", "at least 4 without labels.", "more inputs", "reference=")
    assert runs == []


def test_too_few_inputs_with_labels(unicam, runs):
    """Of four inputs two dimensions are left, and after removal one: the score can only flip its sign."""
    with pytest.raises(ValueError) as error:
        unicam.attribute_transfer(images(4), [0, 0, 1, 1])
    says(error, "4 input(s)", "at least 5 with labels.", "reference=")
    assert runs == []


def test_just_enough_inputs(unicam):
    assert unicam.attribute(images(4)).shape == (4, 1, 6, 6)
    assert unicam.attribute(images(5), [0, 0, 1, 1, 2]).abs().amax() > 0
    population = unicam.reference(images(4, seed=5), [0, 0, 1, 1])
    assert unicam.attribute(images(1), [1], reference=population).abs().amax() > 0


def test_too_few_references(unicam, runs):
    with pytest.raises(ValueError) as error:
        unicam.reference(images(3), [0, 0, 1])
    says(error, "at least 4 inputs, got 3", "64 or more")
    assert runs == []


@pytest.mark.parametrize("method", ["attribute", "reference"])
@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ([0.5] * N, TypeError, r"target must hold integer class labels.*\(torch.as_tensor\(target\) > 0.5\)"),
        (torch.zeros(N), TypeError, r"torch.float32; use target.long\(\)"),
        ("cat", TypeError, "target must hold class labels.*'cat'"),
        ([(0, 1)] * N, TypeError, "tuples that select"),
        ([2**70] * N, ValueError, "target must hold labels that fit into 64 bits"),
        ([0, 1], ValueError, r"target has shape \(2,\) for 8 inputs; pass one label per input, \(8,\)"),
        (torch.zeros(N, 2).long(), ValueError, r"target has shape \(8, 2\) for 8 inputs.*argmax"),
        (torch.zeros(0).long(), ValueError, r"target has shape \(0,\) for 8 inputs"),
    ],
    ids=["floats", "float tensor", "string", "tuples", "too large", "too few", "two dimensions", "none"],
)
def test_malformed_labels(unicam, runs, method, target, kind, message):
    with pytest.raises(kind, match=message):
        getattr(unicam, method)(images(N), target)
    assert runs == []


def test_grad_kwargs_of_another_name(unicam, runs):
    with pytest.raises(ValueError, match="grad_kwargs may hold retain_graph, .*; got 'outputs'"):
        unicam.attribute(images(N), grad_kwargs={"outputs": 1})
    assert runs == []


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
@pytest.mark.parametrize(
    "target",
    [1, [2] * N, list(range(N)), [0] * (N - 1) + [1]],
    ids=["one label", "equal", "distinct", "one against the rest"],
)
def test_labels_without_geometry(unicam, runs, method, target):
    with pytest.raises(ValueError) as error:
        getattr(unicam, method)(images(N), target)
    says(error, "target", "no geometry", "more inputs", "target=None")
    # A population is what reference() makes: it cannot be given one.
    assert ("reference=" in str(error.value)) is (method != "reference")
    assert runs == []


def test_all_distinct_labels_have_geometry_under_embeddings_that_are_not_equidistant(pair):
    unicam = UniCAM(pair[0], "conv2", pair[1], class_embeddings=torch.arange(N)[:, None].float() ** 2)
    assert unicam.attribute(images(N), range(N)).abs().amax() > 0


def test_embeddings_that_coincide_leave_labels_without_geometry(pair, runs):
    unicam = UniCAM(pair[0], "conv2", pair[1], class_embeddings=torch.ones(3, 4))
    with pytest.raises(ValueError, match="no geometry"):
        unicam.attribute(images(N), labels(N))
    assert runs == []


@pytest.mark.parametrize("label", [3, 7])
def test_labels_outside_the_embeddings(pair, runs, label):
    unicam = UniCAM(pair[0], "conv2", pair[1], class_embeddings=torch.eye(3))
    population = unicam.reference(images(M), labels(M))
    runs.clear()
    target = [0, 0, 1, 1, 2, 2, 0, label]
    for call in (
        lambda: unicam.attribute(images(N), target),
        lambda: unicam.attribute(images(1), label, reference=population),
        lambda: unicam.reference(images(N), target),
    ):
        with pytest.raises(ValueError, match=f"label {label}, but class_embeddings has rows for the labels 0 to 2"):
            call()
    assert runs == []


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
@pytest.mark.parametrize("size", [0, -2, 2.5, True, "4"])
def test_malformed_internal_batch_size(unicam, runs, method, size):
    with pytest.raises(ValueError) as error:
        getattr(unicam, method)(images(N), labels(N), internal_batch_size=size)
    says(error, "internal_batch_size", "positive integer", repr(size))
    assert runs == []


@pytest.mark.parametrize("reference", [images(M), "population"])
def test_reference_of_another_type(unicam, runs, reference):
    with pytest.raises(TypeError, match=r"reference must be a ReferencePopulation made by UniCAM.reference\(\), got"):
        unicam.attribute(images(1), 1, reference=reference)
    assert runs == []


# ------------------------------------------------------------------- while the models run


class Unreached(nn.Module):
    """A model with a layer that it does not use and layers that give no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ConvNet(seed=3)
        self.unused = nn.Linear(2, 2)
        self.integers = nn.Identity()
        self.words = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.integers(torch.arange(len(x)))
        self.words("no tensor")
        return self.net(x)


@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("features", [None, "net.conv3"])
def test_layer_never_reached(pair, at_input, features):
    unicam = UniCAM(Unreached(), "unused", pair[1], "conv2", feature_layer=features, base_feature_layer="conv2")
    with pytest.raises(ValueError, match="never reached layer 'unused' of forward_func; choose a layer"):
        unicam.attribute(images(N), labels(N), attribute_to_layer_input=at_input)


def test_feature_layer_never_reached(pair):
    unicam = UniCAM(Unreached(), "net.conv1", pair[1], "conv1", feature_layer="unused", base_feature_layer="conv2")
    with pytest.raises(ValueError, match="never reached layer 'unused' of forward_func"):
        unicam.attribute(images(N), labels(N))


def test_layer_of_the_base_never_reached(pair):
    with pytest.raises(ValueError, match="never reached layer 'unused' of base_func"):
        UniCAM(pair[0], "conv2", Unreached(), "unused").attribute(images(N), labels(N))


@pytest.mark.parametrize(
    ("argument", "model"),
    [("layer", 0), ("base_layer", 1), ("feature_layer", 0), ("base_feature_layer", 1), ("teacher_layer", 0)],
)
def test_module_that_is_no_part_of_its_model(pair, argument, model):
    arguments = {"layer": "conv2", "teacher_func": pair[0], argument: copy.deepcopy(pair[model]).conv2}
    with pytest.raises(ValueError, match=rf"^{argument} is a Conv2d that is no part of .* \(ConvNet\)"):
        UniCAM(pair[0], base_func=pair[1], **arguments)


@pytest.mark.parametrize("features", [None, "net.conv3"])
@pytest.mark.parametrize(("at_input", "side"), [(False, "returned"), (True, "received")])
@pytest.mark.parametrize("layer", ["integers", "words"])
def test_layer_without_floating_point_tensors(pair, layer, at_input, side, features):
    unicam = UniCAM(Unreached(), layer, pair[1], "conv2", feature_layer=features, base_feature_layer="conv2")
    with pytest.raises(ValueError, match=f"layer '{layer}' of forward_func {side} no floating point tensor"):
        unicam.attribute(images(N), labels(N), attribute_to_layer_input=at_input)


def test_layer_whose_first_dimension_is_not_the_batch(pair):
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.window = nn.Linear(36, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.window(x.reshape(-1, 36)).reshape(len(x), -1)

    with pytest.raises(ValueError) as error:
        UniCAM(Windows(), "window", pair[1], "conv2").attribute(images(N), labels(N))
    says(error, "layer 'window' of forward_func", "96 rows for 8 inputs", "first dimension is the batch")


@pytest.mark.parametrize("mode", ["batch", "reference population", "reference mode"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("broken", "argument"), [(0, "forward_func"), (1, "base_func")])
def test_non_finite_features(pair, broken, argument, value, mode):
    unicam = UniCAM(pair[0], "conv1", pair[1], feature_layer="conv2")
    population = unicam.reference(images(M), labels(M))
    pair[broken].conv2.register_forward_hook(lambda m, i, o: o * value)
    with pytest.raises(ValueError) as error:
        if mode == "reference population":
            unicam.reference(images(M), labels(M))
        else:
            unicam.attribute(images(N), labels(N), reference=population if mode == "reference mode" else None)
    says(error, f"layer 'conv2' of {argument}", "non-finite features", "check the model's weights")


@pytest.mark.parametrize("internal_batch_size", [None, 3])
def test_features_that_do_not_depend_on_the_layer(pair, internal_batch_size):
    unicam = UniCAM(pair[0], "conv3", pair[1], feature_layer="conv1")
    with pytest.raises(ValueError) as error:
        unicam.attribute(images(N), labels(N), internal_batch_size=internal_batch_size)
    says(error, "'conv1'", "do not depend on layer 'conv3' of forward_func", "feature_layer must come after layer")


@pytest.mark.parametrize(
    ("transform", "shown"),
    [
        (lambda a: a, r"\(8, 6, 6, 6\)"),
        (lambda a: a.mean((1, 2, 3)), r"\(8,\)"),
        (lambda a: a.flatten(1).T, r"\(216, 8\)"),
        (lambda a: a.flatten(1).tolist(), "list"),
        (lambda a: a.flatten(1)[:, :0], r"\(8, 0\)"),
    ],
)
def test_transform_of_another_shape(pair, transform, shown):
    unicam = UniCAM(pair[0], "conv2", pair[1], feature_transform=transform)
    with pytest.raises(ValueError, match=rf"feature_transform .* layer 'conv2' .* \(8, d\), got {shown}; d must be at least 1"):
        unicam.attribute(images(N), labels(N))


def test_transform_that_gradients_cannot_follow(pair):
    unicam = UniCAM(pair[0], "conv2", pair[1], feature_transform=lambda a: flatten(a).detach())
    with pytest.raises(ValueError, match="feature_transform must be differentiable"):
        unicam.attribute(images(N), labels(N))


def test_errors_of_the_model_pass_unchanged():
    student, base = TwoInputs(seed=1), TwoInputs(seed=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'right'"):
        UniCAM(student, "mix", base).attribute(torch.randn(N, 4), labels(N))


class OfTransform(nn.Module):
    """Runs a model inside a transform of torch.func."""

    def __init__(self, model: nn.Module, run) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.model, x)


@pytest.mark.parametrize("features", [None, "model.conv3"])
@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: torch.vmap(lambda one: model(one[None])[0])(x),
        lambda model, x: torch.func.grad(lambda each: model(each).sum())(x),
    ],
    ids=["vmap", "grad"],
)
def test_layers_inside_a_transform_of_torch_func(pair, run, features):
    student, base = (OfTransform(model, run) for model in pair)
    with pytest.raises(TypeError, match="The output of layer .* of forward_func must be .* torch.func"):
        UniCAM(student, "model.conv2", base, feature_layer=features).attribute(images(N), labels(N))


def test_calls_inside_a_transform_of_torch_func(unicam, runs):
    with pytest.raises(TypeError, match="inputs must be .* torch.func .* outside"):
        torch.vmap(lambda x: unicam.attribute(x, labels(N)))(torch.stack([images(N), images(N)]))
    with pytest.raises(TypeError, match="inputs must be .* torch.func .* outside"):
        torch.func.grad(lambda x: unicam.attribute(x, labels(N)).sum())(images(N))
    assert runs == []


def test_layers_in_torchscript(pair):
    def convolutions() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    scripted, traced = torch.jit.script(convolutions()), torch.jit.trace(ConvNet(seed=1), images(N))
    for model, layer in ((scripted, "0"), (traced, "conv2"), (lambda x: traced(x), traced.conv2)):
        with pytest.raises(ValueError, match="of forward_func is a TorchScript module.* Pass the model that was"):
            UniCAM(model, layer, convolutions(), "0")
    with pytest.raises(ValueError, match="of base_func is a TorchScript module.* Pass the model that was"):
        UniCAM(pair[0], "conv2", traced)


def test_graphs_of_operations():
    student, base = (torch.export.export(ConvNet(seed=seed), (images(N),)) for seed in (1, 2))
    with pytest.raises(ValueError, match="never reached layer 'conv2'.* torch.export.unflatten"):
        UniCAM(student.module(), "conv2", base.module()).attribute(images(N), labels(N))
    found = UniCAM(torch.export.unflatten(student), "conv2", torch.export.unflatten(base))
    expected = UniCAM(ConvNet(seed=1), "conv2", ConvNet(seed=2)).attribute(images(N), labels(N))
    torch.testing.assert_close(found.attribute(images(N), labels(N)), expected)


def test_outputs_in_a_dict_are_no_error():
    """Captum answers with an AttributeError."""
    student, base = SeveralOutputs("dict", seed=1), SeveralOutputs("dict", seed=2)
    assert len(UniCAM(student, "split", base).attribute(images(N), labels(N))) == 2


# -------------------------------------------------------------------------- nothing left


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("mode", ["batch", "reference"])
def test_features_that_the_base_has_too_warn_and_give_zeros(labeled, mode):
    student, base = ConvNet(seed=1), ConvNet(seed=1)
    with torch.no_grad():
        base.conv2.weight *= 3  # the same geometry, scaled
        base.conv2.bias.copy_(base.conv2.bias * 3 + 1)
    unicam = UniCAM(student, "conv2", base)
    y = labels(N) if labeled else None
    population = unicam.reference(images(M, seed=5), labels(M) if labeled else None) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left"):
        found = unicam.attribute(images(N), y, reference=population)
    assert torch.equal(found, torch.zeros(N, 1, 6, 6))


@pytest.mark.parametrize("mode", ["batch", "reference"])
def test_constant_features_warn_and_give_zeros(pair, mode):
    student, base = pair
    torch.nn.init.zeros_(student.conv2.weight)
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(images(M, seed=5), labels(M)) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left"):
        found = unicam.attribute(images(N), labels(N), reference=population)
    assert torch.equal(found, torch.zeros(N, 1, 6, 6))


@pytest.mark.parametrize("mode", ["batch", "reference"])
def test_a_base_with_constant_features_takes_nothing_away(pair, mode):
    student, base = pair
    other = ConvNet(seed=7)
    for model, bias in ((base, 0.0), (other, 1.0)):
        nn.init.zeros_(model.conv2.weight)
        nn.init.constant_(model.conv2.bias, bias)
    maps = []
    for constant in (base, other):
        unicam = UniCAM(student, "conv2", constant)
        population = unicam.reference(images(M, seed=5), labels(M)) if mode == "reference" else None
        maps.append(unicam.attribute(images(N), labels(N), reference=population))
    assert maps[0].abs().amax() > 0
    torch.testing.assert_close(maps[0], maps[1])
