"""Reference populations of UniCAM, and the settings that a call must share with its population."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import Layouts
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.reachable import modules_of
from captum_kd._utils.inputs import STUDENT_KEY
from captum_kd._utils.checksums import checksum, checksum_of_modules
from captum_kd.attr.layer_reference import LayerReference

STUDENT, TEACHER = "Student", "Teacher"


def base_names(bases: int) -> list[str]:
    return ["Base model"] if bases == 1 else [f"Base model {number + 1}" for number in range(bases)]


def role_of(name: str) -> str:
    """The role of a model, under which a mapping of inputs by model has its inputs."""
    return {STUDENT: STUDENT_KEY, TEACHER: "teacher"}.get(name, "base")


# Settings that an error names without their values, which are checksums.
_MODES = "modules, or their modes (train() or eval()),"
_WEIGHTS = "weights or buffers (running statistics, for example)"

_WAY_OUT = "Make a population with reference() of this UniCAM."


class ReferencePopulation:
    """A fixed population for :meth:`captum_kd.UniCAM.attribute`, made by :meth:`captum_kd.UniCAM.reference`.

    It holds detached features of all models, and the labels or the Teacher's features, but no model. It can be
    reused, copied and pickled. Distilled and residual maps can use the same population.

    A population belongs to the models and settings that it was made with. Other ones are a ValueError: changed weights,
    buffers or modes, other layers, class embeddings or another ``feature_transform``. The transform must be the same
    object; for copies and unpickled populations its name is compared and, if it is a module, its weights. Weights without
    plain dense values (quantized, sparse or distributed) are compared by shape and dtype.

    Attributes:
        layers (tuple of LayerReference): the population at each entry of ``layer``.
        settings (mapping): the settings that calls must share.
        layouts (mapping): for each model, which axes of its layers are positions and channels. This cannot always be
            inferred from a single input.
        feature_transform (callable, optional): that of the UniCAM; None in copies.

    Example::

        >>> unicam = UniCAM(student, "layer4", base)
        >>> population = unicam.reference(images, labels)
        >>> attr = unicam.attribute(image, target=3, reference=population)
    """

    def __init__(
        self,
        layers: tuple[LayerReference, ...],
        settings: Mapping[str, Any],
        layouts: Mapping[str, Layouts],
        feature_transform: FeatureTransform,
    ) -> None:
        self.layers = layers
        self.settings = settings
        self.layouts = layouts
        self.feature_transform: Optional[FeatureTransform] = feature_transform

    def __len__(self) -> int:
        return len(self.layers[0].features[0].points)

    def __getstate__(self) -> dict[str, Any]:
        # Functions often cannot be pickled, and they may hold a model.
        return {**vars(self), "feature_transform": None}

    @property
    def is_labeled(self) -> bool:
        return self.layers[0].labels is not None

    @property
    def has_teacher(self) -> bool:
        return self.layers[0].teacher is not None

    def check(self, settings: Mapping[str, Any], feature_transform: FeatureTransform) -> None:
        """Checks that a call has the settings of the population.

        Raises:
            ValueError: a setting that differs; the message names it.
        """
        for name, value in settings.items():
            made_with = self.settings.get(name)
            if made_with == value:
                continue
            if name.endswith((_MODES, _WEIGHTS)):
                raise ValueError(f"The {name} are not those the reference population was made with. {_WAY_OUT}")
            raise ValueError(
                f"The reference population was made with {name}={made_with!r}, but this call has {value!r}. {_WAY_OUT}"
            )
        if self.feature_transform is not None and self.feature_transform != feature_transform:
            raise ValueError(
                f"feature_transform ({settings['feature_transform']}) is not the object that the reference population was "
                "made with; another function of the same name may compute other features. Pass the same object. Otherwise: "
                f"{_WAY_OUT}"
            )

    def __repr__(self) -> str:
        kind = "labeled inputs" if self.is_labeled else "unlabeled inputs"
        if self.has_teacher:
            kind = "inputs with a Teacher"
        return f"ReferencePopulation({len(self)} {kind}, {len(self.layers)} layer(s))"


def settings_of(
    models: Mapping[str, FeatureExtractor],
    feature_transform: FeatureTransform,
    class_embeddings: Optional[Tensor],
    attribute_to_layer_input: bool,
) -> dict[str, Any]:
    """The settings that a reference population and its calls must share, as small values that can be pickled."""
    has_teacher = TEACHER in models
    settings: dict[str, Any] = {
        "number of Bases": len(models) - 1 - has_teacher,
        "teacher_func": "a Teacher" if has_teacher else None,
        "attribute_to_layer_input": attribute_to_layer_input,
        "feature_transform": _name_of(feature_transform),
        # With a Teacher they have no effect.
        "class_embeddings": None if has_teacher else _table(class_embeddings),
    }
    for name, extractor in models.items():
        layers = [pair.feature_layer.module for pair in extractor.pairs]
        # modules_of may not find all layers that a plain function runs.
        runs: list[Callable[..., Any]] = [extractor.forward_func, *layers]
        found = [module for run in runs for module in modules_of(run)]
        modules = list(dict.fromkeys([*found, *layers]))
        settings[f"{name}'s layers"] = [_named(pair, modules) for pair in extractor.pairs]
        settings[f"{name}'s layout"] = extractor.hints._asdict()
        settings[f"{name}'s {_MODES}"] = "".join("t" if module.training else "e" for module in modules)
        settings[f"{name}'s {_WEIGHTS}"] = checksum_of_modules(modules)
    return settings


def _name_of(transform: FeatureTransform) -> str:
    if isinstance(transform, nn.Module):
        printed = torch.tensor(list(repr(transform).encode()), dtype=torch.uint8)
        return f"{type(transform).__qualname__}, {checksum([printed])}, {checksum_of_modules(transform.modules())}"
    return str(getattr(transform, "__qualname__", type(transform).__qualname__))


def _table(class_embeddings: Optional[Tensor]) -> Optional[str]:
    if class_embeddings is None:
        return None
    classes, size = class_embeddings.shape
    return f"table of {classes} x {size}, {checksum([class_embeddings])}"


def _named(pair: LayerPair, modules: list[nn.Module]) -> str:
    """The name of the feature layer or, in a plain function, its place among the modules."""
    layer = pair.feature_layer
    return str(layer) if layer.name else f"{layer}, number {modules.index(layer.module)} of its modules"
