"""Collection of the features of all models and layers, from whole images or from their salient part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Iterable, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_activations import Layouts
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.logits import OutputTransform, class_scores
from captum_kd._utils.batches import batches_of, device_of, to_device, unpack_batch
from captum_kd._utils.inputs import ROLES, InputsByModel, ModelInputs
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.text import name_of
from captum_kd.distance.sources import TensorFeatures
from captum_kd.metrics.report.aggregation import Aggregator
from captum_kd.metrics.report.class_names import check_labels
from captum_kd.metrics.report.duplicates import DuplicateCounter
from captum_kd.metrics.report.explanation_scores import ExplanationScores
from captum_kd.metrics.report.models import FeatureSet, hints_for
from captum_kd.metrics.report.positions import PositionSample, check_same_tokens, token_rows, tokens_of
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.settings import ModelOptions, Settings


class TakesLogits(Protocol):
    """Something that takes the logits of every batch, such as the scores of predictions."""

    def add(self, logits: Mapping[str, Tensor], labels: Optional[Tensor]) -> None:
        """Adds the logits (N, classes) of one batch, by the model's key, and labels (N,)."""


class FeatureCollector:
    """Extracts all sets of features, batch by batch."""

    def __init__(
        self,
        sets: Sequence[FeatureSet],
        localizer: Optional[Localizer],
        options: ModelOptions,
        feature_transform: Optional[FeatureTransform],
        output_transform: Optional[OutputTransform] = None,
        predictions: Optional[TakesLogits] = None,
        explained: Optional[ExplanationScores] = None,
    ) -> None:
        self._sets = sets
        self._localizer = localizer
        self._predictions = predictions
        self._explained = explained
        self._needs_logits = predictions is not None or (explained is not None and explained.needs_logits)
        self._output_transform = output_transform
        self._options = options
        self._extractors = {
            each.key: FeatureExtractor(
                each.of.model,
                tuple(LayerPair(layer, layer) for layer in each.of.layers),
                hints=hints_for(each.of, self._options.hints),
                feature_transform=feature_transform if self._options.positions is None else token_rows,
                device_ids=self._options.device_ids,
                stop_early=self._options.stop_early,
            )
            for each in sets
        }
        # If each layer has its own map, each layer has its own images, and so its own forward pass.
        self._by_layer = {
            key: [replace(extractor, pairs=(pair,)) for pair in extractor.pairs]
            for key, extractor in self._extractors.items()
        }
        # Layouts are kept, since they cannot always be inferred from a last batch of one input.
        self._layouts: dict[tuple[str, tuple[LayerPair, ...]], Layouts] = {}
        self.transform: Optional[str] = None
        self.names = [*ROLES, *(each.of.name for each in sets)]

    def features(self, inputs: InputsByModel, labels: Optional[Tensor]) -> dict[str, list[TensorFeatures]]:
        """The features (N, d) of a batch: one tensor for each layer, by the set's key.

        Adds the batch to the scores of predictions and to those of explanations.
        """
        found: dict[str, list[TensorFeatures]] = {}
        logits: dict[str, Tensor] = {}
        for each in self._sets:
            returned: Optional[list[Any]] = [] if self._needs_logits else None
            device = device_of(each.of.model)
            given = self._options.forward_args, inputs.of(*each.of.names)
            args, own = (to_device(value, device) for value in given)
            images = [own] if self._localizer is None else self._localizer.reduce(each, to_device(inputs, device), labels, args)
            # One forward pass is enough for whole images and for one map for all layers.
            extractors = [self._extractors[each.key]] if len(images) == 1 else self._by_layer[each.key]
            found[each.key] = [
                features
                for extractor, of in zip(extractors, images)
                for features in self._extract(each.key, extractor, of, args, returned)
            ]
            if returned is not None:
                predicted = None if self._predictions is None else labels
                logits[each.key] = class_scores(returned[0], self._output_transform, predicted, str(each.of))
        if self._predictions is not None:
            self._predictions.add(logits, labels)
        if self._explained is not None:
            self._explained.add(inputs, labels, logits)
        return found

    def tokens(self, inputs: InputsByModel) -> tuple[dict[str, list[Tensor]], Tensor]:
        """The channels (N, T, C) of all tokens of a batch, one tensor for each layer, by the set's key; and their mask (N, T).

        Raises:
            ValueError: models that get other tokens than the first one; layers without tokens.
        """
        own = [with_named_mask(each.of.model, inputs.of(*each.of.names), self._options.forward_args) for each in self._sets]
        for each, other in zip(self._sets, own):
            check_same_tokens(own[0], other, str(each.of))
        features, mask = self.features(inputs, None), own[0].token_mask
        found: dict[str, list[Tensor]] = {}
        for each in self._sets:
            of_layers = zip(features.pop(each.key), each.of.layers)
            for values, layer in of_layers:
                tokens = tokens_of(values.values, str(layer), None if mask is None else mask.shape[1])
                mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device="cpu") if mask is None else mask
                found.setdefault(each.key, []).append(tokens)
        assert mask is not None
        return found, mask

    def _extract(
        self,
        key: str,
        extractor: FeatureExtractor,
        inputs: ModelInputs,
        args: tuple[Any, ...],
        returned: Optional[list[Any]],
    ) -> list[TensorFeatures]:
        known = self._layouts.get((key, extractor.pairs))
        with changed_state(torch.no_grad()), interruptible():
            at_input = self._options.attribute_to_layer_input
            activations = extractor.observe(
                inputs, args, at_input=at_input, features_only=True, known=known, returned=returned
            )
        self._layouts[key, extractor.pairs] = activations.layouts
        self.transform = name_of(activations.feature_transform)
        return [TensorFeatures(values, float(of.amax())) for values, of in zip(activations.features, activations.rounding)]


