"""Map and feature layers of Student, Bases and Teacher.

Arguments and errors are those of :class:`captum_kd.UniCAM`.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Union

from torch import nn

from captum_kd._models.layer_names import Layer, LayerLike, LayerPair, counterpart, resolve_layer
from captum_kd._utils.arguments import as_layers

Layers = Union[LayerLike, Sequence[LayerLike]]
BaseLayers = Union[None, Layers, Sequence[Optional[Layers]]]
"""With several Bases, one name for all of them or an entry for each."""


def student_layers(
    forward_func: Callable[..., Any], layer: Layers, feature_layer: Optional[Layers]
) -> tuple[LayerPair, ...]:
    """Layers of the Student, in the order of ``layer``."""
    layers = as_layers(layer, "layer")
    pairs = []
    for at_map, at_features in zip(layers, as_layers(feature_layer, "feature_layer", len(layers))):
        first = resolve_layer(forward_func, at_map, model="forward_func", argument="layer")
        deep = first
        if at_features is not None:
            deep = resolve_layer(forward_func, at_features, model="forward_func", argument="feature_layer")
        pairs.append(LayerPair(first, deep))
    return tuple(pairs)


def base_layers(
    base_func: Callable[..., Any],
    base_layer: Optional[Layers],
    feature_layer: Optional[Layers],
    base_feature_layer: Optional[Layers],
    student: Sequence[LayerPair],
) -> tuple[LayerPair, ...]:
    """Layers of a Base, in the Student's order; ``feature_layer`` is the Student's."""
    pairs = []
    given = (as_layers(base_layer, "base_layer", len(student)), as_layers(feature_layer, "feature_layer", len(student)))
    for own, at_map, own_features, at_features in zip(
        student, *given, as_layers(base_feature_layer, "base_feature_layer", len(student))
    ):
        second = _counterpart(own.map_layer, at_map, base_func, "base_func", "base_layer")
        deep = second
        if own_features is not None or at_features is not None:
            deep = _counterpart(own.feature_layer, at_features, base_func, "base_func", "base_feature_layer")
        pairs.append(LayerPair(second, deep))
    return tuple(pairs)


def of_each_base(layer: Any, bases: int, argument: str, layers: int) -> list[Optional[Layers]]:
    """The argument of each Base: with several Bases, a name or None for all of them, or a sequence with an entry for each.

    Raises:
        ValueError: a sequence of another length, a module for several Bases, or as many different names as there are Bases and
            layers.
    """
    if bases == 1:
        is_nested = isinstance(layer, (list, tuple)) and len(layer) == 1 and isinstance(layer[0], (list, tuple))
        return list(layer) if is_nested else [layer]
    if layer is None or isinstance(layer, str):
        return [layer] * bases
    if isinstance(layer, nn.Module) or len(layer) != bases:
        given = "one module" if isinstance(layer, nn.Module) else f"{len(layer)} entries"
        raise ValueError(
            f"{argument} has {given} for {bases} Bases. With a sequence of Bases, pass one name for all of them, or a sequence "
            "with an entry for each Base."
        )
    if layers == bases and all(isinstance(each, str) for each in layer) and len(set(layer)) > 1:
        raise ValueError(
            f"{argument}={list(layer)} may be one name for each of the {bases} Bases or one for each of the {layers} entries of "
            "layer. Pass a list of names for each Base, [[...], ...]."
        )
    return list(layer)


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
    """Raises a ValueError if two entries of a list of layers give the same maps. The Student's pairs come first.

    A map layer may occur twice with different feature layers, or with different layers of the Base.
    """
    first_at: dict[tuple[nn.Module, ...], int] = {}
    for place, pairs in enumerate(zip(*models)):
        modules = tuple(layer.module for pair in pairs for layer in pair)
        if modules in first_at:
            raise ValueError(
                f"Entries {first_at[modules]} and {place} of layer are the same: {pairs[0].map_layer} with the same "
                "counterparts and feature layers. They would give the same maps; leave one of them out."
            )
        first_at[modules] = place


def _counterpart(
    own: Layer, layer: Optional[LayerLike], forward_func: Callable[..., Any], model: str, argument: str
) -> Layer:
    """The given layer of another model or, if it is None, the layer with the name of the Student's layer."""
    if layer is None:
        return counterpart(own, forward_func, model=model, argument=argument)
    return resolve_layer(forward_func, layer, model=model, argument=argument)
