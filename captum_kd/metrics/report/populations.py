"""Which inputs a score is taken over: all of them at once, or mini-batch after mini-batch.

Both take features batch by batch and end with the same :class:`LayerSummary` for each layer.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd.distance import MIN_INPUTS
from captum_kd.metrics.report.scoring import Estimate, LayerScores, ScoreSettings, repeated_inputs, widened_distances
from captum_kd.metrics.report.views import Pair, View

__all__ = ["AllInputs", "LayerSummary", "MiniBatches", "Population", "Question"]

LEAST_WITH_REMOVAL = MIN_INPUTS + 1
REMOVED = (
    "rs_distilled", "rs_residual", "teacher_distilled", "teacher_residual", "teacher_only_distilled",
    "teacher_only_residual",
)  # fmt: skip


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
        unique_shares (list of float): for each pair.
        progressions (dict): by view key; empty unless asked for.
        matrices (dict): by question, scores of all ordered pairs of models.
    """

    estimates: list[dict[str, Estimate]]
    unique_shares: list[float]
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

    repeated: int
    """Inputs that no model tells from another one."""

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
        check_memory (callable): called with the bytes that features take and the inputs seen, after each batch.
        device (torch.device): where features are kept and scored.
    """

    def __init__(self, check_memory: Callable[[int, int], None], device: torch.device) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.repeated = 0
        self._check_memory = check_memory
        self._device = device
        self._features: dict[str, list[list[Tensor]]] = {}
        self._labels: list[Tensor] = []
        self._bytes = 0

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
        self._labels.append(labels)
        _count(self.counts, labels)
        self._check_memory(self._bytes, sum(self.counts.values()))

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
            alike = repeated_inputs(scores.distances)
            together = alike if together is None else together & alike
            self.repeated = int(together.any(1).sum())
            yield LayerSummary(
                [scores.of_pair(pair) for pair in question.pairs],
                [scores.unique_share(pair) for pair in question.pairs],
                {key: scores.progression(key, distances) for key, distances in last.items()},
                scores.pair_matrices(list(question.compared)) if question.compared else {},
            )


class MiniBatches:
    """Mean scores of the loader's own batches: the published way. Keeps scores, no features.

    A batch counts if two of its classes have two inputs or more, and for scores with removal if it has at least 5
    inputs. Intervals come from the spread over batches and are those of the mean over batches of this size.
    """

    def __init__(self, question: Question) -> None:
        self.counts: dict[int, int] = {}
        self.left_out = 0
        self.left_out_of_removal = 0
        self.used = 0
        self.repeated = 0
        self._question = question
        self._batches: list[list[LayerSummary]] = []

    def add(self, features: dict[str, list[Tensor]], labels: Tensor) -> None:
        of_class = torch.unique(labels, return_counts=True)[1]
        if len(labels) < MIN_INPUTS or int((of_class >= 2).sum()) < 2:
            self.left_out += 1
            return
        question = self._question
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
            alike = repeated_inputs(scores.distances)
            together = alike if together is None else together & alike
            estimates = [scores.of_pair(pair) for pair in question.pairs]
            matrices = scores.pair_matrices(list(question.compared)) if question.compared else {}
            if few:
                estimates = [{k: v for k, v in each.items() if k not in REMOVED} for each in estimates]
                matrices = {"fss": matrices["fss"]} if matrices else {}
            summaries.append(
                LayerSummary(
                    estimates,
                    [scores.unique_share(pair) for pair in question.pairs],
                    {key: scores.progression(key, distances) for key, distances in last.items()},
                    matrices,
                )
            )
        assert together is not None
        self.repeated += int(together.any(1).sum())
        self._batches.append(summaries)

    def layers(self, question: Question) -> Iterator[LayerSummary]:
        if not self._batches:
            raise ValueError(
                f"None of the {self.left_out} mini-batches has two classes of two inputs or more, as "
                'population="batch" needs. Shuffle the loader, use larger batches, or population="all".'
            )
        for place in range(len(question.labels)):
            summaries = [batch[place] for batch in self._batches]
            first = summaries[0]
            names = list(dict.fromkeys(name for each in summaries for name in each.estimates[0]))
            questions = list(dict.fromkeys(name for each in summaries for name in each.matrices))
            yield LayerSummary(
                [
                    {
                        name: self._mean([each.estimates[pair][name] for each in summaries if name in each.estimates[pair]])
                        for name in names
                    }
                    for pair in range(len(question.pairs))
                ],
                [mean(each.unique_shares[pair] for each in summaries) for pair in range(len(question.pairs))],
                {key: self._mean([each.progressions[key] for each in summaries]) for key in first.progressions},
                {
                    name: torch.stack([each.matrices[name] for each in summaries if name in each.matrices]).mean(0)
                    for name in questions
                },
            )

    def _mean(self, estimates: Sequence[Estimate]) -> Estimate:
        values = [each.value for each in estimates]
        value = mean(values)
        is_defined = all(each.is_defined for each in estimates)
        confidence = self._question.settings.confidence
        if confidence is None or len(values) < 2:
            return Estimate(value, is_defined=is_defined)
        from scipy.special import stdtrit  # with dcor; here because import captum_kd shall stay fast

        reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / len(values) ** 0.5
        return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), None, is_defined)
