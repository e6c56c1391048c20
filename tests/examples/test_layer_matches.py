"""Names of the blocks whose similarity an example shows."""

import torch
from distillation.layers import blocks
from distillation.networks import build


def test_stages_of_one_block_stay_and_others_are_split() -> None:
    assert blocks(build("resnet-s", 3), ["stage1", "stage3"]) == ["stage1", "stage3"]
    with torch.device("meta"):
        deep = build("resnet18", 3)
    assert blocks(deep, ["layer1", "layer4"]) == ["layer1.0", "layer1.1", "layer4.0", "layer4.1"]


def test_layers_in_a_list_bring_the_whole_list() -> None:
    network = torch.nn.Module()
    network.layer = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    assert blocks(network, ["layer.0", "layer.2"]) == ["layer.0", "layer.1", "layer.2"]
