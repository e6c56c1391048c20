"""What the host asks of a device while maps are made: as much for many inputs as for few.

Each question stops a GPU's queue. Here they are counted on the CPU, where the same operators ask.
"""

import pytest
import torch
from counted_questions import asked
from models import ConvNet, images, labels
from torch import Tensor

from captum_kd import UniCAM
from captum_kd.distance.block_sums import PairSums, tiles


def test_questions_are_counted():
    x = torch.arange(3.0)
    assert asked(lambda: (bool(x.any()), float(x[1]), int(x[2].round()), x.nonzero(), x[x > 1])) == 5
    assert asked(lambda: x * 2) == 0


@pytest.fixture
def unicam() -> UniCAM:
    return UniCAM(ConvNet(width=4, seed=1).eval(), "conv2", ConvNet(width=4, seed=2).eval())


def spread(n: int) -> tuple[Tensor, Tensor]:
    """Inputs so far apart that no pair has to be looked at by itself."""
    return images(n, seed=4), labels(n)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("referenced", [False, True])
def test_neither_inputs_nor_batches_add_questions(unicam, referenced, queued, monkeypatch):
    # The features of a CPU have a shortcut that asks, which a GPU does not take.
    for module in ("_models.features", *(("distance.pairwise", "attr.gradients") if queued else ())):
        monkeypatch.setattr(f"captum_kd.{module}.is_async_device", lambda device: True)
    population = unicam.reference(*spread(40)) if referenced else None

    def explain(n: int, internal_batch_size=None) -> int:
        x, y = spread(n)
        return asked(
            lambda: unicam.attribute_transfer(x, y, reference=population, internal_batch_size=internal_batch_size)
        )

    few = explain(20)
    assert 0 < few < 20
    assert explain(60) == few
    assert explain(60, internal_batch_size=4) == few


def test_each_further_layer_adds_few_questions():
    student, base = ConvNet(width=4, seed=1).eval(), ConvNet(width=4, seed=2).eval()
    x, y = spread(40)
    counts = []
    for layers in (["conv1"], ["conv1", "relu1"], ["conv1", "relu1", "conv2"]):
        counts.append(asked(lambda: UniCAM(student, layers, base).attribute_transfer(x, y)))
    assert max(counts[2] - counts[1], counts[1] - counts[0]) < 25


@pytest.mark.parametrize("by_row", [False, True])
def test_sums_over_blocks_ask_nothing(by_row):
    n, k = 60, 3
    distances = torch.rand(k, n, n, dtype=torch.float64)
    for size in (60, 7):

        def add() -> None:
            sums = PairSums(torch.zeros(k, n, dtype=torch.float64), by_row)
            for rows, columns in tiles(n, size):
                sums.add([each[rows, columns] for each in distances], rows, columns)
            sums.gram(), sums.raw_squares(), sums.u_shifts()

        assert asked(add) == 0
