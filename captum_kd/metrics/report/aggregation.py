"""Aggregation of batches: scores of the pooled inputs, or means over mini-batches.

Both take features batch by batch and end with the same :class:`LayerSummary` for each layer.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean, stdev
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS
from captum_kd.distance.labels import check_label_geometry
from captum_kd.distance.sources import DistanceSource, FeatureDistances, TensorFeatures
from captum_kd.metrics.inference import LeftOutScores
from captum_kd.metrics.report.group_scores import GroupScores, group_scores
from captum_kd.metrics.report.input_groups import InputGroups, gathered_groups
from captum_kd.metrics.report.inputs import Parts, layer_parts
from captum_kd.metrics.report.models import ComparedModel, FeatureSet, Pair
from captum_kd.metrics.report.scores import Estimate, LayerScores
from captum_kd.metrics.report.seed_groups import SeedGroup, SeedScores
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.report.sharding import ReportSharding, all_reduce_counts
from captum_kd.metrics.report.storage import FeatureStores, Placement, place_distances, size_advice
from captum_kd.metrics.report.verification import Verification, sample_of, verify_layer
from captum_kd.metrics.scores_table import BASE, BY_NAME, PLACEBO, STUDENT, TEACHER


class ReportPlan(NamedTuple):
    """The scores to compute.

    Attributes:
        labels (sequence of str): the layers' labels.
        pairs (sequence of Pair): the pairs of a Student and a Base, or all Bases.
        sets (sequence of FeatureSet): the feature sets of all pairs, of the Teacher and of the placebo Teachers.
        compared (sequence of str): keys of the models that seed control compares, Students first; empty without seed control.
        seed_groups (sequence of SeedGroup): the groups that seed control compares.
        settings (Settings): the checked arguments.
    """

    labels: Sequence[str]
    pairs: Sequence[Pair]
    sets: Sequence[FeatureSet]
    compared: Sequence[str]
    seed_groups: Sequence[SeedGroup]
    settings: Settings

    @property
    def of_one_base(self) -> list[Pair]:
        """The pairs with one Base."""
        return [pair for pair in self.pairs if not pair.has_all_bases]

    @property
    def progression(self) -> bool:
        return self.settings.comparisons.progression

    @property
    def models(self) -> list[ComparedModel]:
        """Students, Bases, the Teacher and placebo Teachers; none if a model has other features in each pair."""
        roles = (STUDENT, BASE, TEACHER, PLACEBO)
        models = [] if self.settings.in_pairs else [each.of for each in self.sets]
        return sorted(models, key=lambda each: roles.index(each.role))


class LayerSummary(NamedTuple):
    """The scores of one layer.

    Attributes:
        estimates (list of dict): the estimates of each pair, by the score's name.
        unique_shares (list of float or None): the unique share of each pair.
        progressions (dict): similarity with the last layer, by the feature set's key; empty without progression.
        matrices (dict): by question, scores of all ordered pairs of models, or of Students given several Bases by group.
        placebo_shares (list of Tensor): shares of the Teacher and of placebo Teachers for each pair with one Base, see
            :meth:`LayerScores.placebo_shares`.
        similarities (Tensor, optional): FSS of all pairs of :attr:`ReportPlan.models`, NaN where undefined; None if there are
            none.
        groups (mapping): scores of classes or other groups of inputs, if requested.
        parts (dict): parts of single inputs, if requested.
    """

    estimates: list[dict[str, Estimate]]
    unique_shares: list[Optional[float]]
    progressions: dict[str, Estimate]
    matrices: dict[str, SeedScores]
    placebo_shares: list[Tensor]
    similarities: Optional[Tensor]
    groups: Mapping[int, GroupScores] = {}
    parts: Parts = {}


class Aggregator:
    """Aggregates batches into the scores of each layer.

    Attributes:
        n (int): the number of scored inputs.
        counts (dict): the number of scored inputs of each class; empty without labels.
        used, left_out (int): the numbers of mini-batches with and without scores.
        left_out_of_removal (int): the number of mini-batches without scores with removal.
        undefined (int): the number of undefined scores of single mini-batches, which are left out of the means.
        groups (Tensor, optional): (n,), the group of each input; inputs of one group depend on each other.
        verification (Verification, optional): the recomputation by dcor.
        labels (Tensor, optional): (n,), the labels of the inputs of all ranks.
        input_groups (InputGroups, optional): classes or other groups that have scores of their own.
    """

    groups: Optional[Tensor] = None
    labels: Optional[Tensor] = None
    input_groups: Optional[InputGroups] = None
    verification: Optional[Verification] = None

    def __init__(self, plan: ReportPlan, group: ProcessGroup) -> None:
        self.counts: dict[int, int] = {}
        self.n = self.used = self.left_out = self.left_out_of_removal = self.undefined = 0
        self._plan = plan
        self._group = group

    def add(self, features: dict[str, list[TensorFeatures]], labels: Optional[Tensor]) -> None:
        """Adds the features (N, d) of one batch: one tensor for each layer, by the set's key."""
        raise NotImplementedError

    def layers(self) -> Iterator[LayerSummary]:
        """The scores of each layer, in the labels' order."""
        raise NotImplementedError

    def recorded(self) -> dict[str, Any]:
        """The batches and storage used, for the report's settings."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees all features."""

    def _count(self, features: Mapping[str, Sequence[TensorFeatures]], labels: Optional[Tensor]) -> None:
        self.n += next(iter(features.values()))[0].shape[0]
        for label in [] if labels is None else labels.tolist():
            self.counts[label] = self.counts.get(label, 0) + 1


