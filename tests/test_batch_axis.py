"""Layers whose first axis is time, where there are as many time steps as inputs: told by one more pass, and refused."""

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


CASES = [(Attention, "block"), (Attention, "inner"), (Attention, "block.linear1"), (Recurrent, "inner")]
INPUTS = {Attention: images(N, 16, 16), Recurrent: torch.randn(N, N, 5)}


@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_time_first_layers_are_refused_with_as_many_steps_as_inputs(kind, layer, at_input):
    student, base = pair(kind, batch_first=False)
    for n, message in ((N, "works on 16 rows for 15 inputs, and on 16 for 16 by coincidence"), (N - 1, "works on")):
        x = INPUTS[kind][:n]
        with pytest.raises(ValueError, match=f"layer '{layer}' of .*{message}"):
            UniCAM(student, layer, base).attribute(x, labels(n), attribute_to_layer_input=at_input)


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_scores_of_time_first_layers_are_refused_too(kind, layer):
    student, base = pair(kind, batch_first=False)
    x = INPUTS[kind]
    with pytest.raises(ValueError, match="by coincidence"):
        feature_similarity_score(student, layer, base, layer, x)
    with pytest.raises(ValueError, match="by coincidence"):
        compare_transfer(student, base, [layer], [(x, labels(N))], show_progress=False)


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
