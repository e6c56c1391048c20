"""Runs UniCAM on models of text, audio and time series, and makes their table in docs/architectures.md."""

from __future__ import annotations

import warnings
from typing import Iterator, NamedTuple, Optional

import torch
from families import layer_name
from families.sequence_models import FAMILIES, SequenceFamily, build
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

PADDING = 4


class SequenceLook(NamedTuple):
    """What UniCAM made of one family's layer."""

    given: tuple[int, ...]
    """Shape of the layer's first tensor."""
    canonical: Tensor
    """What feature transforms receive, (5, C, ...): of a sequence, and of it with each of its quarters changed."""
    distilled: Tensor
    residual: Tensor
    single: Tensor
    """The map of one input beside a reference population."""
    padded: Optional[Tensor]
    """The distilled maps of the same inputs with padding behind them; None for inputs without a mask."""


class Tokens(nn.Module):
    """A Base model of another family than all Students."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        super().__init__()
        first = next(iter(inputs.values()))
        self.embed = nn.Linear(first[0].numel() // 8, 8) if first.is_floating_point() else nn.Embedding(60, 8)
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, **inputs: Tensor) -> Tensor:
        first = next(iter(inputs.values()))
        tokens = self.embed(first.reshape(len(first), 8, -1) if first.is_floating_point() else first)
        return self.head(torch.tanh(self.layer(tokens)).mean(1))


def look_at(family: SequenceFamily) -> SequenceLook:
    """Batch mode in both directions, with and without padding, and one input beside a reference population."""
    inputs, labels = family.inputs(), torch.tensor([0, 1, 0, 1, 1])
    student = build(family)
    name = layer_name(student, family.layer)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # Hints hold for the Base as well.
        base, base_layer = (build(family, 1), name) if family.hints else (Tokens(inputs).eval(), "layer")
    given: list[tuple[int, ...]] = []
    handle = student.get_submodule(name).register_forward_hook(lambda module, args, out: given.append(_shape(out)))
    received: list[Tensor] = []

    def noted(activations: Tensor, token_mask: Optional[Tensor] = None) -> Tensor:
        received.append(activations.detach().clone())
        return global_average_pool(activations, token_mask)

    unicam = UniCAM(student, name, base, base_layer, feature_transform=noted, **family.hints)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The population is")
        maps = unicam.attribute_transfer(inputs, labels)
        canonical, shape = received[0], given[0]
        population = unicam.reference(inputs, labels)
        single = unicam.attribute({key: value[1:2].roll(3, 1) for key, value in inputs.items()}, 0, reference=population)
        padded = None
        if "attention_mask" in inputs:
            longer = {key: nn.functional.pad(value, (0, PADDING), value=_padding(student, key)) for key, value in inputs.items()}
            padded = unicam.attribute(longer, labels)
    handle.remove()
    return SequenceLook(shape, canonical, maps.distilled, maps.residual, single, padded)


def _padding(student: nn.Module, key: str) -> int:
    config = getattr(student, "config", None)
    return getattr(config, "pad_token_id", 0) if key == "input_ids" else 0


def _shape(output: object) -> tuple[int, ...]:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    values = output.values() if isinstance(output, dict) else output
    assert hasattr(values, "__iter__")
    return next(tuple(value.shape) for value in values if isinstance(value, Tensor))


def centers(canonical: Tensor) -> Tensor:
    """Where the quarters' changes lie on the last axis of the map: centers of gravity, from -1 to 1."""
    changes = (canonical[1:] - canonical[0]).double().square().flatten(1, -2).sum(1)
    return changes / changes.sum(1, keepdim=True) @ torch.linspace(-1, 1, changes.shape[1], dtype=torch.float64)


def layout(look: SequenceLook) -> str:
    """In words what the layer gives, told from shapes alone."""
    n, channels, *positions = look.canonical.shape
    if len(look.given) == 4:
        return "channels last" if look.given[-1] == channels else "channels first"
    if look.given[0] != n:
        return "tokens, time first"
    if look.given[2] != channels:
        return "channels first"
    front = look.given[1] - len(look.canonical[0, 0].flatten())
    return f"tokens, {front} in front" if front else "tokens"


def row(family: SequenceFamily, look: SequenceLook) -> str:
    """The family's line of the table."""
    positions = "×".join(map(str, look.canonical.shape[2:]))
    first = next(iter(family.inputs().values()))
    size = "×".join(map(str, first.shape[1:]))
    unit = "values" if first.is_floating_point() else "ids"
    cells = family.library, family.name, f"`{family.layer}`", layout(look), f"{positions} of {size} {unit}", family.note
    return f"| {' | '.join(cells)} |"


def table() -> Iterator[str]:
    yield "| library | family | layer | what it gives | map | note |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield from (row(family, look_at(family)) for family in FAMILIES)
