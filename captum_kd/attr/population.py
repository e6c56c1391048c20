"""Reference populations of UniCAM, and the check that a call fits the population that it uses."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import Layouts
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.reachable import modules_of
from captum_kd._utils.arguments import check_callable
from captum_kd._utils.checksums import checksum, kept_buffers, own_parameters
from captum_kd._utils.validation import check_mapping, short_repr
from captum_kd.attr.reference_population import AddedRows, LayerReference

FEW_INPUTS = 30
"""Populations smaller than this give maps that follow chance."""

STUDENT, BASE, TEACHER = "Student", "Base model", "Teacher"

# Settings that are checksums: an error names them, but does not show them.
_MODES = "modules, or their modes (train() or eval()),"
_WEIGHTS = "weights or buffers (running statistics, for example)"

_WAY_OUT = "Make a population with reference() of the UniCAM that uses it."


class ReferencePopulation:
    """A fixed population for :meth:`captum_kd.UniCAM.attribute`, made by :meth:`captum_kd.UniCAM.reference`.

    It holds the detached features of both models and the labels or the Teacher's features, but no model. It can be
    reused, copied and pickled, and serves distilled and residual maps.

    It belongs to the models and settings that it was made with. A ValueError says so if weights, buffers or modes have
    changed since, or if layers, class embeddings or ``feature_transform`` differ. The transform must be the same object;
    copies and unpickled populations know only its name and, of a module, its weights. Weights without plain dense values
    (quantized, sparse or distributed) are compared by shape and dtype.

    Attributes:
        layers (tuple of LayerReference): the population at each pair of layers.
        settings (mapping): the settings that calls must share.
        layouts (mapping): for each model, how its layers arrange positions and channels. A single input may not show it.
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
        layouts: Optional[Mapping[str, Layouts]] = None,
        feature_transform: Optional[FeatureTransform] = None,
    ) -> None:
        if not isinstance(layers, tuple) or not layers or not all(isinstance(each, LayerReference) for each in layers):
            raise TypeError(
                f"layers must be a tuple of at least one LayerReference, got {short_repr(layers)}; populations are made by "
                "UniCAM.reference()."
            )
        check_mapping(settings, "settings", "the mapping of settings made by UniCAM.reference()")
        if layouts is not None:
            check_mapping(layouts, "layouts", "a mapping from models to the layouts of their layers, or None")
        if feature_transform is not None:
            check_callable(feature_transform, "feature_transform")
        self.layers = layers
        self.settings = dict(settings)
        self.layouts = dict(layouts or {})
        self.feature_transform = feature_transform

    def __len__(self) -> int:
        return len(self.layers[0].features[0].points)

    def __getstate__(self) -> dict[str, Any]:
        # Functions often cannot be pickled, and may hold a model.
        return {**vars(self), "feature_transform": None}

    @property
    def is_labeled(self) -> bool:
        return self.layers[0].labels is not None

    @property
    def has_teacher(self) -> bool:
        return self.layers[0].teacher is not None

    def check(self, settings: Mapping[str, Any], feature_transform: FeatureTransform) -> None:
        """Compares the settings of a call with those of the population.

        Raises:
            ValueError: naming the first setting that differs.
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
                f"made with; another one of the same name may compute other features. Pass the same object. Or: {_WAY_OUT}"
            )

    def added_labels(self, labels: Optional[Tensor], class_embeddings: Optional[Tensor]) -> Optional[AddedRows]:
        """Labels (N,) of inputs as rows of the population's label geometry; None if there are no labels.

        Raises:
            ValueError: a population without labels; an input whose label, added to the population's, leaves no geometry.
        """
        if labels is None:
            return None
        if not self.is_labeled:
            raise ValueError(
                "target was given, but the reference population has no labels; make it with reference(inputs, target) "
                "or pass target=None for the objective without labels."
            )
        return self.layers[0].added_labels(labels, class_embeddings)

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
    """What a reference population and the calls that use it must share, as small values that can be pickled."""
    has_teacher = TEACHER in models
    settings: dict[str, Any] = {
        "teacher_func": "a Teacher" if has_teacher else None,
        "attribute_to_layer_input": attribute_to_layer_input,
        "feature_transform": _name_of(feature_transform),
        # With a Teacher they have no effect.
        "class_embeddings": None if has_teacher else _table(class_embeddings),
    }
    for name, extractor in models.items():
        layers = [pair.feature_layer.module for pair in extractor.pairs]
        # A plain function may run layers in a way that modules_of cannot see.
        runs: list[Callable[..., Any]] = [extractor.forward_func, *layers]
        found = [module for run in runs for module in modules_of(run)]
        modules = list(dict.fromkeys([*found, *layers]))
        settings[f"{name}'s layers"] = [_named(pair, modules) for pair in extractor.pairs]
        settings[f"{name}'s layout"] = extractor.hints._asdict()
        settings[f"{name}'s {_MODES}"] = "".join("t" if module.training else "e" for module in modules)
        settings[f"{name}'s {_WEIGHTS}"] = _state(modules)
    return settings


def _state(modules: list[nn.Module]) -> str:
    return checksum([tensor for module in modules for tensor in (*own_parameters(module), *kept_buffers(module))])


def _name_of(transform: FeatureTransform) -> str:
    if isinstance(transform, nn.Module):
        printed = torch.tensor(list(repr(transform).encode()), dtype=torch.uint8)
        return f"{type(transform).__qualname__}, {checksum([printed])}, {_state(list(transform.modules()))}"
    return str(getattr(transform, "__qualname__", type(transform).__qualname__))


def _table(class_embeddings: Optional[Tensor]) -> Optional[str]:
    if class_embeddings is None:
        return None
    classes, size = class_embeddings.shape
    return f"table of {classes} x {size}, {checksum([class_embeddings])}"


def _named(pair: LayerPair, modules: list[nn.Module]) -> str:
    """The feature layer by its name, or, in a plain function, by its place among the modules."""
    layer = pair.feature_layer
    return str(layer) if layer.name else f"{layer}, number {modules.index(layer.module)} of its modules"
