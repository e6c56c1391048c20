"""Which inputs a score is taken over: all of them at once, or mini-batch after mini-batch.

Both take features batch by batch and end with the same :class:`LayerSummary` for each layer.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd.distance import MIN_INPUTS
from captum_kd.embeddings import label_geometry
from captum_kd.metrics.inference.jackknife import LEAST_WITH_REMOVAL
from captum_kd.metrics.report.scoring import (
    Estimate,
    LayerScores,
    ScoreSettings,
    is_of_a_remainder,
    repeated_inputs,
    widened_distances,
)
from captum_kd.metrics.report.views import Pair, View

__all__ = ["AllInputs", "LayerSummary", "MiniBatches", "Population", "Question"]


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
    views: Sequence[View]
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

    repeated: int
    """Inputs that are copies of others, or that no model tells from others."""

    def add(self, features: dict[str, list[Tensor]], labels: Tensor) -> None:
        """Takes the features of one batch: by view key, one (N, d) tensor a layer."""

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        """Scores layer after layer, in the labels' order."""


def _count(counts: dict[int, int], labels: Tensor) -> None:
    for label in labels.tolist():
        counts[label] = counts.get(label, 0) + 1


class AllInputs:
    """Scores over all inputs at once; keeps their features.

    Args:
        check_memory (callable): called with the bytes that features take, the width of the widest and the inputs
            seen, after each batch.
        device (torch.device): where features are kept and scored.
    """

    def __init__(self, check_memory: Callable[[int, int, int], None], device: torch.device) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.undefined = 0
        self.repeated = 0
        self._check_memory = check_memory
        self._device = device
        self._features: dict[str, list[list[Tensor]]] = {}
        self._labels: list[Tensor] = []
        self._bytes = 0
        self._widest = 0

    def add(self, features: dict[str, list[Tensor]], labels: Tensor) -> None:
        for key, of_layers in features.items():
            kept = self._features.setdefault(key, [[] for _ in of_layers])
            for pieces, values in zip(kept, of_layers):
                if pieces and pieces[0].shape[1] != values.shape[1]:
                    raise ValueError(
                        f"{key} gives {values.shape[1]} features where earlier batches had {pieces[0].shape[1]}: the "
                        "inputs differ in size. Resize them, or pass feature_transform=global_average_pool."
                    )
                pieces.append(values.to(self._device))
                self._bytes += values.numel() * values.element_size()
                self._widest = max(self._widest, values.shape[1])
        self._labels.append(labels)
        _count(self.counts, labels)
        self._check_memory(self._bytes, self._widest, sum(self.counts.values()))

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        labels = torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.long)
        if len(labels) < LEAST_WITH_REMOVAL:
            raise ValueError(
                f"The data hold {len(labels)} inputs; scores with removal need at least {LEAST_WITH_REMOVAL}, and a few "
                "hundred to be stable."
            )
        last: dict[str, Tensor] = {}
        if question.progression:
            last = {key: widened_distances(torch.cat(kept[-1])) for key, kept in self._features.items()}
        together: Optional[Tensor] = None
        for place in range(len(question.labels)):
            features = {}
            for key, kept in self._features.items():
                features[key] = torch.cat(kept[place])
                kept[place] = []  # the pieces are not needed any more
            scores = LayerScores(features, labels, question.settings)
            together = _both(together, repeated_inputs(scores.distances))
            self.repeated = 0 if together is None else int(together.any(1).sum())
            yield LayerSummary(
                [scores.of_pair(pair) for pair in question.pairs],
                [scores.unique_share(pair) for pair in question.pairs],
                {key: scores.progression(key, distances) for key, distances in last.items()},
                scores.pair_matrices(list(question.compared)) if question.compared else {},
            )


class MiniBatches:
    """Mean scores of the loader's own batches: the published way. Keeps scores, no features.

    A batch counts if two of its classes have two inputs or more and its labels a geometry, and for scores with removal
    if it has at least 5 inputs; a score that a batch does not define (constant features) is left out of its mean.
    Intervals come from the spread over batches and are those of the mean over batches of this size.
    """

    def __init__(self, question: Question) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.undefined = 0
        self.used = 0
        self.repeated = 0
        self._question = question
        self._batches: list[tuple[int, list[LayerSummary]]] = []

    def add(self, features: dict[str, list[Tensor]], labels: Tensor) -> None:
        question = self._question
        if not _can_be_scored(labels, question.settings):
            self.left_out += 1
            return
        settings = question.settings._replace(confidence=None)
        few = len(labels) < LEAST_WITH_REMOVAL
        self.left_out_of_removal += few
        self.used += 1
        _count(self.counts, labels)
        last = {
            key: widened_distances(of_layers[-1]) for key, of_layers in features.items() if question.progression
        }
        summaries = []
        together: Optional[Tensor] = None
        for place in range(len(question.labels)):
            scores = LayerScores({key: of_layers[place] for key, of_layers in features.items()}, labels, settings)
            together = _both(together, repeated_inputs(scores.distances))
            estimates = [scores.of_pair(pair) for pair in question.pairs]
            matrices = scores.pair_matrices(list(question.compared)) if question.compared else {}
            if few:
                estimates = [{k: v for k, v in each.items() if not is_of_a_remainder(k)} for each in estimates]
                matrices = {"fss": matrices["fss"]} if matrices else {}
            summaries.append(
                LayerSummary(
                    estimates,
                    [None if few else scores.unique_share(pair) for pair in question.pairs],
                    {key: scores.progression(key, distances) for key, distances in last.items()},
                    matrices,
                )
            )
        self.repeated += 0 if together is None else int(together.any(1).sum())
        self._batches.append((len(labels), summaries))

    def layers(self, question: Question) -> Iterator[LayerSummary]:
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
        from scipy.special import stdtrit  # with dcor; here because import captum_kd shall stay fast

        reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / len(values) ** 0.5
        return found._replace(low=max(-1.0, found.value - reach), high=min(1.0, found.value + reach))


def _can_be_scored(labels: Tensor, settings: ScoreSettings) -> bool:
    of_class = torch.unique(labels, return_counts=True)[1]
    if len(labels) < MIN_INPUTS or int((of_class >= 2).sum()) < 2:
        return False
    try:
        label_geometry(labels, settings.class_embeddings, torch.float64)
    except ValueError:  # classes that share a point of the embeddings
        return False
    return True


def _mean_or_none(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _both(first: Optional[Tensor], second: Optional[Tensor]) -> Optional[Tensor]:
    """Pairs of inputs that are alike in both; None says nothing."""
    return first if second is None else second if first is None else first & second
