"""The fixed inputs of a monitor, with the distances and logits of Teacher and Bases, which do not change."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd._models.hooks import same_random_state
from captum_kd._models.training_mode import evaluation_mode
from captum_kd._utils.batches import Batch, device_of, unpack_batch
from captum_kd._utils.checksums import checksum
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.distance.centering import LEAST_WITH_REMOVAL
from captum_kd.distance.precision import MOST_DENSE
from captum_kd.distance.sources import DistanceSource, FeatureDistances
from captum_kd.metrics.report.aggregation import Aggregator, LayerSummary, ReportPlan, layer_summary
from captum_kd.metrics.report.collect import FeatureCollector, check_embedded
from captum_kd.metrics.report.models import ComparedModel, FeatureSet, feature_sets_of, pairs_of
from captum_kd.metrics.report.predictions import PredictionScores
from captum_kd.metrics.report.rows import ReportRows, report_rows
from captum_kd.metrics.report.scores import LayerScores
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.report.storage import FeatureStores, size_advice
from captum_kd.metrics.scores_table import STUDENT


class Probe:
    """The inputs of a monitor, and what it keeps of Teacher and Bases: distances at every layer, and logits.

    Args:
        data (iterable): batches, read once and kept.
        settings (Settings): the checked settings.

    Attributes:
        n (int): the number of inputs.
        checksum (str): of the inputs and labels.

    Raises:
        ValueError: fewer than 5 inputs or more than 4,096.
    """

    def __init__(self, data: Iterable[Any], settings: Settings) -> None:
        self._settings = settings
        self._batches: list[Batch] = []
        with changed_state(same_random_state(()), torch.inference_mode(False)), interruptible():
            for batch in data:
                found = unpack_batch(
                    batch, settings.unpack, settings.model_options.token_mask, settings.comparisons.labels
                )
                check_embedded(found.labels, settings.class_embeddings)
                self._batches.append(found)
        self.n = sum(len(each.inputs.student[0]) for each in self._batches)
        if not LEAST_WITH_REMOVAL <= self.n <= MOST_DENSE:
            raise ValueError(
                f"data must hold {LEAST_WITH_REMOVAL} to {MOST_DENSE:,} inputs in all, got {self.n}; a few hundred held-out "
                "inputs are enough to watch a training. (An iterator that was used up is empty.)"
            )
        labels = [each.labels for each in self._batches if each.labels is not None]
        self._labels = torch.cat(labels) if labels else None
        values = [value for each in self._batches for value in _tensors(each)]
        self.checksum = checksum([value.cpu() for value in values])
        self._kept: Optional[_Measured] = None

    def scores(self, layers: Sequence[str], models: Sequence[ComparedModel]) -> ReportRows:
        """The report's rows of these models; Teacher and Bases are measured at the first call only."""
        settings = self._settings
        pairs = pairs_of(models, explained_in_pairs=False)
        sets = feature_sets_of(models, pairs)
        device = torch.device(settings.compute.feature_device)
        if self._kept is None:
            self._kept = self._measure([each for each in sets if each.of.role != STUDENT], device)
        measured = self._measure([each for each in sets if each.of.role == STUDENT], device).with_others(self._kept)
        predictions = None
        if settings.predictions is not None:
            predictions = PredictionScores(models, settings.predictions, settings.comparisons.labels, layers)
            predictions.add(measured.logits, self._labels)
        plan = ReportPlan(layers, pairs, sets, [], [], settings)
        return report_rows(plan, _ProbeScores(plan, measured.distances, self.n, self._labels), predictions)

    def _measure(self, sets: Sequence[FeatureSet], device: torch.device) -> "_Measured":
        settings = self._settings
        kept = _KeptLogits()
        collector = FeatureCollector(
            sets,
            None,
            settings.model_options,
            settings.feature_transform,
            settings.output_transform,
            None if settings.predictions is None else kept,
        )
        stores = FeatureStores(device, None, size_advice(settings.feature_transform))
        with changed_state(_as_in_evaluation(sets), same_random_state(()), torch.no_grad()), interruptible():
            for inputs, labels in self._batches:
                inputs.check_names(["student", "base", "teacher", *collector.names], "The inputs of a batch")
                stores.add(collector.features(inputs, labels))
            distances: dict[str, list[DistanceSource]] = {}
            for key, of_layers in stores.by_key.items():
                distances[key] = []
                for store in of_layers:
                    distances[key].append(FeatureDistances(store).matrix())
                    store.close()
        return _Measured(distances, {key: torch.cat(pieces) for key, pieces in kept.pieces.items()})


class _Measured:
    """Distances at every layer and logits of some models, by their keys."""

    def __init__(self, distances: Mapping[str, list[DistanceSource]], logits: Mapping[str, Tensor]) -> None:
        self.distances = distances
        self.logits = logits

    def with_others(self, others: "_Measured") -> "_Measured":
        return _Measured({**self.distances, **others.distances}, {**self.logits, **others.logits})


class _KeptLogits:
    """Collects the logits of all batches on the CPU."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[Tensor]] = {}

    def add(self, logits: Mapping[str, Tensor], labels: Optional[Tensor]) -> None:
        for key, values in logits.items():
            self.pieces.setdefault(key, []).append(values.detach().cpu())


class _ProbeScores(Aggregator):
    """The scores of distances that are measured already."""

    def __init__(
        self, plan: ReportPlan, distances: Mapping[str, Sequence[DistanceSource]], n: int, labels: Optional[Tensor]
    ) -> None:
        super().__init__(plan, ProcessGroup())
        self.n, self.labels = n, labels
        self._distances = distances

    def layers(self) -> Iterator[LayerSummary]:
        for place in range(len(self._plan.labels)):
            sources = {each.key: self._distances[each.key][place] for each in self._plan.sets}
            yield layer_summary(LayerScores(sources, {}, self.labels, self._plan.settings), self._plan, {})


@contextmanager
def _as_in_evaluation(sets: Sequence[FeatureSet]) -> Iterator[None]:
    """Evaluation mode of the models, without autocast, whatever the training loop has switched on."""
    with ExitStack() as stack:
        kinds = {"cpu"}
        for each in sets:
            stack.enter_context(evaluation_mode(each.of.model))
            device = device_of(each.of.model)
            kinds |= set() if device is None else {device.type}
        for kind in sorted(kinds):
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for inputs in (batch.inputs.student, *batch.inputs.own.values()):
        yield from (value for value in (*inputs, inputs.token_mask) if isinstance(value, Tensor))
    if batch.labels is not None:
        yield batch.labels
