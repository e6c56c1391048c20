"""Memory does not grow from call to call, and models go when their user lets go of them."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any, Callable, Iterator

import pytest
import torch
from models import Columns, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import (
    Localization,
    compare_transfer,
    feature_similarity_score,
    keep_curve,
    relevance_score,
    sensitivity_max,
)
from captum_kd.perturb import keep_relevant

N = 8
CALLS_EACH = 200

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


class Tiny(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).tanh().mean((2, 3)))


def setting() -> tuple[Tiny, Tiny, Tensor, Tensor]:
    return Tiny(1).eval(), Tiny(2).eval(), images(N, 6, 6), labels(N)


def reference_mode(student: nn.Module, base: nn.Module, x: Tensor, y: Tensor) -> Any:
    unicam = UniCAM(student, "conv", base, feature_layer="fc")
    return unicam.attribute_transfer(x, y, reference=unicam.reference(x, y), internal_batch_size=5)


def with_a_teacher(student: nn.Module, base: nn.Module, x: Tensor, y: Tensor) -> Any:
    unicam = UniCAM(student, "conv", base, teacher_func=base, teacher_layer="fc")
    return unicam.attribute(x), unicam.attribute(x[:1], reference=unicam.reference(x))


def several_layers(student: nn.Module, base: nn.Module, x: Tensor, y: Tensor) -> Any:
    layers = {"layer": ["conv", "fc"], "feature_layer": ["fc", "fc"]}
    return UniCAM(student, base_func=base, **layers).attribute_transfer(x, y)


def report(student: nn.Module, base: nn.Module, x: Tensor, y: Tensor) -> Any:
    settings: dict[str, Any] = dict(
        localize=Localization("unicam", reference=(x, y)), confidence=0.9, n_permutations=2, show_progress=False
    )
    return compare_transfer(student, base, ["conv"], [(x, y)], **settings)


def failing(student: nn.Module, base: nn.Module, x: Tensor, y: Tensor) -> Any:
    """Errors hold frames, and frames hold tensors, as long as somebody holds the error."""
    try:
        UniCAM(student, "conv", base, feature_layer="fc").attribute(x, torch.zeros(N, dtype=torch.long))
    except ValueError as error:
        return str(error)
    raise AssertionError


def maps(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


CALLS: dict[str, Callable[..., Any]] = {
    "batch mode": lambda s, b, x, y: UniCAM(s, "conv", b).attribute(x, y),
    "reference mode": reference_mode,
    "Teacher": with_a_teacher,
    "several layers": several_layers,
    "errors": failing,
    "similarity": lambda s, b, x, y: feature_similarity_score(s, "conv", b, "conv", x),
    "relevance": lambda s, b, x, y: relevance_score(s, "conv", x, y, given=(b, "conv")),
    "prototypes": lambda s, b, x, y: class_prototypes(s, [(x, y)]),
    "keep_relevant": lambda s, b, x, y: keep_relevant(x, maps(x)),
    "keep curve": lambda s, b, x, y: keep_curve(s, x, y, maps(x), shares=(0.5,)),
    "sensitivity": lambda s, b, x, y: sensitivity_max(UniCAM(s, "conv", b).attribute, x, target=y),
    "report": report,
}


def alive() -> tuple[int, int, int]:
    """Tensors and objects of all kinds that the collector knows, and pieces of memory of Python's own."""
    gc.collect()
    blocks = sys.getallocatedblocks()
    objects = gc.get_objects()
    return sum(issubclass(type(each), Tensor) for each in objects), len(objects), blocks


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Coverage, where it looks on, keeps some objects of every thread that there ever was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("call", CALLS)
def test_memory_does_not_grow_over_calls(call, one_thread):
    run = CALLS[call]
    given = setting()
    run(*given)
    seen = []
    for _ in range(2):  # what is made once and kept, by torch too, is there after the first half
        for _ in range(CALLS_EACH // 2):
            run(*given)
        seen.append(alive())
    tensors, objects, blocks = (after - before for before, after in zip(*seen))
    assert tensors == 0
    assert objects < CALLS_EACH / 4
    # Small caches of Python's and torch's fill up slowly, by a hundred pieces or two, whatever the number of calls.
    assert blocks < 2 * CALLS_EACH


@pytest.mark.parametrize("call", CALLS)
def test_no_call_keeps_a_model(call):
    given = setting()
    result = CALLS[call](*given)
    kept = [weakref.ref(module) for model in given[:2] for module in model.modules()]
    inputs = weakref.ref(given[2])
    del given
    gc.collect()
    assert result is not None and [reference() for reference in kept if reference() is not None] == []
    assert inputs() is None


def test_a_population_is_no_larger_than_features_and_labels():
    x = torch.randn(64, 3000)
    unicam = UniCAM(Columns(0, 5), "layer", Columns(5, 9))
    population = unicam.reference(x, labels(64))
    sizes = [
        value.untyped_storage().nbytes()
        for layer in population.layers
        for side in (*layer.features, layer.labels)
        for value in side
        if isinstance(value, torch.Tensor)
    ]
    assert sum(sizes) < 64 * (9 + 3 + 6) * 8
