"""The models of a UniCAM: their features, and the maps and reference populations made from these."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import LayerActivations, Layouts
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.attr.checked_call import CheckedCall, check_batch_mode, check_references
from captum_kd.attr.gradients import ScaledFeatures, population_gradients, reference_gradients
from captum_kd.attr.layer_reference import AddedRows, LayerReference
from captum_kd.attr.reference_population import BASE, STUDENT, TEACHER, ReferencePopulation, settings_of


@dataclass(frozen=True, eq=False)
class Removal:
    """The models of a UniCAM: the one that is explained, and those whose representations are removed from its own.

    Attributes:
        models (mapping): by name: the Student, the Base and, if there is one, the Teacher, in this order.
        feature_transform (callable): of the UniCAM.
        class_embeddings (Tensor, optional): of the UniCAM.
        explained (str): name of the model that the maps explain.
        removed (tuple of str): names of the models whose representations are removed.
    """

    models: Mapping[str, FeatureExtractor]
    feature_transform: FeatureTransform
    class_embeddings: Optional[Tensor]
    explained: str = STUDENT
    removed: tuple[str, ...] = (BASE,)

    @property
    def has_teacher(self) -> bool:
        return TEACHER in self.models

    @property
    def map_modules(self) -> list[nn.Module]:
        return [pair.map_layer.module for pair in self.models[self.explained].pairs]

    def swapped(self) -> Removal:
        (explained,) = self.removed
        return replace(self, explained=explained, removed=(self.explained,))

    def maps(
        self, batch: CheckedCall, reference: Optional[ReferencePopulation], map_settings: Mapping[str, Any], *, both: bool
    ) -> list[list[tuple[Tensor, ...]]]:
        """Maps of the explained model and, with ``both``, of the removed one: for each of them one tuple per layer."""
        of_labels, rows = None, None
        if reference is None:
            labels = self._labels(batch)
            of_labels = check_batch_mode(batch.inputs, labels, self.class_embeddings, has_teacher=self.has_teacher)
        else:
            rows = self._label_rows(batch, reference)
        layouts: Mapping[str, Layouts] = {} if reference is None else reference.layouts
        direction = list(self.models).index(self.explained)
        teacher = [TEACHER] if self.has_teacher else []
        explained = [self.explained, *self.removed] if both else [self.explained]
        observed: dict[str, LayerActivations] = {}
        # The Teacher runs first, when no activations of the other models take up memory.
        for name in (*teacher, self.explained, *self.removed):
            features_only = name not in explained
            observed[name] = batch.observe(self.models[name], features_only=features_only, known=layouts.get(name))

        def gradients(number: int) -> list[Tensor]:
            names = (self.explained, *self.removed, *teacher)
            own, other, *target = _to_common_dtype([_scaled_features(observed[name], number) for name in names])
            of_teacher = target[0] if target else None
            with changed_state(torch.inference_mode(False), torch.no_grad()), interruptible():
                if reference is None:
                    return population_gradients((own, other), of_teacher, of_labels, both)
                layer = reference.layers[number]
                return reference_gradients(layer, direction, (own, other), of_teacher, rows, both)

        found = self._at_each_layer(gradients)
        return [observed[name].maps([each[i] for each in found], **map_settings) for i, name in enumerate(explained)]

    def measure(self, batch: CheckedCall) -> ReferencePopulation:
        """Makes a reference population of the batch."""
        labels = self._labels(batch)
        check_references(len(batch.inputs[0]), labels, self.class_embeddings)
        observed = {name: batch.observe(extractor, features_only=True) for name, extractor in self.models.items()}

        def measured(number: int) -> LayerReference:
            features = [_scaled_features(each, number) for each in observed.values()]
            student, base, *others = (each.values for each in features)
            teacher, rounding = others[0] if others else None, [each.rounding for each in features]
            return LayerReference.of(student, base, labels, self.class_embeddings, teacher, rounding)

        layouts = {name: each.layouts for name, each in observed.items()}
        return ReferencePopulation(
            tuple(self._at_each_layer(measured)), self._settings(batch), layouts, self.feature_transform
        )

    def _labels(self, batch: CheckedCall) -> Optional[Tensor]:
        """The labels of the objective: none with a Teacher."""
        return None if self.has_teacher else batch.labels

    def _label_rows(self, batch: CheckedCall, reference: ReferencePopulation) -> Optional[AddedRows]:
        """Checks that the call fits the population. Adds its labels, if there are any, to the population's labels."""
        if not isinstance(reference, ReferencePopulation):
            raise TypeError(
                f"reference must be a ReferencePopulation made by UniCAM.reference(), got {type(reference).__name__}."
            )
        reference.check(self._settings(batch), self.feature_transform)
        labels = self._labels(batch)
        if labels is None:
            return None
        if not reference.is_labeled:
            raise ValueError(
                "target was given, but the reference population has no labels. Make it with reference(inputs, target), "
                "or pass target=None for the objective without labels."
            )
        return reference.layers[0].added_labels(labels, self.class_embeddings)

    def _settings(self, batch: CheckedCall) -> dict[str, Any]:
        return settings_of(self.models, self.feature_transform, self.class_embeddings, batch.at_input)

    def _at_each_layer(self, compute: Callable[[int], Any]) -> list[Any]:
        """Results for each entry of ``layer``, by its number. Entries with the same feature layers share one result."""
        found: dict[tuple[nn.Module, ...], Any] = {}
        sources = [
            tuple(pair.feature_layer.module for pair in pairs)
            for pairs in zip(*(extractor.pairs for extractor in self.models.values()))
        ]
        for number, source in enumerate(sources):
            if source not in found:
                found[source] = compute(number)
        return [found[source] for source in sources]


def _scaled_features(observed: LayerActivations, number: int) -> ScaledFeatures:
    return ScaledFeatures(observed.features[number], observed.largest[number], observed.rounding[number].amax())


def _to_common_dtype(features: Sequence[ScaledFeatures]) -> list[ScaledFeatures]:
    """Features of all models in one dtype, on the first one's device."""
    dtype = functools.reduce(torch.promote_types, (each.values.dtype for each in features))
    like = features[0].values.new_empty(0, dtype=dtype)
    return [ScaledFeatures(each.values.to(like), each.largest, each.rounding.to(like.device)) for each in features]