class PooledScores(Aggregator):
    """Scores over all inputs at once. Keeps all features; above the memory limit they go to temporary files."""

    def __init__(self, plan: ReportPlan, group: ProcessGroup) -> None:
        super().__init__(plan, group)
        device, advice = plan.settings.device, size_advice(plan.settings.feature_transform)
        self._sharding = ReportSharding(group, device, f"{advice} Load the models in one dtype.")
        self._stores = FeatureStores(device, plan.settings.compute.memory_limit, advice)
        self._labels: list[Tensor] = []
        self._placement: Optional[Placement] = None

    def add(self, features: dict[str, list[TensorFeatures]], labels: Optional[Tensor]) -> None:
        self._count(features, labels)
        self._stores.add(features)
        if labels is not None:
            self._labels.append(labels)

    def layers(self) -> Iterator[LayerSummary]:
        plan, sharding, stores = self._plan, self._sharding, self._stores.by_key
        labels = self.labels = self._gather_labels()
        settings = plan.settings
        self.input_groups = gathered_groups(settings.groups_of_inputs, labels, settings.by_class, self._group)
        self.n = sharding.gather_size(self.n) if labels is None else len(labels)
        self.counts = all_reduce_counts(self._group, self.counts)
        if self.n < LEAST_WITH_REMOVAL:
            raise ValueError(
                f"The data hold {self.n} inputs; scores with removal need at least {LEAST_WITH_REMOVAL}, and a few "
                "hundred to be stable."
            )
        matrices = len(plan.sets) * (2 if plan.progression else 1)
        own = place_distances(
            plan.settings.compute, plan.settings.device, self.n, matrices, self._group.size, self._stores.in_file
        )
        placed = self._placement = sharding.placement(own, stores)
        keys = list(sharding.specs)
        last: dict[str, DistanceSource] = {}
        if plan.progression:
            last = {key: sharding.source(key, -1, stores, placed) for key in keys}
        for place in range(len(plan.labels)):
            is_last = bool(last) and place == len(plan.labels) - 1
            sources = last if is_last else {key: sharding.source(key, place, stores, placed) for key in keys}
            scores = LayerScores(
                sources, last, labels, settings, placed.block_size, sharding.tiles, self.groups, self.input_groups
            )
            if plan.settings.compute.verify:
                found = self._verified(place, labels)
                self.verification = found if self.verification is None else self.verification + found
            yield layer_summary(scores, plan, last)
            for of_layers in stores.values():
                of_layers[place].close()

    def _gather_labels(self) -> Optional[Tensor]:
        if not self._plan.settings.comparisons.labels:
            return None
        own = torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.long, device="cpu")
        return self._sharding.gather_labels(own)

    def _verified(self, place: int, labels: Optional[Tensor]) -> Verification:
        rows, plan = sample_of(self.n, self._plan.settings.compute.verify, self._plan.settings.seed), self._plan
        features = {key: stores[place].read(rows, slice(None)) for key, stores in self._stores.by_key.items()}
        return verify_layer(plan.labels[place], features, None if labels is None else labels[rows], plan.pairs, plan.settings)

    def recorded(self) -> dict[str, Any]:
        placed = self._placement
        assert placed is not None
        return {
            "batches": None,
            "features": {"in_file": placed.in_file, "block_size": None if placed.held else placed.block_size},
        }

    def close(self) -> None:
        self._stores.close()


