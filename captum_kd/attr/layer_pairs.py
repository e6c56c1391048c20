"""Map and feature layers of Student, Base and Teacher. Arguments and errors are those of :class:`captum_kd.UniCAM`."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Union

from torch import nn

from captum_kd._models.layer_names import Layer, LayerLike, LayerPair, counterpart, resolve_layer
from captum_kd._utils.arguments import as_layers

Layers = Union[LayerLike, Sequence[LayerLike]]


def layer_pairs(
    forward_func: Callable[..., Any],
    layer: Layers,
    base_func: Callable[..., Any],
    base_layer: Optional[Layers],
    feature_layer: Optional[Layers],
    base_feature_layer: Optional[Layers],
) -> tuple[tuple[LayerPair, ...], tuple[LayerPair, ...]]:
    """Layers of the Student and of the Base, in the order of ``layer``."""
    layers = as_layers(layer, "layer")
    own: list[LayerPair] = []
    other: list[LayerPair] = []
    for at_map, base_at_map, at_features, base_at_features in zip(
        layers,
        as_layers(base_layer, "base_layer", len(layers)),
        as_layers(feature_layer, "feature_layer", len(layers)),
        as_layers(base_feature_layer, "base_feature_layer", len(layers)),
    ):
        first = resolve_layer(forward_func, at_map, model="forward_func", argument="layer")
        second = _counterpart(first, base_at_map, base_func, "base_func", "base_layer")
        deep, base_deep = first, second
        if at_features is not None:
            deep = resolve_layer(forward_func, at_features, model="forward_func", argument="feature_layer")
        if at_features is not None or base_at_features is not None:
            base_deep = _counterpart(deep, base_at_features, base_func, "base_func", "base_feature_layer")
        own.append(LayerPair(first, deep))
        other.append(LayerPair(second, base_deep))
    return tuple(own), tuple(other)


def teacher_layers(
    teacher_func: Callable[..., Any], teacher_layer: Optional[Layers], student: Sequence[LayerPair]
) -> tuple[LayerPair, ...]:
    """The Teacher's layers, in the Student's order. Both layers of a pair are the same: the Teacher has no map."""
    pairs = []
    for own, at_features in zip(student, as_layers(teacher_layer, "teacher_layer", len(student))):
        layer = _counterpart(own.feature_layer, at_features, teacher_func, "teacher_func", "teacher_layer")
        pairs.append(LayerPair(layer, layer))
    return tuple(pairs)


def check_distinct(*models: Sequence[LayerPair]) -> None:
    """Raises a ValueError if two entries of a list of layers give the same maps; takes the Student's pairs first.

    A map layer may come twice with other feature layers, or with other layers of the Base.
    """
    first_at: dict[tuple[nn.Module, ...], int] = {}
    for place, pairs in enumerate(zip(*models)):
        modules = tuple(layer.module for pair in pairs for layer in pair)
        if modules in first_at:
            raise ValueError(
                f"Entries {first_at[modules]} and {place} of layer are the same, {pairs[0].map_layer} with the same "
                "counterparts and feature layers, and would give the same maps twice; leave one of them out."
            )
        first_at[modules] = place


def _counterpart(
    own: Layer, layer: Optional[LayerLike], forward_func: Callable[..., Any], model: str, argument: str
) -> Layer:
    """The layer of another model: the one given, or the one with the name of the Student's layer."""
    if layer is None:
        return counterpart(own, forward_func, model=model, argument=argument)
    return resolve_layer(forward_func, layer, model=model, argument=argument)
