"""Aggregation of batches: scores of the pooled inputs, or means over mini-batches.

Both take features batch by batch and end with the same :class:`LayerSummary` for each layer.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Callable, Iterator, Mapping, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd._models.feature_transforms import FeatureTransform, flatten, global_average_pool
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS
from captum_kd.distance.labels import check_label_geometry
from captum_kd.distance.sources import DistanceSource, TensorFeatures
from captum_kd.metrics.report.collect import Pair, FeatureSet
from captum_kd.metrics.report.memory import Placement
from captum_kd.metrics.report.projection import RandomProjection
from captum_kd.metrics.report.repeats import RepeatedInputs
from captum_kd.metrics.report.scores import Estimate, LayerScores, ScoreSettings, distance_source, is_of_a_remainder
from captum_kd.metrics.report.sharding import as_input_sharding, all_reduce_counts
from captum_kd.metrics.report.storage import FeatureStore

__all__ = ["PooledScores", "LayerSummary", "BatchMeanScores", "Population", "Question"]


class Question(NamedTuple):
    """What is to be scored.

    Attributes:
        labels (sequence of str): of the layers.
        pairs (sequence of Pair): Student and Base.
        views (sequence of View): all of them.
        compared (sequence of str): keys of the views that seed control compares, Students first; none: no seed control.
        progression (bool): whether to score each layer against the model's last one.
        settings (ScoreSettings): how.
    """

    labels: Sequence[str]
    pairs: Sequence[Pair]
    views: Sequence[FeatureSet]
    compared: Sequence[str]
    progression: bool
    settings: ScoreSettings


class LayerSummary(NamedTuple):
    """What is known of one layer.

    Attributes:
        estimates (list of dict): for each pair, by the score's name.
        unique_shares (list of float or None): for each pair.
        progressions (dict): by view key; empty unless asked for.
        matrices (dict): by question, scores of all ordered pairs of models.
    """

    estimates: list[dict[str, Estimate]]
    unique_shares: list[Optional[float]]
    progressions: dict[str, Estimate]
    matrices: dict[str, Tensor]


class Population(Protocol):
    """Takes batches, gives layers."""

    counts: dict[int, int]
    """Inputs of each class over which scores are taken."""

    left_out: int
    """Mini-batches that could not be used."""

    left_out_of_removal: int
    """Mini-batches that could not be used for scores with removal."""

    undefined: int
    """Scores of single mini-batches that were not defined and so are in no mean."""

    @property
    def repeated(self) -> int:
        """Inputs that are copies of others, or that no model tells from others."""

    def add(self, features: dict[str, list[TensorFeatures]], labels: Tensor) -> None:
        """Takes the features of one batch: by view key, (N, d) of each layer."""

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        """Scores layer after layer, in the labels' order."""


def _count(counts: dict[int, int], labels: Tensor) -> None:
    for label in labels.tolist():
        counts[label] = counts.get(label, 0) + 1


