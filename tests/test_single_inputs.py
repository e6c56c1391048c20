"""One input alone: tables that all inputs share are (1, h, w, C) too, and must not pass for its own grid."""

import copy
import pickle

import pytest
import torch
from models import ConvNet, TinyTransformer, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.token_layout import Layout, find_layout
from captum_kd.metrics import compare_transfer, feature_similarity_score

N = 6
SIZE = (16, 16)

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only 13 inputs")


class WithTable(TinyTransformer):
    """A class token and 4 x 4 more, with biases from a table of 3 x 3 relative positions that a convolution computes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.table = nn.Conv2d(2, 8, 1)
        rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
        self.register_buffer("places", torch.stack([rows, columns])[None])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], dim=1)
        bias = self.table(self.places).mean((2, 3))[:, None]
        return self.fc(self.norm(self.block(tokens + bias)).mean(1))


class WithCubicTable(nn.Module):
    """(N, 4, 4, 4) with channels first behind a layer that does not say so, and a table with channels last ahead of it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, 4, 4, stride=4)
        self.table = nn.Linear(2, 4)
        self.register_buffer("places", torch.randn(1, 4, 4, 2))
        self.layer = nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.embed(x)
        return self.fc(torch.tanh(self.layer(mixed + self.table(self.places).permute(0, 3, 1, 2))).mean((2, 3)))


def pair(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    return kind(seed=1).double().eval(), kind(seed=2).double().eval()


def inputs(n: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return images(n, *size, seed=seed, dtype=torch.float64)


def layout_in(model: nn.Module, name: str, n: int) -> Layout:
    layer = resolve_layer(model, name, model="forward_func", argument="layer")
    (caught,) = capture_layers(model, [layer], (inputs(n),), trace=True)
    found = caught[layer.module]
    return find_layout(found.tensors[0], module=layer.module, where=str(layer), image_size=SIZE, seen=found.seen)


def test_a_table_passes_for_a_grid_where_nothing_else_is_known():
    assert layout_in(pair(WithTable)[0], "block", 2) == Layout((4, 4), 1)
    assert layout_in(pair(WithTable)[0], "block", 1) == Layout((3, 3), 8)
    assert not layout_in(pair(WithCubicTable)[0], "layer", 2).channels_last
    with pytest.raises(ValueError, match="channels_last"):
        layout_in(pair(WithCubicTable)[0], "layer", 1)


CASES = [(WithTable, "block"), (WithCubicTable, "layer")]


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_a_single_input_has_the_map_that_it_has_in_a_batch(kind, layer):
    student, base = pair(kind)
    unicam = UniCAM(student, layer, base)
    population = unicam.reference(inputs(N), labels(N))
    x, y = inputs(3, seed=5), labels(3)
    raise_together = unicam.attribute_transfer(x, y, reference=population)
    for kept in (population, copy.deepcopy(population), pickle.loads(pickle.dumps(population))):
        alone = unicam.attribute_transfer(x[:1], y[:1], reference=kept)
        for single, of_batch in zip(alone, raise_together):
            torch.testing.assert_close(single, of_batch[:1])
    torch.testing.assert_close(unicam.residual().attribute(x[:1], y[:1], reference=population), raise_together.residual[:1])


def test_it_may_have_another_size_than_the_population():
    student, base = pair(WithTable)
    unicam = UniCAM(student, "block", base)
    population = unicam.reference(inputs(N), labels(N))
    x = inputs(2, (12, 20))
    raise_together = unicam.attribute(x, 1, reference=population)
    assert raise_together.shape == (2, 1, 3, 5)
    torch.testing.assert_close(unicam.attribute(x[:1], 1, reference=population), raise_together[:1])


@pytest.mark.parametrize("layers", [["block", "embed"], "block"])
def test_at_map_layers_ahead_of_the_features_too(layers):
    student, base = pair(WithTable)
    both = dict(layer=layers, feature_layer=["norm"] * 2 if isinstance(layers, list) else "norm")
    unicam = UniCAM(student, base_func=base, **both)
    population = unicam.reference(inputs(N), labels(N))
    x = inputs(2, seed=5)
    raise_together, alone = (unicam.attribute(some, 1, reference=population) for some in (x, x[:1]))
    for of_batch, single in zip(raise_together, alone) if isinstance(layers, list) else [(raise_together, alone)]:
        torch.testing.assert_close(single, of_batch[:1])


def test_the_layers_of_plain_functions_are_remembered_by_their_place():
    student, base = pair(WithTable)
    unicam = UniCAM(lambda x: student(x), student.block, lambda x: base(x), base.block)
    population = unicam.reference(inputs(N), labels(N))
    assert unicam.attribute(inputs(1), 1, reference=population).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("hints", [{}, {"grid": (2, 3)}, {"grid": (4, 4)}])
def test_a_teachers_layers_are_remembered_beside_hints_about_the_other_models(hints):
    """Which for the Teacher are a last resort."""
    student, base = (ConvNet(seed=seed).double().eval() for seed in (1, 2))
    teacher = WithTable(seed=3).double().eval()
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher, teacher_layer="block", **hints)
    population = unicam.reference(inputs(N))
    x = inputs(2, seed=5)
    raise_together = unicam.attribute(x, reference=population)
    torch.testing.assert_close(unicam.attribute(x[:1], reference=population), raise_together[:1])


def test_the_last_input_of_a_batch_in_parts():
    student, base = pair(WithTable)
    x = inputs(N + 1)
    unicam = UniCAM(student, "block", base)
    torch.testing.assert_close(unicam.attribute(x, internal_batch_size=N), unicam.attribute(x))
    deeper = UniCAM(student, "block", base, feature_layer="norm")
    torch.testing.assert_close(deeper.attribute(x, internal_batch_size=N), deeper.attribute(x))
    scores = [feature_similarity_score(student, "block", base, "block", x, max_examples_per_batch=n) for n in (None, N)]
    torch.testing.assert_close(*scores)


def test_the_last_input_of_a_loader():
    student, base = pair(WithTable)
    x, y = inputs(13), labels(13)
    values = [
        [row["value"] for row in compare_transfer(student, base, ["block"], data, show_progress=False).to_dict()["rows"]]
        for data in ([(x, y)], [(x[:12], y[:12]), (x[12:], y[12:])])
    ]
    assert values[0] == pytest.approx(values[1])
