"""The settings that a reference population shares with the calls that use it."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

from torch import Tensor

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.reachable import modules_of
from captum_kd.attr.fingerprints import digest, digest_of_callable, digest_of_tensors, kept_buffers, own_parameters

__all__ = ["check_made_alike", "made_with"]

_MODELS = {"student": "Student", "base": "Base model", "teacher": "Teacher"}

_OF_MODELS = {
    "weights": "weights",
    "modes": "modules, or their modes (train() or eval()),",
    "buffers": "buffers, such as running statistics,",
}

_WAY_OUT = "Make a population with reference() of the UniCAM that uses it."


def made_with(
    student: FeatureExtractor,
    base: FeatureExtractor,
    teacher: Optional[FeatureExtractor],
    feature_transform: FeatureTransform,
    class_embeddings: Optional[Tensor],
    attribute_to_layer_input: bool,
) -> dict[str, Any]:
    """Settings by name, small and comparable: a population keeps no model and no function."""
    settings: dict[str, Any] = {
        "teacher": teacher is not None,
        "attribute_to_layer_input": attribute_to_layer_input,
        "feature_transform": getattr(feature_transform, "__qualname__", type(feature_transform).__qualname__),
        "feature_transform contents": digest_of_callable(feature_transform),
        # Beside a Teacher the labels play no part.
        "class_embeddings": None if class_embeddings is None or teacher is not None else _table(class_embeddings),
    }
    for role, extractor in (("student", student), ("base", base), ("teacher", teacher)):
        if extractor is None:
            continue
        layers = [pair.feature_layer.module for pair in extractor.pairs]
        # A function may run its layers in ways that do not show: they count in any case.
        runs: list[Callable[..., Any]] = [extractor.forward_func, *layers]
        modules = list(dict.fromkeys([*(module for run in runs for module in modules_of(run)), *layers]))
        settings[f"{role} layers"] = [_named(pair, modules.index(pair.feature_layer.module)) for pair in extractor.pairs]
        settings[f"{role} layout"] = extractor.hints._asdict()
        # The weights tell models apart; the modes come next, for they say which buffers count.
        parameters = [parameter for module in modules for parameter in own_parameters(module)]
        settings[f"{role} weights"] = digest_of_tensors(parameters)
        settings[f"{role} modes"] = "".join("t" if module.training else "e" for module in modules)
        settings[f"{role} buffers"] = digest_of_tensors([b for module in modules for b in kept_buffers(module)])
    return settings


def check_made_alike(population: Mapping[str, Any], call: Mapping[str, Any]) -> None:
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
        if part == "contents":
            raise ValueError(
                f"feature_transform ({call[subject]}) is not the one the reference population was made with: it has "
                f"the same name, but its code or the values it holds differ. {_WAY_OUT}"
            )
        raise ValueError(
            f"The reference population was made with {name}={population.get(name)!r}, but this call has {value!r}. "
            f"{_WAY_OUT}"
        )


def _table(class_embeddings: Tensor) -> str:
    classes, size = class_embeddings.shape
    return f"table of {classes} x {size}, {digest(class_embeddings.numpy().tobytes())}"


def _named(pair: LayerPair, number: int) -> str:
    """The feature layer by its name, or, in a plain function, by its place among the modules."""
    layer = pair.feature_layer
    return str(layer) if layer.name else f"{layer}, number {number} of its modules"
