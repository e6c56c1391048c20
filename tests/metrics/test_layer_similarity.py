"""Similarity of all layers of two models, against literal formulas and the report."""

import csv
import io
import json
from typing import Any

import pytest
import torch
from models import ConvNet, TwoInputs, Untouched, activations, images, labels
from reference import layer_similarity as literal
from torch import Tensor, nn

from captum_kd import flatten, global_average_pool
from captum_kd.metrics import (
    Comparisons,
    Compute,
    LayerSimilarity,
    ModelOptions,
    TokenPositions,
    compare_transfer,
    layer_similarity,
)

LAYERS_A, LAYERS_B = ["conv1", "conv2", "fc"], ["conv2", "pool"]
N = 23


class Rows(nn.Module):
    """Features (N, d) as they come, and linear images of them."""

    def __init__(self, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.same = nn.Identity()
        self.mix = nn.Linear(d, d, dtype=dtype)
        self.dead = nn.Linear(d, 2, dtype=dtype)
        nn.init.zeros_(self.dead.weight)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.dead(self.mix(self.same(x)).tanh())


def rows(n: int = N, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarity(*args: Any, **kwargs: Any) -> LayerSimilarity:
    return layer_similarity(*args, **{"show_progress": False, **kwargs})


def nets(dtype: torch.dtype = torch.float64) -> tuple[ConvNet, ConvNet, Tensor]:
    return ConvNet(seed=1).to(dtype).eval(), ConvNet(seed=2).to(dtype).eval(), images(N).to(dtype)


def expected(transform: Any = flatten) -> dict[str, list[list[float]]]:
    a, b, x = nets()
    of_a, of_b = ([transform(activations(model, name, x)) for name in names] for model, names in ((a, LAYERS_A), (b, LAYERS_B)))
    return {name: [[getattr(literal, name)(p, q) for q in of_b] for p in of_a] for name in ("fss", "cka")}


def assert_close(found: LayerSimilarity, matrices: dict[str, list[list[float]]], tolerance: float) -> None:
    assert set(found.measures) == set(matrices)
    for name, matrix in matrices.items():
        for row, other in zip(found.matrices[name], matrix):
            assert row == pytest.approx(other, abs=tolerance, rel=0)


@pytest.mark.parametrize(
    "compute",
    [Compute(), Compute(block_size=5), Compute(block_size=4, memory_limit=2_000), Compute(memory_limit=10_000)],
    ids=["matrices", "blocks", "blocks from files", "files"],
)
def test_equals_the_literal_formulas(compute):
    a, b, x = nets()
    found = similarity(a, b, LAYERS_A, LAYERS_B, x.split(6), compute=compute)
    assert (found.layers_a, found.layers_b, found.n) == (tuple(LAYERS_A), tuple(LAYERS_B), N)
    assert_close(found, expected(), 1e-9)


def test_float32_is_close_to_the_literal_formulas():
    a, b, x = nets(torch.float32)
    assert_close(similarity(a, b, LAYERS_A, LAYERS_B, [x]), expected(), 1e-6)


@pytest.mark.filterwarnings("ignore:Only 23 inputs")
@pytest.mark.parametrize("transform", [flatten, global_average_pool])
def test_fss_is_that_of_the_report(transform):
    a, b, x = nets()
    found = similarity(a, b, ["conv2"], ["conv2"], [(x, labels(N))], feature_transform=transform)
    report = compare_transfer(
        a, b, ["conv2"], [x], comparisons=Comparisons(labels=False), feature_transform=transform, show_progress=False
    )
    (value,) = (row["value"] for row in report.rows if row["score"] == "fss")
    assert found.matrices["fss"] == [[pytest.approx(value, abs=1e-12)]]


def test_cka_is_that_of_scikit_learns_kernels():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, model = rows(), Rows(5)
    found = similarity(model, model, ["same"], ["mix"], [x], measures="cka")
    kernels = [torch.from_numpy(pairwise.linear_kernel(each.detach().numpy())) for each in (x, model.mix(x))]

    def inner(*pair: Tensor) -> float:
        p, q = (literal.u_centered(each - torch.diag(each.diagonal())) for each in pair)
        return float((p * q).sum())

    one, other = kernels
    expected = inner(one, other) / (inner(one, one) * inner(other, other)) ** 0.5
    assert found.matrices == {"cka": [[pytest.approx(expected, abs=1e-12)]]}


def test_cka_is_that_of_a_public_package():
    hsic = pytest.importorskip("cka.hsic").hsic  # the package pytorch-cka
    a, b, x = nets()
    found = similarity(a, b, LAYERS_A, LAYERS_B, [x], measures=["cka"])
    of_a, of_b = ([activations(each, name, x).flatten(1) for name in names] for each, names in ((a, LAYERS_A), (b, LAYERS_B)))
    both, own_a, own_b = hsic(*(torch.stack([p @ p.T for p in features]) for features in (of_a, of_b)))
    assert_close(found, {"cka": (both / (own_a[:, None] * own_b).sqrt()).tolist()}, 1e-9)


def test_shift_scale_and_rotation_change_nothing():
    x = rows()
    rotation = torch.linalg.qr(rows(5, seed=3))[0]
    moved = Rows(5)
    with torch.no_grad():
        moved.mix.weight.copy_(1e-4 * rotation)
        moved.mix.bias.fill_(3.0)
    found = similarity(moved, moved, ["same"], ["mix"], [x])
    assert_close(found, {"fss": [[1.0]], "cka": [[1.0]]}, 1e-9)


def test_independent_features_have_similarities_around_zero():
    values = []
    for seed in range(60):
        x = rows(40, 8, seed)
        model = Halves()
        found = similarity(model, model, ["left"], ["right"], [x])
        values.append([found.matrices[name][0][0] for name in ("fss", "cka")])
    mean, spread = torch.tensor(values).mean(0), torch.tensor(values).std(0) / 60**0.5
    assert bool((mean.abs() < 3.5 * spread).all())


class Halves(nn.Module):
    """Two layers that see different features."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x[:, :4]) + self.right(x[:, 4:])


def test_one_model_given_twice_runs_once_and_no_layer_matches_itself():
    model, x = Rows(5), rows()
    found = similarity(model, model, ["same", "mix"], ["same", "mix"], x.split(10))
    assert model.passes == 3
    assert [row[i] for i, row in enumerate(found.matrices["fss"])] == [pytest.approx(1.0, abs=1e-12)] * 2
    assert found.matrices["fss"][0][1] == found.matrices["fss"][1][0] < 1
    assert [each["match"] for each in found.best_match()] == ["mix", "same", "mix", "same"]
    assert all(each["runner_up"] is None for each in found.best_match())


def test_dead_layers_have_none_and_a_note():
    model, x = Rows(5), rows()
    with pytest.warns(UserWarning, match="No FSS and no CKA for layer 'dead' of model_a"):
        found = similarity(model, Rows(5, seed=1), ["mix", "dead"], ["same", "mix"], [x])
    for matrix in found.matrices.values():
        assert matrix[1] == [None, None] and None not in matrix[0]
    dead = found.best_match()[1]
    assert list(dead.values()) == ["model_a", "dead", None, None, None, None, False]
    assert found.notes[0].startswith("No FSS and no CKA for layer 'dead' of model_a")
    assert "NaN" not in found.to_json() and "nan" not in f"{found}{found.to_csv()}{found.to_markdown()}"


def test_orthogonal_features_have_fss_but_no_linear_kernel():
    """Products of different inputs are 0, whatever the norms: their kernel is a diagonal, which U-centering ignores."""
    x = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    model = Rows(6)
    with pytest.warns(UserWarning, match="No CKA for layer 'same'"):
        found = similarity(model, model, ["same"], ["mix"], [x])
    assert found.matrices["cka"] == [[None]] and found.matrices["fss"][0][0] is not None


def made(matrix: list[list[Any]], **settings: Any) -> LayerSimilarity:
    layers_a, layers_b = tuple(f"a{i}" for i in range(len(matrix))), tuple(f"b{i}" for i in range(len(matrix[0])))
    recorded = {
        "n": 9,
        "is_one_model": False,
        "layers": {"model_a": list(layers_a), "model_b": list(layers_b)},
        "models": {"model_a": "A", "model_b": "B"},
        "feature_transform": "flatten",
    }
    return LayerSimilarity(layers_a, layers_b, {"fss": matrix}, ["A note."], {**recorded, **settings})


def test_best_matches_and_their_runners_up():
    found = made([[0.9, 0.2, 0.89], [0.8, None, -0.1]])
    records = [tuple(each.values()) for each in found.best_match("fss")]
    assert records == [
        ("model_a", "a0", "b0", 0.9, "b2", 0.89, True),
        ("model_a", "a1", "b0", 0.8, "b2", -0.1, False),
        ("model_b", "b0", "a0", 0.9, "a1", 0.8, True),
        ("model_b", "b1", "a0", 0.2, None, None, False),
        ("model_b", "b2", "a0", 0.89, "a1", -0.1, False),
    ]
    with pytest.raises(ValueError, match="measure"):
        found.best_match("cka")


def test_tables_hold_every_value():
    found = made([[0.9, 0.2], [0.8, None]])
    assert list(csv.DictReader(io.StringIO(found.to_csv()))) == [
        {"measure": "fss", "layer_a": "a0", "layer_b": "b0", "value": "0.9"},
        {"measure": "fss", "layer_a": "a0", "layer_b": "b1", "value": "0.2"},
        {"measure": "fss", "layer_a": "a1", "layer_b": "b0", "value": "0.8"},
        {"measure": "fss", "layer_a": "a1", "layer_b": "b1", "value": ""},
    ]
    assert json.loads(found.to_json()) == found.to_dict()
    assert "| a1 | 0.800 | none |" in found.to_markdown()
    text = str(found)
    assert ["a0", "<->", "b0", "0.900", "b1", "0.200"] in [line.split() for line in text.split("\n")]
    assert max(map(len, text.split("\n"))) <= 100
    assert repr(found) == "LayerSimilarity(2 layers of model_a, 2 layers of model_b; fss; 9 inputs)"


def test_files_are_written(tmp_path):
    found = made([[0.9]])
    assert found.to_json(tmp_path / "a.json") == (tmp_path / "a.json").read_text()
    assert found.to_csv(tmp_path / "a.csv") == (tmp_path / "a.csv").read_bytes().decode()


def test_labels_are_not_read():
    a, b, x = nets()
    given = [[x], [(x, labels(N))], [(x, "no labels")], [{"pixel_values": x, "labels": None}], [(x,)], [[x, None]]]
    found = [similarity(a, b, ["conv1"], ["conv2"], data).matrices for data in given]
    assert all(each == found[0] for each in found)


def test_each_model_may_have_its_own_inputs():
    a, b, x = nets()
    found = similarity(a, b, ["conv1"], ["conv1"], [{"student": x, "base": x.flip(3)}], measures=["cka"])
    p, q = activations(a, "conv1", x).flatten(1), activations(b, "conv1", x.flip(3)).flatten(1)
    assert found.matrices["cka"][0][0] == pytest.approx(literal.cka(p, q), abs=1e-12)


def test_layers_may_be_modules_and_have_labels():
    a, b, x = nets()
    found = similarity(a, b, [a.conv1, "conv2"], {"second": b.conv2}, [x])
    assert (found.layers_a, found.layers_b) == (("conv1", "conv2"), ("second",))
    assert found.matrices == similarity(a, b, ["conv1", "conv2"], "conv2", [x]).matrices
    called = similarity(lambda values: a(values), b, {"first": a.conv1}, ["conv2"], [x])
    assert called.matrices["fss"][0] == [pytest.approx(found.matrices["fss"][0][0], abs=1e-12)]


def test_models_of_several_inputs():
    model, other = TwoInputs(1).eval(), TwoInputs(2).eval()
    batch = torch.randn(N, 4), torch.randn(N, 3)
    found = similarity(model, other, ["left"], ["mix"], [batch], unpack=lambda each: (each, None))
    assert found.n == N and found.matrices["fss"][0][0] is not None


def test_models_hooks_and_random_state_are_unchanged():
    a, b, x = nets()
    a.requires_grad_(True)
    state, modes = torch.get_rng_state(), [module.training for module in a.modules()]
    similarity(a, b, ["conv1"], ["conv2"], torch.utils.data.DataLoader(list(x), batch_size=5, shuffle=True))
    assert torch.equal(state, torch.get_rng_state()) and modes == [module.training for module in a.modules()]
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in (*a.modules(), *b.modules()))
    assert all(each.grad is None for each in a.parameters())


def test_models_in_training_mode_cause_a_warning():
    a, b, x = nets()
    b = nn.Sequential(b.conv1, nn.Dropout(0.5)).train()
    with pytest.warns(UserWarning, match="In training mode: model_b"):
        assert similarity(a, b, ["conv1"], ["0"], [x]).settings["training_mode"] == ["model_b"]


@pytest.mark.parametrize(
    "layers_a, layers_b, options, message",
    [
        ([], ["conv1"], {}, "layers_a is empty"),
        (["conv1", "conv1"], ["conv1"], {}, "layers_a lists layer 'conv1' of model_a twice"),
        (["conv1"], ["conv2", "convv1"], {}, r"layers_b\[1\]='convv1' is no layer of model_b"),
        ([ConvNet().conv1], ["conv1"], {}, "no part of model_a"),
        (["conv1"], ["conv1"], {"measures": ("fss", "rbf")}, "measures must be one or both"),
        (["conv1"], ["conv1"], {"measures": ()}, "measures must be one or both"),
        (["conv1"], ["conv1"], {"model_options": ModelOptions(positions=TokenPositions())}, "leave out positions"),
        (["conv1"], ["conv1"], {"compute": Compute(verify=50)}, "verify"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_runs(layers_a, layers_b, options, message):
    with pytest.raises(ValueError, match=message):
        similarity(Untouched(), Untouched(), layers_a, layers_b, [images(N)], **options)


@pytest.mark.parametrize(
    "layers, data, options, message",
    [
        ("conv1", images(N), {}, "data must be a DataLoader"),
        (3, [images(N)], {}, "layers_a must be a list of layers"),
        ([3], [images(N)], {}, r"layers_a\[0\] must be an nn.Module or a dotted name"),
        ({3: "conv1"}, [images(N)], {}, "labels in layers_a must be strings"),
        ("conv1", [images(N)], {"compute": 1}, "compute must be"),
        ("conv1", [images(N)], {"unpack": 1}, "unpack must be callable"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_before_a_model_runs(layers, data, options, message):
    with pytest.raises(TypeError, match=message):
        similarity(Untouched(), Untouched(), layers, ["conv1"], data, **options)


def test_two_layers_without_names_need_labels():
    a, b, x = nets()
    with pytest.raises(ValueError, match="two layers without names that are a Conv2d"):
        similarity(lambda values: a(values), b, [a.conv1, a.conv2], ["conv2"], [x])


def test_data_that_cannot_be_scored():
    a, b, x = nets()
    with pytest.raises(ValueError, match="data yielded no batches"):
        similarity(a, b, ["conv1"], ["conv1"], iter(()))
    with pytest.raises(ValueError, match="3 inputs; similarity needs at least 4"):
        similarity(a, b, ["conv1"], ["conv1"], [x[:3]])
    with pytest.raises(ValueError, match="layer 'conv1' of model_a gives .* inputs differ in size"):
        similarity(a, b, ["conv1"], ["conv1"], [x, x[..., :8]])
    with pytest.raises(ValueError, match="non-finite"):
        similarity(a, b, ["conv1"], ["conv1"], [x.index_fill(0, torch.tensor([1]), torch.inf)])


def test_four_inputs_are_enough():
    a, b, x = nets()
    found = similarity(a, b, ["conv1"], ["conv2"], [x[:4]])
    p, q = activations(a, "conv1", x[:4]).flatten(1), activations(b, "conv2", x[:4]).flatten(1)
    assert found.matrices["fss"][0][0] == pytest.approx(literal.fss(p, q), abs=1e-9)
    assert found.matrices["cka"][0][0] == pytest.approx(literal.cka(p, q), abs=1e-9)
