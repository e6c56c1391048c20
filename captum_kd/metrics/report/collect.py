"""Collection of the features of every model at every layer, from whole images or from their salient part.

A :class:`FeatureSet` is one model's features as one comparison needs them. On whole images, and where each model is
explained by itself, there is one view per model. UniCAM explains a Student beside a Base, so there every pair has
views of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.layer_activations import Layouts
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.distance.sources import TensorFeatures
from captum_kd.metrics.report.models import BASE, STUDENT, TEACHER, ComparedModel, hints_for
from captum_kd.metrics.report.salient import Localizer

__all__ = ["Pair", "FeatureSet", "FeatureCollector", "pairs_of"]


class FeatureSet(NamedTuple):
    """One model as it is looked at.

    Attributes:
        subject (Subject): the model.
        given (Subject, optional): the other model of the pair, where the explanation depends on it.
    """

    subject: ComparedModel
    given: Optional[ComparedModel] = None

    @property
    def key(self) -> str:
        # A character that stands in no name, so that no two views share a key.
        return self.subject.key if self.given is None else f"{self.subject.key}\0{self.given.key}"


class Pair(NamedTuple):
    """A Student and a Base that are compared."""

    student: FeatureSet
    base: FeatureSet


def pairs_of(subjects: Sequence[ComparedModel], *, explained_in_pairs: bool) -> list[Pair]:
    """All pairs of Student and Base, Student by Student."""
    students, bases = ([each for each in subjects if each.role == role] for role in (STUDENT, BASE))
    if explained_in_pairs:
        return [Pair(FeatureSet(s, b), FeatureSet(b, s)) for s in students for b in bases]
    return [Pair(FeatureSet(s), FeatureSet(b)) for s in students for b in bases]


class FeatureCollector:
    """Takes the features of all views from one batch at a time.

    Attributes:
        views (list of View): in the order in which they are looked at, each once.
    """

    def __init__(
        self,
        subjects: Sequence[ComparedModel],
        pairs: Sequence[Pair],
        hints: LayoutHints,
        observer_settings: dict[str, Any],
        localizer: Optional[Localizer],
        additional_forward_args: tuple[Any, ...],
        at_input: bool,
    ) -> None:
        teachers = [FeatureSet(each) for each in subjects if each.role == TEACHER]
        views = [view for pair in pairs for view in pair] + teachers
        self.views = list({view.key: view for view in views}.values())
        self._extractors = {
            view.key: FeatureExtractor(
                view.subject.model,
                tuple(LayerPair(layer, layer) for layer in view.subject.layers),
                hints=hints_for(view.subject, hints),
                **observer_settings,
            )
            for view in self.views
        }
        # Each layer looks at images of its own where it has a map of its own.
        self._by_layer = {
            key: [replace(extractor, pairs=(pair,)) for pair in extractor.pairs]
            for key, extractor in self._extractors.items()
        }
        self._localizer = localizer
        self._args = additional_forward_args
        self._at_input = at_input
        # The last batch of a loader may be of one input, whose layouts do not always show.
        self._layouts: dict[tuple[str, tuple[LayerPair, ...]], Layouts] = {}

    def features(self, inputs: tuple[Tensor, ...], labels: Tensor) -> dict[str, list[TensorFeatures]]:
        """Features (N, d) of a batch: by the view's key, those of each layer.

        Args:
            inputs (tuple of Tensor): the batch, on any device.
            labels (Tensor): (N,).
        """
        found: dict[str, list[TensorFeatures]] = {}
        for view in self.views:
            device = device_of(view.subject.model)
            args, own = to_device(self._args, device), to_device(inputs, device)
            extractor = self._extractors[view.key]
            if self._localizer is None:
                found[view.key] = self._observe(view, extractor, own, args)
                continue
            reduced = self._localizer.reduce(view.key, view.subject, view.given, own, labels, args)
            if len(reduced) == 1:  # one map for all layers
                found[view.key] = self._observe(view, extractor, reduced[0], args)
            else:
                found[view.key] = [
                    self._observe(view, of_layer, images, args)[0]
                    for of_layer, images in zip(self._by_layer[view.key], reduced)
                ]
        return found

    def _observe(
        self, view: FeatureSet, extractor: FeatureExtractor, inputs: tuple[Tensor, ...], args: tuple[Any, ...]
    ) -> list[TensorFeatures]:
        key = (view.key, extractor.pairs)
        with changed_state(torch.no_grad()), interruptible():
            observation = extractor.observe(
                inputs, args, at_input=self._at_input, features_only=True, known=self._layouts.get(key)
            )
        self._layouts[key] = observation.layouts
        return [TensorFeatures(values, float(of.amax())) for values, of in zip(observation.features, observation.rounding)]
