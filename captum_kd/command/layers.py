"""Layers by name, and the layer to name where the user leaves the choice to the command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Iterator, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.logits import class_scores
from captum_kd._utils.inputs import as_inputs_by_model
from captum_kd.command.errors import CommandError, first_line
from captum_kd.command.last_layers import LAST_LAYERS
from captum_kd.command.specs import LoadedModel

__all__ = ["AUTO", "LayerChoice", "call", "last_layer", "layer_rows", "parse_layer", "resolve_layers"]

AUTO = "auto"
FORM = "LAYER, or [LABEL=]LAYER,MODEL:LAYER,... where models differ"


class LayerChoice(NamedTuple):
    """One entry of --layers.

    Attributes:
        label: of the rows, None for the layer's name.
        layer: of every model without a layer of its own; None if all have one.
        own: {model's name or role: layer}.
    """

    label: Optional[str]
    layer: Optional[str]
    own: Mapping[str, str]


def parse_layer(text: str) -> LayerChoice:
    """Reads ``[LABEL=]LAYER[,MODEL:LAYER...]``.

    Raises:
        ValueError: another form.
    """
    label, is_labeled, rest = text.partition("=")
    if not is_labeled:
        label, rest = "", text
    layer: Optional[str] = None
    own: dict[str, str] = {}
    for part in rest.split(","):
        model, is_own, name = part.partition(":")
        if is_own and model and name and model not in own:
            own[model] = name
        elif not is_own and part and layer is None:
            layer = part
        else:
            raise ValueError(f"{text!r} is no layer; expected {FORM}")
    return LayerChoice(label or None, layer, own)


def resolve_layers(choices: Sequence[LayerChoice], models: Sequence[LoadedModel], inputs: Any) -> dict[str, dict[str, str]]:
    """{label: {model: dotted name}}, with ``auto`` and ``[-1]`` replaced.

    Args:
        choices: what the user asked for.
        models: all models.
        inputs: two inputs or more, for ``auto``.

    Raises:
        CommandError: a model without a layer, unknown models and layers, architectures that the table does not have.
    """
    known = {key for each in models for key in (each.name, each.role)}
    automatic: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for choice in choices:
        unknown = sorted(set(choice.own) - known)
        if unknown:
            raise CommandError(f"--layers: there is no model {unknown[0]!r}; the models are {', '.join(sorted(known))}.")
        names: dict[str, str] = {}
        for model in models:
            role = "teacher" if model.role == "placebo" else model.role
            layer = choice.own.get(model.name, choice.own.get(role, choice.layer))
            if layer is None:
                raise CommandError(f"--layers: {model.role} {model.name!r} has no layer; add {model.name}:LAYER.")
            if layer == AUTO:
                if model.name not in automatic:
                    automatic[model.name] = last_layer(model, inputs)
                layer = automatic[model.name]
            names[model.name] = _dotted(model, layer)
        label = choice.label or (next(iter(names.values())) if len(set(names.values())) == 1 else choice.layer or "")
        label = "last layer" if label == AUTO or not label else label
        if label in found:
            raise CommandError(f"--layers names {label!r} twice.")
        found[label] = names
    return found


def _dotted(model: LoadedModel, layer: str) -> str:
    """A name of named_modules(); ``[-1]`` is the last of a sequence."""
    try:
        name = _without_last(model.module, layer)
        resolve_layer(model.module, name, model=f"{model.role} {model.name!r}", argument="--layers")
    except ValueError as error:
        raise CommandError(f"{error} captum-kd layers {model.spec} lists them.") from None
    return name


def _without_last(module: nn.Module, layer: str) -> str:
    """``blocks[-1]`` of twelve is ``blocks.11``; a ValueError names a part that is not there."""
    name = ""
    for part in re.findall(r"[^.\[\]]+|\[-?\d+\]", layer):
        try:
            children = [each for each, _ in module.get_submodule(name).named_children()]
        except AttributeError as error:
            raise ValueError(f"--layers={layer!r}: {error}.") from None
        if part.startswith("["):
            place = int(part[1:-1])
            if not -len(children) <= place < len(children):
                raise ValueError(f"--layers={layer!r}: {name or 'the model'} has {len(children)} parts.")
            part = children[place]
        name = f"{name}.{part}" if name else part
    return name


def call(model: LoadedModel, inputs: Any) -> Any:
    """The model's output for its own inputs, moved to its device."""
    own = as_inputs_by_model(inputs).of(model.name, "teacher" if model.role == "placebo" else model.role)
    device = next((each.device for each in model.module.parameters()), None)
    given = (own if device is None else own.to(device)).as_given()
    try:
        if isinstance(given, Mapping):
            return model.module(**given)
        return model.module(*(given if isinstance(given, tuple) else (given,)))
    except Exception as error:
        reason = first_line(error)
        shapes = [tuple(value.shape) for value in own if isinstance(value, Tensor)]
        raise CommandError(
            f"{model.role} {model.name} cannot run on inputs of shape {shapes}: {reason[:200]}. Check --image-size and --mean."
        ) from error


def last_layer(model: LoadedModel, inputs: Any) -> str:
    """The layer of the tested table; the block before it if the classifier reads only the class token.

    Raises:
        CommandError: an architecture that the table does not have.
    """
    for name, module in model.module.named_modules():
        layer = _of_table(module)
        if layer is None:
            continue
        try:
            found = _without_last(module, layer)
            module.get_submodule(found)
        except (AttributeError, ValueError):
            continue
        found = f"{name}.{found}" if name else found
        return _before(model.module, found) if _reads_few_tokens(model, found, inputs) else found
    grid = _last_grid(model, inputs)
    hint = f" Its last layer with a grid is {grid!r}: --layers {grid}" if grid else ""
    raise CommandError(
        f"--layers auto does not know the architecture of {model.role} {model.name} ({type(model.module).__name__}).{hint}"
    )


def _of_table(module: nn.Module) -> Optional[str]:
    for kind in type(module).__mro__:
        library, _, rest = kind.__module__.partition(".")
        if library == "transformers":
            family = kind.__name__.partition("For")[0]
        elif library in LAST_LAYERS and rest.startswith("models."):
            family = rest.rpartition(".")[2]
        else:
            continue
        if family in LAST_LAYERS[library]:
            return LAST_LAYERS[library][family]
    return None


def _reads_few_tokens(model: LoadedModel, layer: str, inputs: Any) -> bool:
    """True if the logits depend on at most two tokens (class and distillation token) of a layer that gives (N, T, C)."""
    seen: list[Tensor] = []

    def with_gradient(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or first.dim() != 3:
            return None
        seen.append(first.detach().requires_grad_())
        return (seen[-1], *output[1:]) if isinstance(output, tuple) else seen[-1]

    handle = model.module.get_submodule(layer).register_forward_hook(with_gradient)
    try:
        with torch.enable_grad():
            logits = class_scores(call(model, inputs), None, None, model.name)
            if not seen or seen[-1].shape[1] <= 4 or not logits.requires_grad:
                return False
            weights = torch.linspace(0.5, 1.5, logits.shape[1], device=logits.device)
            (slope,) = torch.autograd.grad((logits * weights).sum(), seen[-1], allow_unused=True)
    except (TypeError, ValueError):  # no logits
        return False
    finally:
        handle.remove()
    return slope is not None and bool(slope.any()) and int(slope.ne(0).any(2).sum(1).max()) <= 2


def _before(model: nn.Module, layer: str) -> str:
    """The block before a layer, or before the last one inside a sequence; the layer itself if there is none."""
    module = model.get_submodule(layer)
    if isinstance(module, nn.Sequential):
        names = [f"{layer}.{name}" for name, _ in module.named_children()]
        return names[-2] if len(names) > 1 else layer
    parent, _, own = layer.rpartition(".")
    container = model.get_submodule(parent)
    siblings = [name for name, _ in container.named_children()]
    place = siblings.index(own)
    # Only in a sequence of equal blocks is the sibling the block before.
    is_block = place > 0 and type(container.get_submodule(siblings[place - 1])) is type(module)
    return f"{parent}.{siblings[place - 1]}" if is_block and parent else layer


class LayerRow(NamedTuple):
    """A layer of a model: its name, its class, and the shapes of what it gives."""

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]


def layer_rows(model: LoadedModel, inputs: Any) -> list[LayerRow]:
    """All layers that a forward pass reaches, in the order in which they end."""
    rows: dict[str, LayerRow] = {}
    handles = []

    def noted(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            rows.pop(name, None)
            rows[name] = LayerRow(name, type(module).__name__, tuple(tuple(each.shape) for each in _tensors(output)))

        return note

    try:
        for name, module in model.module.named_modules():
            if name:
                handles.append(module.register_forward_hook(noted(name)))
        with torch.no_grad():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(rows.values())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, Mapping)):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(each)


def _last_grid(model: LoadedModel, inputs: Any) -> Optional[str]:
    """The last layer with weights that gives (N, C, h, w) with more than one position."""
    # An activation without weights may run at many places of a network.
    names = [
        row.name
        for row in layer_rows(model, inputs)
        if len(row.shapes) == 1 and len(row.shapes[0]) == 4 and min(row.shapes[0][2:]) > 1
        and any(True for _ in model.module.get_submodule(row.name).parameters())
    ]
    return names[-1] if names else None
