"""Collection of the features of every model at every layer, from whole images or from their salient part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Iterable, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.layer_activations import Layouts
from captum_kd._models.layer_names import LayerPair
from captum_kd._utils.batches import batches_of, device_of, to_device, unpack_batch
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.distance.sources import TensorFeatures
from captum_kd.metrics.report.aggregation import Aggregator
from captum_kd.metrics.report.duplicates import Copies
from captum_kd.metrics.report.models import FeatureSet, hints_for
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.settings import Settings


class FeatureCollector:
    """Takes all sets of features from one batch at a time."""

    def __init__(self, sets: Sequence[FeatureSet], localizer: Optional[Localizer], settings: Settings) -> None:
        self._sets = sets
        self._localizer = localizer
        self._options = settings.model_options
        self._extractors = {
            each.key: FeatureExtractor(
                each.of.model,
                tuple(LayerPair(layer, layer) for layer in each.of.layers),
                hints=hints_for(each.of, self._options.hints),
                feature_transform=settings.feature_transform,
                device_ids=self._options.device_ids,
            )
            for each in sets
        }
        # Each layer looks at images of its own where it has a map of its own.
        self._by_layer = {
            key: [replace(extractor, pairs=(pair,)) for pair in extractor.pairs]
            for key, extractor in self._extractors.items()
        }
        # The last batch of a loader may be of one input, whose layouts do not always show.
        self._layouts: dict[tuple[str, tuple[LayerPair, ...]], Layouts] = {}

    def features(self, inputs: tuple[Tensor, ...], labels: Tensor) -> dict[str, list[TensorFeatures]]:
        """Features (N, d) of a batch: by the set's key, those of each layer."""
        found: dict[str, list[TensorFeatures]] = {}
        for each in self._sets:
            device = device_of(each.of.model)
            args, own = to_device(self._options.forward_args, device), to_device(inputs, device)
            images = [own] if self._localizer is None else self._localizer.reduce(each, own, labels, args)
            # Whole images, or one map for all layers, need one pass.
            extractors = [self._extractors[each.key]] if len(images) == 1 else self._by_layer[each.key]
            found[each.key] = [
                features for extractor, of in zip(extractors, images) for features in self._extract(each.key, extractor, of, args)
            ]
        return found

    def _extract(
        self, key: str, extractor: FeatureExtractor, inputs: tuple[Tensor, ...], args: tuple[Any, ...]
    ) -> list[TensorFeatures]:
        known = self._layouts.get((key, extractor.pairs))
        with changed_state(torch.no_grad()), interruptible():
            at_input = self._options.attribute_to_layer_input
            activations = extractor.observe(inputs, args, at_input=at_input, features_only=True, known=known)
        self._layouts[key, extractor.pairs] = activations.layouts
        return [TensorFeatures(values, float(of.amax())) for values, of in zip(activations.features, activations.rounding)]


def read_data(
    data: Iterable[Any], aggregator: Aggregator, collector: FeatureCollector, settings: Settings, show_progress: bool
) -> Copies:
    """Takes the features of every batch, and counts inputs that are copies of others."""
    if isinstance(data, (Tensor, str, Mapping)) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"data must be a DataLoader or another iterable of batches (inputs, labels), got {type(data).__name__}. "
            "A single batch is data=[(inputs, labels)]."
        )
    copies, table = Copies(), settings.class_embeddings
    for batch in batches_of(data, "Comparing models", show_progress):
        inputs, labels = unpack_batch(batch, settings.unpack)
        if table is not None and int(labels.max()) >= len(table):
            raise ValueError(
                f"The data hold the label {int(labels.max())}, but class_embeddings has rows for the labels 0 to "
                f"{len(table) - 1} only."
            )
        copies.add(inputs)
        aggregator.add(collector.features(inputs, labels), labels)
    return copies
