"""Which layers of Student, Base and Teacher belong together."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Union

from captum_kd._arguments import as_layers
from captum_kd.layers import Layer, LayerLike, counterpart, resolve_layer
from captum_kd.observation import LayerPair

__all__ = ["Layers", "layer_pairs", "teacher_layers"]

Layers = Union[LayerLike, Sequence[LayerLike]]


def layer_pairs(
    forward_func: Callable[..., Any],
    layer: Layers,
    base_func: Callable[..., Any],
    base_layer: Optional[Layers],
    feature_layer: Optional[Layers],
    base_feature_layer: Optional[Layers],
) -> tuple[tuple[LayerPair, ...], tuple[LayerPair, ...]]:
    """Map and feature layers of the Student and of the Base, in the order of ``layer``.

    Arguments and errors are those of :class:`captum_kd.UniCAM`.
    """
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
        second = _beside(first, base_at_map, base_func, "base_func", "base_layer")
        deep, base_deep = first, second
        if at_features is not None:
            deep = resolve_layer(forward_func, at_features, model="forward_func", argument="feature_layer")
        if at_features is not None or base_at_features is not None:
            base_deep = _beside(deep, base_at_features, base_func, "base_func", "base_feature_layer")
        own.append(LayerPair(first, deep))
        other.append(LayerPair(second, base_deep))
    return tuple(own), tuple(other)


def teacher_layers(
    teacher_func: Callable[..., Any], teacher_layer: Optional[Layers], student: Sequence[LayerPair]
) -> tuple[LayerPair, ...]:
    """The Teacher's feature layers, one for each pair of the Student's.

    Arguments and errors are those of :class:`captum_kd.UniCAM`. No map is made of the Teacher: in
    its pairs both layers are the same.
    """
    pairs = []
    for own, at_features in zip(student, as_layers(teacher_layer, "teacher_layer", len(student))):
        layer = _beside(own.feature_layer, at_features, teacher_func, "teacher_func", "teacher_layer")
        pairs.append(LayerPair(layer, layer))
    return tuple(pairs)


def _beside(
    own: Layer, layer: Optional[LayerLike], forward_func: Callable[..., Any], model: str, argument: str
) -> Layer:
    """Another model's layer: the one that was given, or the one named as the Student's."""
    if layer is None:
        return counterpart(own, forward_func, model=model, argument=argument)
    return resolve_layer(forward_func, layer, model=model, argument=argument)
