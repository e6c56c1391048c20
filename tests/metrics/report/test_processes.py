"""A report over shards of the data in several ranks equals the report over all of them in one process."""

from __future__ import annotations

import math
from typing import Any, Iterator, Sequence

import pytest
import torch
from models import ConvNet, images, labels
from population import compare, data, related
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from workers import Workers, of

from captum_kd._distributed import as_process_group
from captum_kd.metrics.report import storage

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

LAYERS = ["conv1", "conv2"]
SIZES = [(17, 16), (9, 11, 13), (0, 20, 13), (33, 0)]

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "inference": dict(confidence=0.9, n_permutations=50, progression=True),
    "blocks": dict(confidence=0.9, n_permutations=20, block_size=5, progression=True),
    "biased": dict(estimator="biased", progression=True),
    "batches": dict(population="batch", confidence=0.9, progression=True),
    "file": dict(memory_limit=20_000, block_size=4, confidence=0.9, n_permutations=20),
    "gradcam": dict(localize="gradcam"),
    "predictions": dict(predictions=True, confidence=0.9, n_permutations=0),
    "classes": dict(by_class=True, by_input=True, predictions=True, confidence=0.9, n_permutations=0),
    "groups": dict(groups_of_inputs=torch.arange(33) % 4, confidence=0.9, n_permutations=0, block_size=5),
    "explanations": dict(explanations="gradcam", confidence=0.9, n_permutations=0),
    "placebos": dict(placebo_teachers={str(seed): related(seed) for seed in range(4, 8)}, confidence=0.9, n_permutations=0),
    "embeddings": dict(class_embeddings=torch.randn(3, 4, generator=torch.Generator().manual_seed(1))),
}


def models(several: bool) -> tuple[Any, Any, nn.Module]:
    if several:
        return (
            {name: related(seed) for seed, name in enumerate("abc")},
            {name: related(10 + seed) for seed, name in enumerate("xyz")},
            related(20),
        )
    return related(1), related(2), related(3)


