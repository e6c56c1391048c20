"""The models and settings that a reference population was made with, and their comparison with those of a call."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import Any, Callable, Mapping, Optional

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.reachable import modules_of
from captum_kd._utils.checksums import checksum, kept_buffers, own_parameters

_MODELS = {"student": "Student", "base": "Base model", "teacher": "Teacher"}

_OF_MODELS = {
    "weights": "weights",
    "modes": "modules, or their modes (train() or eval()),",
    "buffers": "buffers, such as running statistics,",
}

_WAY_OUT = "Make a population with reference() of the UniCAM that uses it."


def origin_of(
    student: FeatureExtractor,
    base: FeatureExtractor,
    teacher: Optional[FeatureExtractor],
    feature_transform: FeatureTransform,
    class_embeddings: Optional[Tensor],
    attribute_to_layer_input: bool,
) -> dict[str, Any]:
    """Settings by name. They are small and can be compared and pickled: a population keeps no model and no function."""
    settings: dict[str, Any] = {
        "teacher": teacher is not None,
        "attribute_to_layer_input": attribute_to_layer_input,
        "feature_transform": _named_transform(feature_transform),
        # With a Teacher the labels have no effect.
        "class_embeddings": None if class_embeddings is None or teacher is not None else _table(class_embeddings),
    }
    for role, extractor in (("student", student), ("base", base), ("teacher", teacher)):
        if extractor is None:
            continue
        layers = [pair.feature_layer.module for pair in extractor.pairs]
        # A function may run its layers in ways that cannot be seen: they count in any case.
        runs: list[Callable[..., Any]] = [extractor.forward_func, *layers]
        modules = list(dict.fromkeys([*(module for run in runs for module in modules_of(run)), *layers]))
        settings[f"{role} layers"] = [_named(pair, modules.index(pair.feature_layer.module)) for pair in extractor.pairs]
        settings[f"{role} layout"] = extractor.hints._asdict()
        # Weights tell models apart. Modes come next: they decide which buffers count.
        settings[f"{role} weights"] = checksum([parameter for module in modules for parameter in own_parameters(module)])
        settings[f"{role} modes"] = "".join("t" if module.training else "e" for module in modules)
        settings[f"{role} buffers"] = checksum([buffer for module in modules for buffer in kept_buffers(module)])
    return settings


def check_same_origin(population: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    """Compares the settings of a population with those of a call.

    Raises:
        ValueError: naming the first that differs.
    """
    if population.get("teacher") != call["teacher"]:
        had, has = ("with", "none") if population.get("teacher") else ("without", "one")
        raise ValueError(
            f"The reference population was made {had} a Teacher, but the UniCAM that uses it has {has} "
            f"(teacher_func). {_WAY_OUT}"
        )
    for name, value in call.items():
        if population.get(name) == value:
            continue
        subject, _, part = name.partition(" ")
        if part in _OF_MODELS:
            raise ValueError(
                f"The {_MODELS[subject]}'s {_OF_MODELS[part]} are not those the reference population was made with. "
                f"{_WAY_OUT}"
            )
        raise ValueError(
            f"The reference population was made with {name}={population.get(name)!r}, but this call has {value!r}. "
            f"{_WAY_OUT}"
        )


class TransformReference:
    """A weak reference to a feature transform, which pickling drops."""

    def __init__(self, transform: FeatureTransform) -> None:
        self._name = _named_transform(transform)
        self._found: Optional[Callable[[], Any]] = None
        try:
            self._found = weakref.WeakMethod(transform) if isinstance(transform, MethodType) else weakref.ref(transform)
        except TypeError:  # an object with __slots__ and without __weakref__
            pass

    def check(self, transform: FeatureTransform) -> None:
        """Checks that a transform is the same object.

        Raises:
            ValueError: it is another one.
        """
        if self._found is not None and self._found() != transform:
            raise ValueError(
                f"feature_transform ({self._name}) is not the object that the reference population was made with; another "
                f"one of the same name may compute other features. Pass the same object, or make the population anew. {_WAY_OUT}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_found": None}

    def __deepcopy__(self, memo: Any) -> "TransformReference":
        return self


def _named_transform(transform: FeatureTransform) -> str:
    if isinstance(transform, nn.Module):
        tensors = [tensor for module in transform.modules() for tensor in (*own_parameters(module), *kept_buffers(module))]
        printed = torch.tensor(list(repr(transform).encode()), dtype=torch.uint8)
        return f"{type(transform).__qualname__}, {checksum([printed, *tensors])}"
    return str(getattr(transform, "__qualname__", type(transform).__qualname__))


def _table(class_embeddings: Tensor) -> str:
    classes, size = class_embeddings.shape
    return f"table of {classes} x {size}, {checksum([class_embeddings])}"


def _named(pair: LayerPair, number: int) -> str:
    """The feature layer by its name, or, in a plain function, by its place among the modules."""
    layer = pair.feature_layer
    return str(layer) if layer.name else f"{layer}, number {number} of its modules"
