"""Distances keep their digits whatever precision of products a user's training asked for, and that stays as it was."""

import threading
from typing import Any, Callable, Iterator

import pytest
import torch
from torch import Tensor

from captum_kd.distance import distance_correlation, euclidean_distances
from captum_kd.distance.precision import full_precision
from captum_kd.distance.sources import FeatureDistances, TensorFeatures

CPU = torch.device("cpu")
BACKENDS: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
NEW = hasattr(torch.backends, "fp32_precision")


def settings() -> tuple[Any, ...]:
    if NEW:
        return (torch.backends.fp32_precision, *(backend.matmul.fp32_precision for backend in BACKENDS))  # type: ignore
    return (torch.get_float32_matmul_precision(),)


def set_backends(precision: str) -> None:
    for backend in BACKENDS:
        backend.matmul.fp32_precision = precision


def set_all(precision: str) -> None:
    torch.backends.fp32_precision = precision  # type: ignore[attr-defined]


WAYS: dict[str, Callable[[], None]] = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
}
if NEW:
    WAYS["backend by backend"] = lambda: BACKENDS[1].matmul.__setattr__("fp32_precision", "bf16")
    WAYS["all backends"] = lambda: set_all("bf16")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if NEW:
        set_all("none")
        set_backends("none")


def features(n: int = 100, d: int = 600, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", WAYS)
def test_distances_and_gradients_are_those_without_the_setting(way):
    def computed() -> list[Tensor]:
        x = features().requires_grad_()
        distance_correlation(x, features(seed=1)).backward()
        source = FeatureDistances(TensorFeatures(features()))
        assert x.grad is not None
        return [euclidean_distances(features()), source.block(slice(0, 40), slice(40, 90)), x.grad]

    expected = computed()
    WAYS[way]()
    before = settings()
    for found, known in zip(computed(), expected):
        assert torch.equal(found, known)
    assert settings() == before


@pytest.mark.parametrize("way", WAYS)
def test_the_setting_comes_back_after_an_error_too(way):
    WAYS[way]()
    before = settings()
    with pytest.raises(OSError), full_precision(CPU):
        assert settings() != before
        raise OSError
    assert settings() == before


def test_nothing_is_touched_where_products_are_whole():
    before = settings()
    with full_precision(CPU):
        assert settings() == before


@pytest.mark.skipif(not NEW, reason="older torch has one setting for all backends")
def test_a_setting_for_all_backends_goes_on_to_count_for_products():
    set_all("bf16")
    with full_precision(CPU):
        pass
    set_all("none")
    assert BACKENDS[1].matmul.fp32_precision == "none"


def test_threads_may_overlap():
    torch.set_float32_matmul_precision("medium")
    before, whole, seen = settings(), threading.Barrier(2, timeout=30), []

    def hold(first: bool) -> None:
        with full_precision(CPU):
            whole.wait()
            if first:
                return
            for _ in range(50):  # the other one is gone by now, or soon
                seen.append(settings() != before)

    threads = [threading.Thread(target=hold, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen and all(seen)
    assert settings() == before