def check_data(data: object) -> None:
    """Raises a TypeError unless the data are an iterable of batches."""
    if isinstance(data, (Tensor, str, Mapping)) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"data must be a DataLoader or another iterable of batches (inputs, labels), got {type(data).__name__}. "
            "Pass a single batch as data=[(inputs, labels)]."
        )


def check_embedded(labels: Optional[Tensor], table: Optional[Tensor]) -> None:
    """Raises a ValueError for labels without a row in the table of class embeddings."""
    if table is not None and labels is not None and int(labels.max()) >= len(table):
        raise ValueError(
            f"The data hold the label {int(labels.max())}, but class_embeddings has rows for the labels 0 to "
            f"{len(table) - 1} only. Pass one row for each class."
        )


def read_data(
    data: Iterable[Any], aggregator: Aggregator, collector: FeatureCollector, settings: Settings, show_progress: bool
) -> tuple[DuplicateCounter, Optional[PositionSample]]:
    """Adds the features of every batch, or of a sample of token positions, to the aggregator, and counts duplicate inputs."""
    check_data(data)
    duplicates, table, options = DuplicateCounter(), settings.class_embeddings, settings.model_options
    sample = None if options.positions is None else PositionSample(options.positions, settings.device)
    for batch in batches_of(data, "Comparing models", show_progress):
        inputs, labels = unpack_batch(
            batch, settings.unpack, options.token_mask, settings.comparisons.labels, by_token=sample is not None
        )
        check_embedded(labels, table)
        if labels is not None and len(labels):
            check_labels(int(labels.max()), settings.class_names)
        inputs.check_names(collector.names, "The inputs of a batch")
        duplicates.add(inputs.student)
        if sample is None:
            aggregator.add(collector.features(inputs, labels), labels)
        else:
            sample.add(*collector.tokens(inputs), labels)
    if sample is not None and duplicates.seen:
        drawn = sample.drawn()
        aggregator.groups = drawn.sentences
        aggregator.add(drawn.features, drawn.labels)
    return duplicates, sample