class PooledScores:
    """Scores over all inputs at once; keeps their features, in memory or in temporary files.

    Args:
        place (callable): called with the bytes that features take, the width of the widest and the inputs seen, after
            each batch; says where features and distances go.
        device (torch.device): where features are scored.
        half (bool): keep features in half precision.
        projection (RandomProjection, optional): of wide features.
        processes (ProcessGroup, optional): that have the other inputs.
        feature_transform (callable): behind the features, for errors.

    Attributes:
        placement (Placement): of the last batch.
    """

    def __init__(
        self,
        place: Callable[[int, int, int], Placement],
        device: torch.device,
        half: bool = False,
        projection: Optional[RandomProjection] = None,
        processes: ProcessGroup = ProcessGroup(),
        feature_transform: FeatureTransform = flatten,
    ) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.undefined = 0
        self._way_to_one_width = _way_to_one_width(feature_transform)
        self.placement: Optional[Placement] = None
        self._place = place
        self._device = device
        self._half = half
        self._projection = projection
        self._processes = processes
        self._spread = as_input_sharding(processes, device, self._way_to_one_width)
        self._stores: dict[str, list[FeatureStore]] = {}
        self._labels: list[Tensor] = []
        self._repeats = RepeatedInputs()

    @property
    def repeated(self) -> int:
        return self._repeats.count

    def add(self, features: dict[str, list[TensorFeatures]], labels: Tensor) -> None:
        for key, of_layers in features.items():
            if key not in self._stores:
                self._stores[key] = [FeatureStore(self._device, self._half) for _ in of_layers]
            for place, store in enumerate(self._stores[key]):
                values, rounding = of_layers[place].values, of_layers[place].rounding
                of_layers[place] = TensorFeatures(values[:0].clone())  # so that it goes where the store puts it
                if self._projection is not None:
                    width, values = values.shape[1], self._projection(values)
                    rounding *= (width / values.shape[1]) ** 0.5  # of a projected feature
                if store.shape[0] and store.shape[1] != values.shape[1]:
                    raise ValueError(
                        f"{key} gives {values.shape[1]} features where earlier batches had {store.shape[1]}: the "
                        f"inputs differ in size. {self._way_to_one_width}"
                    )
                store.append(values, rounding)
        self._labels.append(labels)
        _count(self.counts, labels)
        every = [store for stores in self._stores.values() for store in stores]
        size, widest = sum(store.bytes for store in every), max(store.shape[1] for store in every)
        self.placement = self._place(size, widest, sum(self.counts.values()))
        if self.placement.in_file:
            for store in every:
                store.move_to_file()

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        spread, stores = self._spread, self._stores
        labels = spread.labels(self._labels)
        self.counts = all_reduce_counts(self._processes, self.counts)
        if len(labels) < LEAST_WITH_REMOVAL:
            raise ValueError(
                f"The data hold {len(labels)} inputs; scores with removal need at least {LEAST_WITH_REMOVAL}, and a few "
                "hundred to be stable."
            )
        placed = self.placement = spread.placement(self.placement, stores)
        last: dict[str, DistanceSource] = {}
        if question.progression:
            last = {key: spread.source(key, -1, stores, placed) for key in spread.keys(stores)}
        final = len(question.labels) - 1
        for place in range(len(question.labels)):
            sources: dict[str, DistanceSource] = {}
            for key in spread.keys(stores):
                sources[key] = last[key] if last and place == final else spread.source(key, place, stores, placed)
                if placed.held and key in stores:
                    stores[key][place].close()  # the features are not needed any more
            scores = LayerScores(
                sources, last, labels, question.settings, placed.block_size, self._repeats, spread.walk
            )
            summary = _summary(scores, question, last)
            if place < final or not last:
                for of_layers in stores.values():
                    of_layers[place].close()
            yield summary

    def close(self) -> None:
        """Gives up all features, and with them the temporary files."""
        for stores in self._stores.values():
            for store in stores:
                store.close()


def _way_to_one_width(feature_transform: FeatureTransform) -> str:
    """What can be done where inputs of several sizes give features of several widths."""
    if feature_transform is global_average_pool:
        return "Resize them, or choose a layer that has as many channels for inputs of every size."
    return "Resize them, or pass feature_transform=global_average_pool."


def _summary(scores: LayerScores, question: Question, last: Mapping[str, DistanceSource]) -> LayerSummary:
    return LayerSummary(
        [scores.of_pair(pair) for pair in question.pairs],
        [scores.unique_share(pair) for pair in question.pairs],
        {key: scores.progression(key) for key in last},
        scores.pair_matrices(list(question.compared)) if question.compared else {},
    )


