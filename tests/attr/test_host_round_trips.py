"""What the host asks of a device while maps are made: as much for many inputs as for few.

Each question stops a GPU's queue. Here they are counted on the CPU, where the same operators ask.
"""

import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from captum_kd import UniCAM
from captum_kd.distance.sums import PairSums, tiles

ASKING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero, torch.ops.aten.equal)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class Questions(TorchDispatchMode):
    """Counts operators whose result the host waits for, and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_host = function.overloadpacket == torch.ops.aten._to_copy and kwargs.get("device") == torch.device("cpu")
        # Entries that a mask chooses have to be counted first.
        chosen = args[1] if function.overloadpacket in INDEXING else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in chosen)
        self.count += function.overloadpacket in ASKING or to_host or by_mask
        return function(*args, **kwargs)


def asked(call) -> int:
    with Questions() as questions:
        call()
    return questions.count


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


@pytest.mark.parametrize("referenced", [False, True])
def test_neither_inputs_nor_batches_add_questions(unicam, referenced):
    population = unicam.reference(*spread(40)) if referenced else None

    def explain(n: int, internal_batch_size=None) -> int:
        x, y = spread(n)
        return asked(
            lambda: unicam.attribute_transfer(x, y, reference=population, internal_batch_size=internal_batch_size)
        )

    few = explain(32)
    assert 0 < few < 40
    assert explain(96) == few
    assert explain(96, internal_batch_size=4) == few


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