def batches(first: int, count: int, n: int, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    x, y = data(n)
    part = slice(first, first + count)
    return list(zip(x[part].split(size), y[part].split(size))) if count else []


def report(group: Any, sizes: Sequence[int], settings: dict[str, Any], several: bool = False) -> dict[str, Any]:
    rank = 0 if group is None else as_process_group(group).rank
    n, size = sum(sizes), 8 if settings.get("population") == "batch" else 4
    # In one process the same batches, one process' after the other's.
    parts = [batches(sum(sizes[:each]), sizes[each], n, size) for each in range(len(sizes))]
    own = parts[rank] if group is not None else [batch for part in parts for batch in part]
    student, base, teacher = models(several)
    if group is not None and "groups_of_inputs" in settings:
        settings = {**settings, "groups_of_inputs": settings["groups_of_inputs"].split(list(sizes))[rank]}
    torch.manual_seed(rank)
    found = compare(
        student, base, LAYERS, own, teacher=teacher, process_group=group, **settings
    )
    return found.to_dict()


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for place, (one, two) in enumerate(zip(found, expected)):
            assert_same(one, two, f"{path}[{place}]")
    elif isinstance(expected, float):
        assert isinstance(found, float) and math.isclose(found, expected, abs_tol=1e-6), (path, found, expected)
    else:
        assert found == expected, path


@pytest.mark.parametrize("way", WAYS)
def test_report_equals_that_of_one_process(workers: Workers, way: str) -> None:
    for sizes in SIZES if way in ("inference", "gradcam", "batches") else SIZES[1:3]:
        found = of(workers.run(len(sizes), report, sizes, WAYS[way]))
        expected = report(None, sizes, WAYS[way])
        assert expected["rows"][0]["value"] != 0
        for own in found:
            assert own["settings"].pop("processes") == list(sizes)
        expected["settings"].pop("processes")
        if way == "file":  # a process with half of the data may need no file
            for each in (expected, *found):
                each["settings"]["features"].pop("in_file")
        for own in found:
            assert_same(own, expected)
            assert own == found[0]


def test_seed_control_equals_that_of_one_process(workers: Workers) -> None:
    sizes = (10, 12, 11)
    expected = report(None, sizes, {}, True)
    assert expected["seed_control"]["tests"]
    for own in of(workers.run(3, report, sizes, {}, True)):
        own["settings"]["processes"] = None
        assert_same(own, expected)


def in_files(group: Any, sizes: Sequence[int]) -> tuple[bool, bool]:
    moved: list[bool] = []
    store = storage.FeatureStore
    move = store.move_to_file

    def watch(self: Any) -> None:
        moved.append(True)
        move(self)

    store.move_to_file = watch  # type: ignore[method-assign]
    try:
        found = report(group, sizes, WAYS["file"])
    finally:
        store.move_to_file = move  # type: ignore[method-assign]
    return found["settings"]["features"]["in_file"], bool(moved)


def test_remote_features_are_in_a_file_if_own_ones_are(workers: Workers) -> None:
    assert of(workers.run(2, in_files, (17, 16))) == [(True, True)] * 2


def repeated(group: Any, with_copies: bool) -> list[str]:
    """Inputs 0 and 20 are the same, in two processes."""
    rank = as_process_group(group).rank
    x, y = data(40)
    x[20], y[20] = x[0], y[0]
    if not with_copies:
        x[20] += 1e-7
    part = slice(20 * rank, 20 * rank + 20)
    settings: dict[str, Any] = dict(process_group=group)
    return compare(related(1), related(2), LAYERS, [(x[part], y[part])], **settings).notes


@pytest.mark.parametrize("with_copies", [True, False])
def test_repeated_inputs_are_found_across_ranks(workers: Workers, with_copies: bool) -> None:
    for notes in of(workers.run(2, repeated, with_copies)):
        assert any("2 of 40 inputs are copies" in note for note in notes) is with_copies


def with_sampler(group: Any) -> dict[str, Any]:
    processes = as_process_group(group)
    dataset = TensorDataset(*data(32))
    sampler = DistributedSampler(dataset, processes.size, processes.rank, shuffle=False)
    loader = DataLoader(dataset, 5, sampler=sampler)
    found = compare(related(1), related(2), LAYERS, loader, process_group=group)
    return {"notes": found.notes, "n": found.settings["n"]}


def test_the_report_names_inputs_that_a_distributed_sampler_repeats(workers: Workers) -> None:
    for found in of(workers.run(3, with_sampler)):
        assert found["n"] == 33
        assert any("DistributedSampler gave 1 inputs a second time" in note for note in found["notes"])
        assert any("2 of 33 inputs are copies" in note for note in found["notes"])


def test_the_report_names_a_shard_of_a_sampler_by_itself() -> None:
    dataset = TensorDataset(*data(32))
    loader = DataLoader(dataset, 5, sampler=DistributedSampler(dataset, 2, 1, shuffle=False))
    found = compare(related(1), related(2), LAYERS, loader, show_progress=False)
    assert any("data is one of 2 shards of a DistributedSampler" in note for note in found.notes)


def from_loader(group: Any, known: bool) -> dict[str, Any]:
    """Localized, where the length of the others' data is known, and where it is not."""
    rank = as_process_group(group).rank
    x, y = data(33)
    part = slice(0, 15) if rank == 0 else slice(15, 33)
    loader: Any = DataLoader(TensorDataset(x[part], y[part]), 4)
    found = compare(
        related(1), related(2), LAYERS, loader if known else iter(loader), localize="gradcam", show_progress=False,
        process_group=group,
    )  # fmt: skip
    return found.to_dict()


def test_noise_depends_on_the_place_in_all_data_where_this_is_known(workers: Workers) -> None:
    x, y = data(33)
    alone = compare(related(1), related(2), LAYERS, [(x, y)], localize="gradcam", show_progress=False).to_dict()
    for found in of(workers.run(2, from_loader, True)):
        assert_same(found["rows"], alone["rows"])
    for found in of(workers.run(2, from_loader, False)):
        assert any("have other noise than in one process" in note for note in found["notes"])
        assert found["rows"] != alone["rows"]


class Broken:
    def __iter__(self) -> Iterator[Any]:
        yield data(8)
        raise OSError("no such picture")


def broken(group: Any) -> None:
    own: Any = Broken() if as_process_group(group).rank == 1 else [data(8)]
    compare(related(1), related(2), LAYERS, own, process_group=group)


def test_an_error_in_one_loader_raises_in_every_rank(workers: Workers) -> None:
    found = workers.run(3, broken)
    assert isinstance(found[1], OSError)
    for rank in (0, 2):
        assert isinstance(found[rank], RuntimeError)
        expected = f"Rank 1 failed while reading its data, so rank {rank} of 3 stopped too"
        assert expected in str(found[rank]) and "no such picture" in str(found[rank])
    of(workers.run(3, report, (11, 11, 11), {}))  # the group is as good as before


def no_data(group: Any) -> None:
    compare(related(1), related(2), LAYERS, [], process_group=group)


def few_data(group: Any) -> None:
    own = batches(0, 2, 4)
    compare(related(1), related(2), LAYERS, own, process_group=group)


def other_width(group: Any) -> None:
    side = 12 + 4 * as_process_group(group).rank
    own = [(images(8, side, side), labels(8))]
    compare(related(1), related(2), LAYERS, own, process_group=group)


def wrapped(group: Any) -> None:
    model = nn.parallel.DistributedDataParallel(ConvNet(), process_group=group)
    compare(model, related(2), LAYERS, [data(8)], process_group=group)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (no_data, "data yielded no batches"),
        (few_data, "hold 4 inputs"),
        (other_width, "gives .* features of torch.float32 in rank 0 and .* features of torch.float32 in rank 1"),
        (wrapped, "student is a DistributedDataParallel.*its .module"),
    ],
)
def test_invalid_data_raise_in_every_rank(workers: Workers, call: Any, message: str) -> None:
    for error in workers.run(2, call):
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match=message):
            raise error


def test_another_thing_is_no_group() -> None:
    with pytest.raises(TypeError, match="process_group must be None or a torch.distributed process group"):
        compare(related(1), related(2), LAYERS, [data(8)], process_group="world")
