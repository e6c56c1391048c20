"""What counts as a layer's output among the tensors that it returns."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from models import labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._utils.pytree import own_tensors

N, T, C = 6, 7, 8
HIDDEN, OTHER, GRID = torch.randn(N, T, C), torch.randn(N, T, 5), torch.randn(N, C, 4, 4)
WEIGHTS, BIAS, CACHE = torch.randn(N, 2, T, T), torch.randn(1, 2, T, T), torch.randn(N, 2, T, 4)

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def kept(value: Any, module: nn.Module = nn.Identity(), at_input: bool = False) -> list[Tensor]:
    return own_tensors(module, value, at_input)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((HIDDEN, WEIGHTS), [HIDDEN]),
        ((HIDDEN, BIAS), [HIDDEN]),
        ((HIDDEN, (CACHE, CACHE), BIAS), [HIDDEN]),
        ((HIDDEN, OTHER), [HIDDEN, OTHER]),
        ((HIDDEN, GRID), [HIDDEN, GRID]),
        ((GRID, HIDDEN), [GRID, HIDDEN]),
        ((GRID, GRID[:, :3]), [GRID, GRID[:, :3]]),
        ({"last_hidden_state": HIDDEN, "hidden_states": (OTHER, HIDDEN), "attentions": (WEIGHTS,)}, [HIDDEN]),
        ({"last_hidden_state": HIDDEN, "pooler_output": OTHER[:, 0]}, [HIDDEN, OTHER[:, 0]]),
        ({"levels": (GRID, GRID[:, :3])}, [GRID, GRID[:, :3]]),
    ],
)
def test_attention_weights_biases_caches_and_collected_states_are_no_outputs(value, expected):
    found = kept(value)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_recurrent_and_attention_layers_have_one_output():
    for module in (nn.LSTM(C, 4), nn.GRU(C, 4), nn.RNN(C, 4)):
        found = kept(module(HIDDEN), module)
        assert len(found) == 1 and found[0].shape == (N, T, 4)
    attention = nn.MultiheadAttention(C, 2, batch_first=True)
    assert len(kept(attention(HIDDEN, HIDDEN, HIDDEN), attention)) == 1
    assert len(kept((HIDDEN, OTHER, OTHER), attention, at_input=True)) == 3
    assert len(kept((HIDDEN, torch.randn(1, T, 4)), nn.GRU(C, 4), at_input=True)) == 1


def test_tables_among_keyword_arguments_are_no_inputs():
    """As the positions, (1, T, d), that the attention of decoders receives."""
    table = torch.randn(1, T, 4)
    (found,) = kept({"position_embeddings": (table, table), "hidden_states": HIDDEN}, at_input=True)
    assert found is HIDDEN
    assert len(kept({"levels": (GRID, GRID[:, :3])}, at_input=True)) == 2
    assert len(kept({"x": HIDDEN, "levels": (GRID, GRID[:, :3])})) == 3


class Block(nn.Module):
    """Adds a position bias of its first call to its output, as T5's blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bias = nn.Linear(C, C), nn.Parameter(torch.randn(1, 2, 1, 1))

    def forward(self, x: Tensor, bias: Any = None) -> Any:
        bias = self.bias.expand(1, 2, x.shape[1], x.shape[1]) if bias is None else bias
        return x + torch.tanh(self.fc(x)) + bias.mean((0, 1)) @ x, bias


class Encoder(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.blocks, self.out = nn.Embedding(20, C), nn.ModuleList([Block(), Block()]), nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        x, bias = self.embed(ids), None
        for block in self.blocks:
            x, bias = block(x, bias)
            x = self.out(x)
        return x.mean(1)


@pytest.mark.parametrize("n", [1, N])
def test_maps_of_blocks_are_those_of_their_outputs(n):
    """Also of a single input, for which a bias has as many rows as there are inputs."""
    student, base = (Encoder(seed).double().eval() for seed in (1, 2))
    ids, others = torch.randint(0, 20, (2, 32, T))
    maps = []
    for layer in ("blocks.1", "out"):
        unicam = UniCAM(student, layer, base, feature_layer=student.out)
        maps.append(unicam.attribute(ids[:n], labels(n), reference=unicam.reference(others, labels(32))))
    assert maps[0].shape == (n, 1, T) and maps[0].any()
    torch.testing.assert_close(maps[0], maps[1])


def test_a_tensor_that_is_returned_twice_keeps_its_gradients():
    """As hidden_states[-1], which is last_hidden_state."""

    class Twice(Encoder):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            made = self.out(OrderedDict(last_hidden_state=x, hidden_states=(x.exp(), x)))
            return made["hidden_states"][-1].square().mean(1) + made["last_hidden_state"].mean(1)

    class Once(Encoder):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.out(self.embed(ids))
            return x.square().mean(1) + x.mean(1)

    maps = []
    for kind in (Once, Twice):
        models = [nn.Sequential(kind(seed), nn.Linear(C, 3)).double().eval() for seed in (1, 2)]
        for number, model in enumerate(models):
            torch.manual_seed(number)
            nn.init.normal_(model[1].weight)
        unicam = UniCAM(models[0], "0.out", models[1], feature_layer="1")
        maps.append(unicam.attribute(torch.arange(N * T).reshape(N, T) % 20, labels(N)))
    torch.testing.assert_close(maps[0], maps[1])