class BatchMeanScores:
    """Mean scores of the loader's own batches, as in the authors' earlier scripts. Keeps scores, no features.

    A batch counts if two of its classes have two inputs or more and its labels a geometry, and for scores with removal
    if it has at least 5 inputs; a score that a batch does not define (constant features) is left out of its mean.
    Intervals come from the spread over batches and are those of the mean over batches of this size.
    """

    def __init__(self, question: Question, processes: ProcessGroup = ProcessGroup()) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.undefined = 0
        self.used = 0
        self.repeated = 0
        self._question = question
        self._processes = processes
        self._batches: list[tuple[int, list[LayerSummary]]] = []

    def add(self, features: dict[str, list[TensorFeatures]], labels: Tensor) -> None:
        question = self._question
        if not _can_be_scored(labels, question.settings):
            self.left_out += 1
            return
        settings = question.settings._replace(confidence=None)
        few = len(labels) < LEAST_WITH_REMOVAL
        self.left_out_of_removal += few
        self.used += 1
        _count(self.counts, labels)
        repeats = RepeatedInputs()
        by_layer = [
            {key: distance_source(of_layers[place], held=True) for key, of_layers in features.items()}
            for place in range(len(question.labels))
        ]
        last = by_layer[-1] if question.progression else {}
        summaries = []
        for sources in by_layer:
            found = _summary(LayerScores(sources, last, labels, settings, repeats=repeats), question, last)
            if few:
                found = found._replace(
                    estimates=[
                        {k: v for k, v in each.items() if not is_of_a_remainder(k)} for each in found.estimates
                    ],
                    unique_shares=[None] * len(question.pairs),
                    matrices={"fss": found.matrices["fss"]} if found.matrices else {},
                )
            summaries.append(found)
        self.repeated += repeats.count
        self._batches.append((len(labels), summaries))

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        self._share()
        if not self._batches:
            raise ValueError(
                f"None of the {self.left_out} mini-batches has two classes of two inputs or more, as "
                'population="batch" needs. Shuffle the loader, use larger batches, or population="all".'
            )
        for place in range(len(question.labels)):
            sizes, summaries = [], []
            for size, batch in self._batches:
                sizes.append(size)
                summaries.append(batch[place])
            names = list(dict.fromkeys(name for each in summaries for name in each.estimates[0]))
            questions = list(dict.fromkeys(name for each in summaries for name in each.matrices))
            yield LayerSummary(
                [
                    {name: self._mean(sizes, [each.estimates[pair].get(name) for each in summaries]) for name in names}
                    for pair in range(len(question.pairs))
                ],
                [
                    _mean_or_none([each.unique_shares[pair] for each in summaries])
                    for pair in range(len(question.pairs))
                ],
                {
                    key: self._mean(sizes, [each.progressions[key] for each in summaries])
                    for key in summaries[0].progressions
                },
                # Of a pair that no batch defines nothing is left but NaN.
                {
                    name: torch.stack([each.matrices[name] for each in summaries if name in each.matrices]).nanmean(0)
                    for name in questions
                },
            )

    def _share(self) -> None:
        """Every process has all processes' batches from here on; of these there are scores only."""
        processes = self._processes
        self.counts = all_reduce_counts(processes, self.counts)
        self._batches = [batch for batches in processes.gather(self._batches) for batch in batches]
        numbers = (self.left_out, self.left_out_of_removal, self.used, self.repeated)
        totals = (sum(each) for each in zip(*processes.gather(numbers)))
        self.left_out, self.left_out_of_removal, self.used, self.repeated = totals

    def _mean(self, sizes: Sequence[int], estimates: Sequence[Optional[Estimate]]) -> Estimate:
        """Over the batches that define the score; those for which it was not taken have None."""
        taken = [each for each in estimates if each is not None]
        defined = [(size, each.value) for size, each in zip(sizes, estimates) if each is not None and each.is_defined]
        self.undefined += len(taken) - len(defined)
        if not defined:
            return Estimate(0.0, is_defined=False, n=0)
        values = [value for _, value in defined]
        found = Estimate(mean(values), n=sum(size for size, _ in defined))
        confidence = self._question.settings.confidence
        if confidence is None or len(values) < 2:
            return found
        from scipy.special import stdtrit  # imported here so that import captum_kd stays fast

        reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / len(values) ** 0.5
        return found._replace(low=max(-1.0, found.value - reach), high=min(1.0, found.value + reach))


def _can_be_scored(labels: Tensor, settings: ScoreSettings) -> bool:
    of_class = torch.unique(labels, return_counts=True)[1]
    if len(labels) < MIN_INPUTS or int((of_class >= 2).sum()) < 2:
        return False
    try:
        check_label_geometry(labels, settings.class_embeddings)
    except ValueError:  # classes that share a point of the embeddings
        return False
    return True


def _mean_or_none(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
