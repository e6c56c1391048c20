"""The models of a UniCAM, and the way from their features to maps and reference populations."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Mapping, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import LayerActivations, Layouts
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.attr.batch import Batch, check_batch_mode, check_references
from captum_kd.attr.gradients import ScaledFeatures, population_gradients, reference_gradients
from captum_kd.attr.population import BASE, STUDENT, TEACHER, ReferencePopulation, settings_of
from captum_kd.attr.reference_population import LayerReference

_Objective = Callable[..., list[Tensor]]
"""From the features of the models at a pair of layers to the gradients of the objectives."""


@dataclass(frozen=True, eq=False)
class Removal:
    """Which model is explained, and which are removed from it.

    Attributes:
        models (mapping): by name, Student first, whichever is explained; a Teacher, if there is one, last.
        explained (str): name of the model that maps are made of.
        removed (tuple of str): names of the models whose geometries are removed.
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
        self, batch: Batch, reference: Optional[ReferencePopulation], map_settings: Mapping[str, Any], *, both: bool
    ) -> list[list[tuple[Tensor, ...]]]:
        """For the explained model, and with ``both`` for the removed one too, the maps at each pair of layers."""
        objectives = self._batch_mode(batch, both) if reference is None else self._reference_mode(batch, reference, both)
        layouts: Mapping[str, Layouts] = {} if reference is None else reference.layouts
        teacher = [TEACHER] if self.has_teacher else []
        explained = [self.explained, *self.removed] if both else [self.explained]
        observed: dict[str, LayerActivations] = {}
        # The Teacher first, before the other two keep their activations.
        for name in (*teacher, self.explained, *self.removed):
            is_explained = name in explained
            observed[name] = batch.observe(self.models[name], features_only=not is_explained, known=layouts.get(name))

        def gradients(number: int) -> list[Tensor]:
            features = [_scaled_features(observed[name], number) for name in (self.explained, *self.removed, *teacher)]
            own, other, *target = _alike(features)
            with changed_state(torch.inference_mode(False), torch.no_grad()), interruptible():
                return objectives[number](features=(own, other), teacher=target[0] if target else None)

        of_pairs = self._at_each_pair(gradients)
        return [observed[name].maps([each[i] for each in of_pairs], **map_settings) for i, name in enumerate(explained)]

    def measure(self, batch: Batch) -> ReferencePopulation:
        """The batch as a reference population."""
        check_references(batch, self.class_embeddings)
        observed = {name: batch.observe(extractor, features_only=True) for name, extractor in self.models.items()}

        def measured(number: int) -> LayerReference:
            features = [_scaled_features(each, number) for each in observed.values()]
            student, base, *others = (each.values for each in features)
            teacher, rounding = others[0] if others else None, [each.rounding for each in features]
            return LayerReference.of(student, base, batch.labels, self.class_embeddings, teacher, rounding)

        layouts = {name: each.layouts for name, each in observed.items()}
        return ReferencePopulation(
            tuple(self._at_each_pair(measured)), self._settings(batch), layouts, self.feature_transform
        )

    def _batch_mode(self, batch: Batch, both: bool) -> list[_Objective]:
        labels = check_batch_mode(batch, self.class_embeddings)
        return [partial(population_gradients, labels=labels, both=both)] * len(self.models[STUDENT].pairs)

    def _reference_mode(self, batch: Batch, reference: ReferencePopulation, both: bool) -> list[_Objective]:
        if not isinstance(reference, ReferencePopulation):
            raise TypeError(
                f"reference must be a ReferencePopulation made by UniCAM.reference(), got {type(reference).__name__}."
            )
        reference.check(self._settings(batch), self.feature_transform)
        rows = reference.added_labels(batch.labels, self.class_embeddings)
        direction = list(self.models).index(self.explained)
        return [partial(reference_gradients, layer, direction, labels=rows, both=both) for layer in reference.layers]

    def _settings(self, batch: Batch) -> dict[str, Any]:
        return settings_of(self.models, self.feature_transform, self.class_embeddings, batch.at_input)

    def _at_each_pair(self, compute: Callable[[int], Any]) -> list[Any]:
        """Results for each pair of layers, by its number; pairs with the same feature layers in all models share one."""
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


def _alike(features: Sequence[ScaledFeatures]) -> list[ScaledFeatures]:
    """All models' features on the first one's device and in one dtype."""
    dtype = functools.reduce(torch.promote_types, (each.values.dtype for each in features))
    like = features[0].values.new_empty(0, dtype=dtype)
    return [ScaledFeatures(each.values.to(like), each.largest, each.rounding.to(like.device)) for each in features]
