"""What a reference population has to share with the calls that use it."""

from __future__ import annotations

import hashlib
from typing import Any, Optional, Union

from torch import Tensor, nn

from captum_kd.features import FeatureTransform
from captum_kd.observation import Observer

__all__ = ["made_with"]


def made_with(
    student: Observer,
    base: Observer,
    teacher: Optional[Observer],
    feature_transform: FeatureTransform,
    class_embeddings: Optional[Tensor],
    attribute_to_layer_input: bool,
) -> dict[str, Any]:
    """Settings by name, small and comparable: a population keeps no model."""
    settings: dict[str, Any] = {
        "teacher": teacher is not None,
        "attribute_to_layer_input": attribute_to_layer_input,
        "feature_transform": getattr(feature_transform, "__qualname__", type(feature_transform).__qualname__),
        # Beside a Teacher the labels play no part.
        "class_embeddings": None if class_embeddings is None or teacher is not None else fingerprint(class_embeddings),
    }
    for role, observer in (("student", student), ("base", base), ("teacher", teacher)):
        if observer is None:
            continue
        settings[f"{role} layers"] = [str(pair.feature_layer) for pair in observer.pairs]
        settings[f"{role} layout"] = observer.hints._asdict()
        modules = [pair.feature_layer.module for pair in observer.pairs]
        if isinstance(observer.forward_func, nn.Module):
            modules.append(observer.forward_func)
        settings[f"{role} weights"] = fingerprint(*modules)
    return settings


def fingerprint(*sources: Union[nn.Module, Tensor]) -> str:
    """A digest of a few numbers of each source, the same on every device: were these the weights?"""
    numbers: list[Any] = []
    for source in sources:
        tensors: list[Tensor] = [source] if isinstance(source, Tensor) else _ends(source)
        for tensor in tensors:
            flat = tensor.detach().flatten()
            numbers += [tuple(tensor.shape), *flat[:: max(1, flat.numel() // 8)][:8].tolist()]
    return hashlib.sha1(repr(numbers).encode()).hexdigest()[:12]


def _ends(module: nn.Module) -> list[Tensor]:
    parameters: list[Tensor] = [p for p in module.parameters() if p.is_floating_point()]
    return parameters[:1] + parameters[-1:]
