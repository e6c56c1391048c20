"""What errors advise works when it is followed."""

import copy
from pathlib import Path

import pytest
import torch
from models import ConvNet, Untouched, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool
from captum_kd.embeddings import class_prototypes, classifier_embeddings
from captum_kd.metrics import ModelOptions, compare_transfer, keep_curve, relevance_score

X, Y = images(8), labels(8)
X12, Y12 = images(12), labels(12)

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only")


def compare(student, base, layers="conv2", data=((X12, Y12),), **settings):
    return compare_transfer(student, base, layers, list(data), show_progress=False, **settings)


# ---------------------------------------------------------------------------------- models


WEIGHTS = ConvNet().state_dict()


@pytest.mark.parametrize("models", [[Untouched(), Untouched()], (Untouched(),), nn.ModuleList([Untouched()])])
@pytest.mark.parametrize("role", ["student", "base"])
def test_several_models_are_passed_by_name(role, models):
    arguments = {"student": Untouched(), "base": Untouched(), role: models}
    with pytest.raises(TypeError, match=rf"{role} must be a model or a dict .* \{{'{role} 1': first, '{role} 2': second\}}"):
        compare(**arguments)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("model.pt", r"model\.load_state_dict\(torch\.load\(path\)\)"),
        (Path("model.pt"), r"model\.load_state_dict\(torch\.load\(path\)\)"),
        (WEIGHTS, r"model\.load_state_dict\(weights\)"),
        ({"model": WEIGHTS, "epoch": 3}, r"model\.load_state_dict\(weights\)"),
        (ConvNet, "pass an instance"),
    ],
    ids=["str", "Path", "state dict", "checkpoint", "class"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda value: UniCAM(value, "conv2", Untouched()),
        lambda value: UniCAM(Untouched(), "conv2", value),
        lambda value: UniCAM(Untouched(), "conv2", Untouched(), teacher_func=value),
        lambda value: relevance_score(value, "conv2", X, Y),
        lambda value: keep_curve(value, X, Y, X[:, :1]),
        lambda value: class_prototypes(value, [(X, Y)]),
        lambda value: compare(value, Untouched()),
        lambda value: compare(Untouched(), value),
        lambda value: compare(Untouched(), Untouched(), teacher=value),
    ],
)
def test_files_weights_and_classes_in_a_models_place_are_told_of_loading(call, value, advice):
    with pytest.raises(TypeError, match=advice):
        call(value)


def test_a_path_in_a_functions_place_is_not_told_of_loading():
    with pytest.raises(TypeError, match=r"feature_transform must be callable \(a function\), got str\.$"):
        UniCAM(Untouched(), "conv2", Untouched(), feature_transform="flat")


# ---------------------------------------------------------------------------------- layers


