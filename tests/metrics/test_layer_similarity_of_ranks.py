"""Similarity of layers over shards of the data in several ranks equals that over all of them in one process."""

from __future__ import annotations

from typing import Any, Sequence

import pytest
import torch
from models import ConvNet, images
from workers import Workers, of

from captum_kd._distributed import as_process_group
from captum_kd.metrics import Compute, layer_similarity

pytestmark = pytest.mark.slow

SIZES = [(17, 16), (0, 20)]
WAYS: dict[str, dict[str, Any]] = {"matrices": {}, "blocks": dict(block_size=5), "files": dict(memory_limit=20_000)}


def similarity(group: Any, sizes: Sequence[int], options: dict[str, Any], one_model: bool) -> dict[str, Any]:
    x = images(sum(sizes)).double()
    if group is not None:
        rank = as_process_group(group).rank
        x = x[sum(sizes[:rank]) :][: sizes[rank]]
    a, b = (ConvNet(seed=seed).double().eval() for seed in (1, 2))
    data = list(x.split(6)) if len(x) else []
    compute = Compute(process_group=group, **options)
    found = layer_similarity(
        a, a if one_model else b, ["conv1", "conv2", "fc"], ["conv2", "conv3"], data, compute=compute, show_progress=False
    )
    return found.to_dict()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("one_model", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_that_of_one_process(workers: Workers, sizes: tuple[int, int], way: str, one_model: bool) -> None:
    expected = similarity(None, sizes, {}, one_model)
    found = of(workers.run(2, similarity, sizes, WAYS[way], one_model))
    assert found[0] == found[1] and found[0]["settings"]["processes"] == list(sizes)
    assert found[0]["settings"]["feature_transform"] == "flatten"
    for name, matrix in expected["matrices"].items():
        difference = torch.tensor(found[0]["matrices"][name]) - torch.tensor(matrix)
        assert float(difference.abs().max()) < 1e-9


def with_other_layers(group: Any) -> str:
    model = ConvNet(seed=1).eval()
    layers = ["conv1", "conv2"][as_process_group(group).rank :]
    try:
        layer_similarity(model, model, layers, ["conv3"], [images(9)], compute=Compute(process_group=group), show_progress=False)
    except ValueError as error:
        return str(error)
    return ""


def test_other_layers_in_another_rank_are_an_error_in_all(workers: Workers) -> None:
    for message in of(workers.run(2, with_other_layers)):
        assert message.startswith("layers differs between ranks")
