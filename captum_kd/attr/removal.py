"""The models of a UniCAM: their features, and the maps and reference populations made from these."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import LayerActivations, Layouts, maps_add_up
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.arguments import check_callable, check_device_ids, check_model
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_bool, check_int
from captum_kd.attr.checked_call import CheckedCall, check_batch_mode, check_references
from captum_kd.attr.feature_path import FeatureGradients, Integral
from captum_kd.attr.gradients import ScaledFeatures, Target, population_gradients, reference_gradients
from captum_kd.attr.layer_pairs import (
    BaseLayers,
    Layers,
    base_layers,
    check_distinct,
    of_each_base,
    student_layers,
    teacher_layers,
)
from captum_kd.attr.layer_reference import AddedRows, LayerReference
from captum_kd.attr.objective import directions_of
from captum_kd.attr.reference_population import STUDENT, TEACHER, ReferencePopulation, base_names, role_of, settings_of
from captum_kd.embeddings import check_class_embeddings


SEVERAL = (list, tuple, nn.ModuleList)
"""Types of a sequence of Bases."""


class ModelMaps(NamedTuple):
    """Maps of one explained model.

    Attributes:
        maps (list of tuple): for each entry of ``layer`` the maps of the layer's tensors.
        deltas (list of Tensor, optional): for each entry (N,), the sum of the maps minus the gain of the objective.
    """

    maps: list[tuple[Tensor, ...]]
    deltas: Optional[list[Tensor]]


@dataclass(frozen=True, eq=False)
class Removal:
    """The models of a UniCAM: the one that is explained, and those whose representations are removed from its own.

    Attributes:
        models (mapping): by name: the Student, the Bases and, if there is one, the Teacher, in this order.
        feature_transform (callable): of the UniCAM.
        class_embeddings (Tensor, optional): of the UniCAM.
        explained (str): name of the model that the maps explain.
    """

    models: Mapping[str, FeatureExtractor]
    feature_transform: FeatureTransform
    class_embeddings: Optional[Tensor]
    explained: str = STUDENT

    @classmethod
    def of(
        cls,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_func: Any,
        base_layer: BaseLayers,
        feature_layer: Optional[Layers],
        base_feature_layer: BaseLayers,
        feature_transform: FeatureTransform,
        class_embeddings: Optional[Tensor],
        hints: LayoutHints,
        device_ids: Optional[list[int]],
        teacher_func: Optional[Callable[..., Any]],
        teacher_layer: Optional[Layers],
        stop_early: bool,
    ) -> Removal:
        """Checks and combines the arguments of :class:`captum_kd.UniCAM`, whose errors it raises."""
        bases = list(base_func) if isinstance(base_func, SEVERAL) else [base_func]
        if not bases:
            raise ValueError("base_func is an empty sequence; pass at least one Base.")
        check_model(forward_func, "forward_func")
        for place, base in enumerate(bases):
            check_model(base, "base_func" if len(bases) == 1 else f"base_func[{place}]")
        check_callable(feature_transform, "feature_transform")
        if teacher_func is not None:
            check_model(teacher_func, "teacher_func")
        elif teacher_layer is not None:
            raise ValueError("teacher_layer was given without teacher_func; pass both or neither.")
        check_device_ids(device_ids)
        check_bool(stop_early, "stop_early")
        own = student_layers(forward_func, layer, feature_layer)
        models = {STUDENT: FeatureExtractor(forward_func, own, feature_transform, hints, device_ids, stop_early)}
        at_maps = of_each_base(base_layer, len(bases), "base_layer", len(own))
        at_features = of_each_base(base_feature_layer, len(bases), "base_feature_layer", len(own))
        for name, base, at_map, of_base in zip(base_names(len(bases)), bases, at_maps, at_features):
            pairs = base_layers(base, at_map, feature_layer, of_base, own)
            models[name] = FeatureExtractor(base, pairs, feature_transform, hints, device_ids, stop_early)
        if teacher_func is not None:
            pairs = teacher_layers(teacher_func, teacher_layer, own)
            hints = hints._replace(last_resort=True)
            models[TEACHER] = FeatureExtractor(teacher_func, pairs, feature_transform, hints, device_ids, stop_early)
        check_distinct(*(extractor.pairs for extractor in models.values()))
        return cls(models, feature_transform, check_class_embeddings(class_embeddings))

    @property
    def has_teacher(self) -> bool:
        return TEACHER in self.models

    @property
    def bases(self) -> list[str]:
        return [name for name in self.models if name not in (STUDENT, TEACHER)]

    @property
    def removed(self) -> list[str]:
        """Names of the models whose representations are removed."""
        return self.bases if self.explained == STUDENT else [STUDENT]

    @property
    def map_modules(self) -> list[nn.Module]:
        return [pair.map_layer.module for pair in self.models[self.explained].pairs]

    def maps_add_up(self, weights: str, has_masks: bool) -> bool:
        """Whether integrated maps of all models add up to gains of the objective."""
        pairs = [pair for name in (STUDENT, *self.bases) for pair in self.models[name].pairs]
        return all(maps_add_up(pair, self.feature_transform, weights, has_masks) for pair in pairs)

    def swapped(self, base: Optional[int]) -> Removal:
        """Explains a Base with the Student removed or, if a Base is explained, the Student with all Bases removed.

        Raises:
            ValueError: as :meth:`captum_kd.UniCAM.residual`.
        """
        if self.explained != STUDENT:
            return replace(self, explained=STUDENT)
        n = len(self.bases)
        if base is None and n > 1:
            raise ValueError(f"There are {n} Bases; say which one is to be explained: residual(0) explains the first.")
        if base is not None and check_int(base, "base") >= n:
            raise ValueError(f"base must be below {n}, the number of Bases, got {base}.")
        return replace(self, explained=self.bases[base or 0])

    def maps(
        self,
        batch: CheckedCall,
        reference: Optional[ReferencePopulation],
        map_settings: Mapping[str, Any],
        integrals: Optional[Sequence[Integral]] = None,
        *,
        both: bool,
    ) -> list[ModelMaps]:
        """Maps of the explained model and, with ``both``, of the removed ones."""
        if reference is None:
            labels = self._labels(batch)
            of_labels = check_batch_mode(batch.inputs, labels, self.class_embeddings, has_teacher=self.has_teacher)
            rows = None
        else:
            of_labels, rows = None, self._label_rows(batch, reference)
        layouts: Mapping[str, Layouts] = {} if reference is None else reference.layouts
        explained = [self.explained, *self.removed] if both else [self.explained]
        # To explain a Base, the Student is removed, and the objective of the Student needs all Bases.
        used = [name for name in self.models if name in (self.explained, *self.removed)]
        if STUDENT in explained:
            used = [STUDENT, *self.bases]
        observed: dict[str, LayerActivations] = {}
        # The Teacher runs first, when no activations of the other models take up memory.
        for name in (*([TEACHER] if self.has_teacher else []), *used):
            features_only = name not in explained
            observed[name] = batch.observe(self.models[name], role_of(name), features_only=features_only, known=layouts.get(name))

        def gradients(number: int) -> list[FeatureGradients]:
            names = [*used, *([TEACHER] if self.has_teacher else [])]
            sets = _to_common_dtype([_scaled_features(observed[name], number) for name in names])
            features, teacher = sets[: len(used)], sets[-1] if self.has_teacher else None
            integral = None if integrals is None else integrals[number]
            with changed_state(torch.inference_mode(False), torch.no_grad()), interruptible():
                if reference is None:
                    directions = [directions_of(len(used))[used.index(name)] for name in explained]
                    return population_gradients(features, directions, Target(teacher, of_labels), integral)
                order = list(self.models)
                models, shown = ([order.index(name) for name in each] for each in (used, explained))
                layer = reference.layers[number]
                return reference_gradients(layer, models, features, shown, Target(teacher, rows), integral)

        found = self._at_each_layer(gradients, integrals)
        results = []
        for i, name in enumerate(explained):
            of_model = [each[i] for each in found]
            baselines = [each.baselines for each in of_model] if integrals is not None else None
            maps = observed[name].maps([each.gradients for each in of_model], baselines=baselines, **map_settings)
            has_deltas = integrals is not None and integrals[0].steps.has_start
            deltas = [_delta(*each) for each in zip(maps, of_model)] if has_deltas else None
            results.append(ModelMaps(maps, deltas))
        return results

    def measure(self, batch: CheckedCall) -> ReferencePopulation:
        """Makes a reference population of the batch."""
        labels = self._labels(batch)
        check_references(len(batch.inputs[0]), labels, self.class_embeddings)
        observed = {name: batch.observe(each, role_of(name), features_only=True) for name, each in self.models.items()}

        def measured(number: int) -> LayerReference:
            measured = [_scaled_features(each, number) for each in observed.values()]
            features, rounding = [each.values for each in measured], [each.rounding for each in measured]
            teacher = features.pop() if self.has_teacher else None
            return LayerReference.of(features, labels, self.class_embeddings, teacher, rounding)

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

    def _at_each_layer(self, compute: Callable[[int], Any], integrals: Optional[Sequence[Integral]] = None) -> list[Any]:
        """Results for each entry of ``layer``, by its number. Entries with the same feature layers and baselines share one."""
        found: dict[tuple[Any, ...], Any] = {}
        sources = [
            (*(pair.feature_layer.module for pair in pairs), *(() if integrals is None else map(id, integrals[number].baselines)))
            for number, pairs in enumerate(zip(*(extractor.pairs for extractor in self.models.values())))
        ]
        for number, source in enumerate(sources):
            if source not in found:
                found[source] = compute(number)
        return [found[source] for source in sources]


def _delta(maps: tuple[Tensor, ...], integrated: FeatureGradients) -> Tensor:
    """The sum of an input's maps minus the gain of its objective, (N,)."""
    assert integrated.gains is not None
    total = torch.stack([single.flatten(1).to(integrated.gains.dtype).sum(1) for single in maps]).sum(0)
    return (total - integrated.gains.to(total.device)).to(integrated.gradients.dtype)


def _scaled_features(observed: LayerActivations, number: int) -> ScaledFeatures:
    return ScaledFeatures(observed.features[number], observed.largest[number], observed.rounding[number].amax())


def _to_common_dtype(features: Sequence[ScaledFeatures]) -> list[ScaledFeatures]:
    """Features of all models in one dtype, on the first one's device."""
    dtype = functools.reduce(torch.promote_types, (each.values.dtype for each in features))
    like = features[0].values.new_empty(0, dtype=dtype)
    return [ScaledFeatures(each.values.to(like), each.largest, each.rounding.to(like.device)) for each in features]