class Recurrent(nn.Module):
    """(N, T, 5) to 3 classes."""

    def __init__(self, batch_first: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.batch_first = batch_first
        self.lstm = nn.LSTM(5, 6, 2, batch_first=batch_first)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.fc(output[:, -1] if self.batch_first else output[-1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers(batch_first):
    student, base = Recurrent(batch_first, 1), Recurrent(batch_first, 2)
    inputs = torch.randn(8, 7, 5, generator=torch.Generator().manual_seed(0))
    steps = UniCAM(student, "lstm", base).attribute(inputs, Y)
    assert steps.shape == (8, 1, 7) and steps.abs().amax() > 0
    found = UniCAM(student, "fc", base).attribute(inputs, Y, attribute_to_layer_input=True)
    assert found.shape == (8, 1) and found.abs().amax() > 0


class Staged(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stage(x).mean((2, 3)))


def test_traced_graphs():
    student, base = Staged(1).eval(), Staged(2).eval()
    expected = UniCAM(student, "stage", base).attribute(X, Y)
    traced = [torch.fx.symbolic_trace(model) for model in (student, base)]
    with pytest.raises(ValueError, match="last one that it runs there is 'stage.1'. Or pass the model that was traced"):
        UniCAM(traced[0], "stage", traced[1]).attribute(X, Y)
    assert torch.equal(UniCAM(traced[0], "stage.1", traced[1]).attribute(X, Y), expected)
    with pytest.raises(ValueError, match="no part of forward_func.*models that were traced"):
        UniCAM(traced[0], student.stage, traced[1], "stage")


def test_exported_graphs():
    student, base = Staged(1).eval(), Staged(2).eval()
    expected = UniCAM(student, "stage", base).attribute(X, Y)
    exported = [torch.export.export(model, (X,)) for model in (student, base)]
    with pytest.raises(ValueError, match=r"pass torch\.export\.unflatten\(program\)"):
        UniCAM(exported[0].module(), "stage", exported[1].module()).attribute(X, Y)
    with pytest.raises(TypeError, match=r"got an ExportedProgram; pass torch\.export\.unflatten\(\)"):
        UniCAM(exported[0], "stage", exported[1])
    unflattened = [torch.export.unflatten(program) for program in exported]
    torch.testing.assert_close(UniCAM(unflattened[0], "stage", unflattened[1]).attribute(X, Y), expected)


# -------------------------------------------------------------------------------- embeddings


class Lora(nn.Module):
    """As peft's: the layer and the two factors of what is added to its weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})


class LoraLinear(nn.Linear):
    """As loralib's: a Linear with the factors as parameters."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.lora_A, self.lora_B = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.ones(4, 2))
        self.merged = False


class Beside(nn.Module):
    """As people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lora = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 4))


@pytest.mark.parametrize(
    "module",
    [
        Lora(nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(3, 8), Lora(nn.Linear(8, 4))),
        LoraLinear(),
        nn.Sequential(nn.Linear(3, 8), LoraLinear()),
        Beside(),
    ],
)
def test_an_adapters_factors_are_no_class_embeddings(module):
    with pytest.raises(ValueError, match=r"adds an adapter's weights .*merge_and_unload\(\).* nn.Linear whose weight is the sum"):
        classifier_embeddings(module)


def test_merged_adapters_give_embeddings():
    merged = LoraLinear()
    merged.merged = True
    assert torch.equal(classifier_embeddings(merged), merged.weight)
    plain = nn.Sequential(Lora(nn.Linear(3, 8)), nn.Linear(8, 4))  # adapters elsewhere do not matter
    assert torch.equal(classifier_embeddings(plain), plain[1].weight)


def test_an_adapter_as_a_parametrisation_is_in_the_weight():
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A = nn.Parameter(torch.ones(4, 8))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.lora_A

    layer = nn.Linear(8, 4)
    expected = layer.weight.detach() + 1
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Adds())
    assert torch.equal(classifier_embeddings(nn.Sequential(layer)), expected)


# ----------------------------------------------------------------------------- inputs, memory


class AnyChannels(nn.Module):
    """Has as many channels as its images have columns."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(x.transpose(1, 3))


TWO_SIZES = [(X12, Y12), (torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)), Y12)]


def test_inputs_of_two_sizes_can_be_pooled():
    pair = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    with pytest.raises(ValueError, match="pass feature_transform=global_average_pool"):
        compare(*pair, data=TWO_SIZES)
    assert compare(*pair, data=TWO_SIZES, feature_transform=global_average_pool).settings["n"] == 24


def test_pooling_is_not_advised_to_those_who_pool():
    with pytest.raises(ValueError, match="inputs differ in size. Resize them, or choose a layer") as error:
        compare(AnyChannels(), AnyChannels(), "turn", TWO_SIZES, feature_transform=global_average_pool,
                model_options=ModelOptions(channels_last=False))
    assert "global_average_pool" not in str(error.value)


# ----------------------------------------------------------------------------------- outputs


class OneLogit(ConvNet):
    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"logits": super().forward(x, scale)[:, :1]}


def test_one_logit_becomes_two():
    model, maps = OneLogit().eval(), X[:, :1]

    def two(output: dict[str, Tensor]) -> Tensor:
        logit = output["logits"]
        return torch.cat([torch.zeros_like(logit), logit], 1)

    with pytest.raises(ValueError, match=r"output_transform return torch\.cat\(\[torch\.zeros_like\(logit\), logit\], 1\)"):
        keep_curve(model, X, Y % 2, maps)
    assert keep_curve(model, X, Y % 2, maps, output_transform=two).correct.shape == (9, 8)


def test_an_output_transform_without_logits_is_named():
    with pytest.raises(TypeError, match=r"output_transform must return the logits \(N, classes\) of forward_func, got dict"):
        keep_curve(OneLogit().eval(), X, Y, X[:, :1], output_transform=lambda output: output)


def test_shares_out_of_order_are_told_the_order():
    with pytest.raises(ValueError, match=r"pass \[0.25, 0.5\]\."):
        keep_curve(Untouched(), X, Y, X[:, :1], shares=torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (X.to_sparse(), lambda x: x.to_dense()),
        (torch.nested.nested_tensor(list(X)), lambda x: x.to_padded_tensor(0.0)),
    ],
    ids=["to_dense()", "to_padded_tensor(0.0)"],
)
def test_how_tensors_become_dense(value, advice, request):
    pair = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    with pytest.raises(TypeError) as error:
        UniCAM(pair[0], "conv2", pair[1]).attribute(value, Y)
    assert request.node.callspec.id in str(error.value)
    assert torch.equal(
        UniCAM(pair[0], "conv2", pair[1]).attribute(advice(value), Y), UniCAM(pair[0], "conv2", pair[1]).attribute(X, Y)
    )


def test_embeddings_at_one_point_are_named():
    unicam = UniCAM(Untouched(), "conv2", Untouched(), class_embeddings=torch.ones(3, 4))
    with pytest.raises(ValueError, match="class_embeddings has equal rows for these classes"):
        unicam.attribute(X, Y)
    with pytest.raises(ValueError) as error:
        copy.copy(unicam).attribute(X, [0] * 8)
    assert "equal rows" not in str(error.value)
