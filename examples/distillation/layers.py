"""Layers of single networks beside those of their Teacher, and the same inputs in several networks."""

from __future__ import annotations

from typing import Mapping, Sequence

from torch import nn

from captum_kd.metrics import InputEmbeddings, LayerSimilarity, input_embeddings, layer_similarity
from distillation.plan import Plan
from distillation.settings import Settings
from distillation.task import Batches, Examples

__all__ = ["blocks", "embeddings", "layer_matches"]

EMBEDDED = 300
"""Inputs in a picture of points; more would hide each other."""


def blocks(network: nn.Module, stages: Sequence[str]) -> list[str]:
    """Dotted names of the blocks of which the stages consist, or that stand in a list with them."""
    found: list[str] = []
    for stage in stages:
        module, parent = network.get_submodule(stage), stage.rpartition(".")[0]
        if isinstance(module, nn.Sequential) and len(module) > 1:
            found += [f"{stage}.{name}" for name, _ in module.named_children()]
        elif isinstance(siblings := network.get_submodule(parent), nn.ModuleList):
            found += [f"{parent}.{name}" for name, _ in siblings.named_children()]
        else:
            found.append(stage)
    return list(dict.fromkeys(found))


def layer_matches(
    networks: Mapping[str, nn.Module], names: Sequence[str], teacher: str, plan: Plan, batches: Batches
) -> dict[str, LayerSimilarity]:
    """Similarity of all blocks of some networks with all blocks of their Teacher, by the network's name."""
    of_teacher = blocks(networks[teacher], plan.guide_layers)
    return {
        name: layer_similarity(
            networks[name], networks[teacher], blocks(networks[name], plan.layers), of_teacher, batches, show_progress=False
        )
        for name in names
    }


def embeddings(
    networks: Mapping[str, nn.Module],
    names: Sequence[str],
    teacher: str,
    plan: Plan,
    examples: Examples,
    settings: Settings,
) -> InputEmbeddings:
    """The first inputs as points by the features of the Teacher and of some networks, at the last compared layer."""
    at = {teacher: plan.guide_layers[-1], **{name: plan.layers[-1] for name in names}}
    found: InputEmbeddings = input_embeddings(
        {name: networks[name] for name in at}, at, Batches(examples[:EMBEDDED], settings.image_size), show_progress=False
    )
    return found
