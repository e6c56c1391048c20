"""Layers whose first axis is time: found by one more pass, and treated as their batch-first twins."""

from typing import Any

import pytest
import torch
from models import images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import compare_transfer, feature_similarity_score

N = 16

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only 16 inputs")


class Attention(nn.Module):
    """A vision transformer of 4 x 4 patches; notes how many inputs it was given."""

    def __init__(self, batch_first: bool, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.before = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.inner = nn.Identity()
        self.batch_first = batch_first
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        tokens = self.before(self.embed(x).flatten(2).mT)
        tokens = self.inner(self.block(tokens if self.batch_first else tokens.transpose(0, 1)))
        return tokens.mean(1 if self.batch_first else 0)


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn, self.inner = nn.GRU(5, 8, batch_first=batch_first), nn.LayerNorm(8)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(self.rnn(x if self.batch_first else x.transpose(0, 1))[0])
        return out[:, -1] if self.batch_first else out[-1]


def pair(kind: Any, batch_first: bool) -> list[nn.Module]:
    return [kind(batch_first, seed).eval() for seed in (1, 2)]


CASES = [
    (Attention, "block"), (Attention, "block.self_attn"), (Attention, "block.linear1"), (Attention, "inner"),
    (Recurrent, "rnn"), (Recurrent, "inner"),
]  # fmt: skip
INPUTS = {Attention: images(N, 16, 16), Recurrent: torch.randn(N, N, 5)}


def twins(kind: Any) -> list[list[nn.Module]]:
    """Student and Base, batch first and time first, in double precision."""
    return [[model.double() for model in pair(kind, batch_first)] for batch_first in (True, False)]


@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("n", [N, N - 1, 5])
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_maps_of_time_first_layers_are_those_of_their_batch_first_twins(kind, layer, n, at_input):
    x = INPUTS[kind][:n].double()
    settings = {"attribute_to_layer_input": at_input and layer != "block.self_attn"}  # three inputs
    expected, found = (
        UniCAM(student, layer, base).attribute_transfer(x, labels(n), **settings) for student, base in twins(kind)
    )
    torch.testing.assert_close(found.distilled, expected.distilled)
    torch.testing.assert_close(found.residual, expected.residual)
    assert found.distilled.shape[:2] == (n, 1)
    assert found.distilled.any() or (layer, at_input) == ("rnn", True)  # its input is the model's


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_deeper_features_batches_and_single_inputs_of_time_first_layers(kind, layer):
    x, results = INPUTS[kind].double(), []
    for student, base in twins(kind):
        unicam = UniCAM(student, layer, base, feature_layer="inner")
        population = unicam.reference(torch.cat([x.flip(0) / 2, x.sin()]), labels(2 * N), internal_batch_size=7)
        results.append(
            [
                unicam.attribute(x, labels(N), internal_batch_size=5),
                unicam.attribute(x[:1], 0, reference=population),
                unicam.attribute(x[:3], labels(3), reference=population, internal_batch_size=1),
            ]
        )
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_scores_of_time_first_layers_are_those_of_their_batch_first_twins(kind, layer):
    x, scores = INPUTS[kind].double(), []
    for student, base in twins(kind):
        report = compare_transfer(student, base, [layer], [(x, labels(N))], show_progress=False)
        scores.append([float(feature_similarity_score(student, layer, base, layer, x)), report.rows[0]["value"]])
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


class Text(nn.Module):
    """An encoder of padded sentences."""

    def __init__(self, batch_first: bool, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.block = nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.embed(input_ids) if self.batch_first else self.embed(input_ids.T)
        tokens = self.block(tokens, src_key_padding_mask=attention_mask == 0)
        return tokens[:, 0] if self.batch_first else tokens[0]


@pytest.mark.parametrize("length", [N, 9])
@pytest.mark.parametrize("layer", ["embed", "block"])
def test_masks_of_padded_sentences_fit_time_first_layers(layer, length):
    ids = torch.randint(1, 20, (N, length))
    mask = (torch.arange(length) < torch.arange(N)[:, None] % 4 + length - 3).long()
    maps, scores = [], []
    for padding in (0, 3):
        batch = {name: nn.functional.pad(each, (0, padding)) for name, each in (("input_ids", ids), ("attention_mask", mask))}
        for student, base in twins(Text):
            unicam = UniCAM(student, layer, base)
            for settings in ({}, {"internal_batch_size": 3}):
                maps.append(unicam.attribute(batch, labels(N), **settings)[..., :length])
            scores.append(float(feature_similarity_score(student, layer, base, layer, batch)))
    assert maps[0].shape == (N, 1, length) and maps[0].any() and not maps[0][:, 0][mask == 0].any()
    for found in maps[1:]:
        torch.testing.assert_close(found, maps[0])
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-9)


def test_recurrent_layers_give_their_outputs_without_hidden_states():
    """Three layers and both directions: as many hidden states, (6, N, C), as there are inputs."""

    class Both(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.rnn = nn.LSTM(5, 3, 3, batch_first=True, bidirectional=True)
            self.outputs = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.outputs(self.rnn(x)[0]).mean(1)

    student, base = Both(1).eval(), Both(2).eval()
    x = torch.randn(6, 7, 5)
    found, expected = (UniCAM(student, layer, base).attribute(x, labels(6)) for layer in ("rnn", "outputs"))
    assert found.shape == (6, 1, 7)
    torch.testing.assert_close(found, expected)


def test_hidden_states_in_a_block_of_several_tensors_are_refused():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(5, 8, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.rnn(x)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Wrapped()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x)[0].mean(1)

    with pytest.raises(ValueError, match=r"layer 'block' .*works on 1 rows for 6 inputs.*hidden states \(layers, N, C\)"):
        UniCAM(Around().eval(), "block", Around().eval()).attribute(torch.randn(6, 7, 5), labels(6))


def test_packed_sequences_are_refused():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(5, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.arange(6, 0, -1), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1)

    with pytest.raises(ValueError, match=r"layer 'rnn' .*works on 21 rows for 6 inputs.*behind pad_packed_sequence"):
        UniCAM(Packed(), "rnn", Packed()).attribute(torch.randn(6, 7, 5), labels(6))


@pytest.mark.parametrize("n", [5, 8])
def test_tables_and_folded_steps_are_not_taken_for_time_first_layers(n):
    """A table of positions (1, T, C), and windows (N * w, t, C), where T and t equal N."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner = nn.Identity(), nn.Linear(5, 5)
            self.positions = nn.Parameter(torch.randn(1, 5, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.table(self.positions * 1).repeat(1, 2, 1)
            return self.inner(x.reshape(-1, 5, 5)).reshape(x.shape).mean(1)

    for layer, rows in (("table", 1), ("inner", 2 * n)):
        with pytest.raises(ValueError, match=f"layer '{layer}' .*works on {rows} rows for {n} inputs"):
            UniCAM(Windows().eval(), layer, Windows().eval()).attribute(torch.randn(n, 10, 5), labels(n))


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_batch_first_layers_have_the_map_that_they_have_among_more_inputs(kind, layer):
    student, base = pair(kind, batch_first=True)
    x = INPUTS[kind]
    unicam = UniCAM(student, layer, base)
    population = unicam.reference(torch.cat([x, x.flip(0) / 2]), labels(2 * N))
    expected = unicam.attribute(torch.cat([x, x[:1]]), torch.cat([labels(N), labels(1)]), reference=population)[:N]
    torch.testing.assert_close(unicam.attribute(x, labels(N), reference=population), expected)


def test_the_pass_that_tells_is_made_once_for_inputs_of_a_shape():
    student, base = pair(Attention, batch_first=True)
    unicam = UniCAM(student, "block", base)
    for _ in range(2):
        unicam.attribute(images(N, 16, 16), labels(N))
    assert student.passes == [N, N - 1, N]


def test_layers_ahead_of_the_exchange_of_axes_are_not_refused():
    student, base = pair(Attention, batch_first=False)
    assert UniCAM(student, "before", base).attribute(images(N, 16, 16), labels(N)).shape == (N, 1, 4, 4)


def test_no_pass_is_made_where_the_second_axis_holds_a_convolutions_channels():
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, N, 3), nn.BatchNorm2d(N), nn.ReLU())
            self.passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return self.block(x).mean((2, 3))

    student, base = Convolution(), Convolution()
    UniCAM(student, "block", base).attribute(images(N, 16, 16), labels(N))
    assert student.passes == 1


def test_no_pass_is_made_that_would_change_statistics():
    student, base = pair(Attention, batch_first=True)
    student.statistics = nn.BatchNorm2d(3)
    student.train()
    with pytest.raises(ValueError, match=r"layer 'block' .* 16 x 16 x .* modules in training mode; call eval\(\)"):
        UniCAM(student, "block", base).attribute(images(N, 16, 16), labels(N))
    assert student.passes == [N]


def test_a_pass_that_fails_is_no_answer():
    class Fixed(Attention):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) != N:
                raise RuntimeError("made for 16 inputs")
            return super().forward(x)

    student, base = pair(Fixed, batch_first=True)
    with pytest.raises(ValueError, match="a further pass, over 15 inputs, fails .RuntimeError: made for 16 inputs"):
        UniCAM(student, "block", base).attribute(images(N, 16, 16), labels(N))