def layer_summary(scores: LayerScores, plan: ReportPlan, last: Mapping[str, DistanceSource]) -> LayerSummary:
    """The summary of one layer from its scores; ``last`` are the distances of the last layers, empty without progression."""
    return LayerSummary(
        [scores.of_pair(pair) for pair in plan.pairs],
        [scores.unique_share(pair) for pair in plan.pairs],
        {key: scores.progression(key) for key in last},
        {**scores.pair_matrices(list(plan.compared)), **scores.left_out(plan.seed_groups)} if plan.compared else {},
        [scores.placebo_shares(pair) for pair in plan.of_one_base],
        scores.similarities([each.key for each in plan.models]) if plan.models else None,
        group_scores(scores, plan.of_one_base, plan.compared),
        layer_parts(scores, plan.of_one_base) if plan.settings.by_input else {},
    )


class BatchMeanScores(Aggregator):
    """Mean scores of the loader's own batches, as in the authors' earlier scripts. Keeps scores, but no features.

    A batch counts if its labels have a geometry and at least two of its classes have two inputs or more; without labels, if it
    has 4 inputs. Scores with removal also need 5 inputs. A score that is undefined in a batch (constant features) is left out
    of the mean. Intervals come from the spread over batches; they are intervals of the mean over batches of this size.
    """

    def __init__(self, plan: ReportPlan, group: ProcessGroup) -> None:
        super().__init__(plan, group)
        self._batches: list[tuple[int, list[LayerSummary]]] = []
        self._of_one_batch = replace(plan.settings, confidence=None)

    def add(self, features: dict[str, list[TensorFeatures]], labels: Optional[Tensor]) -> None:
        plan, n = self._plan, next(iter(features.values()))[0].shape[0]
        if not _can_be_scored(n, labels, plan.settings.class_embeddings):
            self.left_out += 1
            return
        few = n < LEAST_WITH_REMOVAL
        self.left_out_of_removal += few
        self.used += 1
        self._count(features, labels)
        by_layer = [
            {key: FeatureDistances(of_layers[place]).matrix() for key, of_layers in features.items()}
            for place in range(len(plan.labels))
        ]
        last = by_layer[-1] if plan.progression else {}
        summaries = [layer_summary(LayerScores(sources, last, labels, self._of_one_batch), plan, last) for sources in by_layer]
        self._batches.append((n, list(map(_without_removal, summaries)) if few else summaries))

    def layers(self) -> Iterator[LayerSummary]:
        self._gather()
        if not self._batches:
            needed = "two classes of two inputs or more" if self._plan.settings.comparisons.labels else "4 inputs or more"
            raise ValueError(
                f'None of the {self.left_out} mini-batches has {needed}, as population="batch" needs. Shuffle the loader, use '
                'larger batches, or pass population="all".'
            )
        sizes = [size for size, _ in self._batches]
        for place in range(len(self._plan.labels)):
            summaries = [of_layers[place] for _, of_layers in self._batches]
            questions = list(dict.fromkeys(name for each in summaries for name in each.matrices))
            pairs = range(len(self._plan.pairs))
            yield LayerSummary(
                [self._means(sizes, [each.estimates[pair] for each in summaries]) for pair in pairs],
                [_mean_or_none([each.unique_shares[pair] for each in summaries]) for pair in pairs],
                {
                    key: self._mean(sizes, [each.progressions[key] for each in summaries])
                    for key in summaries[0].progressions
                },
                # A pair of models that is undefined in all batches stays NaN.
                {
                    name: _mean_scores([each.matrices[name] for each in summaries if name in each.matrices])
                    for name in questions
                },
                [torch.stack(of_pair).nanmean(0) for of_pair in zip(*(each.placebo_shares for each in summaries))],
                torch.stack([each.similarities for each in summaries if each.similarities is not None]).nanmean(0)
                if self._plan.models
                else None,
            )

    def recorded(self) -> dict[str, Any]:
        return {"batches": {"used": self.used, "left_out": self.left_out}, "features": None}

    def _gather(self) -> None:
        """Gathers the counts and the scores of all ranks' batches in every rank."""
        self.counts = all_reduce_counts(self._group, self.counts)
        self._batches = [batch for batches in self._group.gather(self._batches) for batch in batches]
        of_ranks = self._group.gather((self.n, self.left_out, self.left_out_of_removal, self.used))
        self.n, self.left_out, self.left_out_of_removal, self.used = map(sum, zip(*of_ranks))

    def _means(self, sizes: Sequence[int], estimates: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
        names = dict.fromkeys(name for each in estimates for name in each)
        return {name: self._mean(sizes, [each.get(name) for each in estimates]) for name in names}

    def _mean(self, sizes: Sequence[int], estimates: Sequence[Optional[Estimate]]) -> Estimate:
        """The mean over the batches that define the score. None stands for a batch without this score."""
        taken = [(size, each) for size, each in zip(sizes, estimates) if each is not None]
        defined = [(size, each.value) for size, each in taken if each.is_defined]
        self.undefined += len(taken) - len(defined)
        if not defined:
            return Estimate(0.0, is_defined=False, n=0)
        values = [value for _, value in defined]
        found = Estimate(mean(values), n=sum(size for size, _ in defined))
        confidence = self._plan.settings.confidence
        if confidence is None or len(values) < 2:
            return found
        from scipy.special import stdtrit  # imported here so that import captum_kd stays fast

        reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / len(values) ** 0.5
        return found._replace(low=max(-1.0, found.value - reach), high=min(1.0, found.value + reach))


def _without_removal(summary: LayerSummary) -> LayerSummary:
    estimates = [{name: e for name, e in each.items() if not BY_NAME[name].has_removal} for each in summary.estimates]
    matrices = {name: each for name, each in summary.matrices.items() if not BY_NAME[name].has_removal}
    shares = [torch.full_like(each, float("nan")) for each in summary.placebo_shares]
    return LayerSummary(estimates, [None] * len(estimates), summary.progressions, matrices, shares, summary.similarities)


def _mean_scores(scores: Sequence[SeedScores]) -> SeedScores:
    if isinstance(scores[0], Tensor):
        return torch.stack([each for each in scores if isinstance(each, Tensor)]).nanmean(0)
    by_group = zip(*(each for each in scores if not isinstance(each, Tensor)))
    return [LeftOutScores(*(torch.stack(values).nanmean(0) for values in zip(*of_batches))) for of_batches in by_group]


def _can_be_scored(n: int, labels: Optional[Tensor], class_embeddings: Optional[Tensor]) -> bool:
    if n < MIN_INPUTS or labels is None:
        return n >= MIN_INPUTS
    of_class = torch.unique(labels, return_counts=True)[1]
    if int((of_class >= 2).sum()) < 2:
        return False
    try:
        check_label_geometry(labels, class_embeddings)
    except ValueError:  # the batch's classes share one embedding
        return False
    return True


def _mean_or_none(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
