"""The scores of one layer of all models over one population.

Every score, interval and p-value is a function of the inner products of the distances (:mod:`captum_kd.metrics.inference`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.distance.block_sums import LocalTiles, TileIterator, population_sums
from captum_kd.distance.gram import correlations_given, partial_correlation
from captum_kd.distance.labels import WAYS_OUT_OF_SCORE, LabelDistances, check_label_geometry, label_distances
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics.inference import (
    Products,
    Score,
    jackknife,
    label_permutation_p_value,
    left_out_scores,
    pair_scores,
    transfer_scores,
)
from captum_kd.metrics.inference.gram_matrices import products_of
from captum_kd.metrics.inference.jackknife import difference
from captum_kd.metrics.inference.left_out_bases import LEAST_BASES
from captum_kd.metrics.report.input_groups import InputGroups
from captum_kd.metrics.report.models import TEACHER_KEY, Pair
from captum_kd.metrics.report.seed_groups import SeedGroup, SeedScores
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import BY_NAME, LABELS, PLACEBO, SIMILARITY, TEACHER, placebo_shares_of, scores_of_pair

_LAST = "\0last:"


class Estimate(NamedTuple):
    """A score with its interval and p-value.

    Attributes:
        value (float): the score; 0 if it is undefined.
        low, high (float, optional): the interval over inputs.
        p_value (float, optional): p-value of the test of this score (:attr:`ReportScore.test`).
        is_defined (bool): True if both sides have a geometry.
        n (int, optional): the number of scored inputs, None if all are scored.
    """

    value: float
    low: Optional[float] = None
    high: Optional[float] = None
    p_value: Optional[float] = None
    is_defined: bool = True
    n: Optional[int] = None


class LayerScores:
    """Scores of one layer, from the distances of each set of features and, for progression, of the model's last layer.

    Attributes:
        settings (Settings): the report's settings.
        sources (dict): the distances of each set of features, by its key.
        sums, products: sums over pairs of inputs and inner products of these, the labels and last layers.
        input_groups (InputGroups, optional): classes or other groups of inputs that have scores of their own.
        dependent (Tensor, optional): (n,), the group of each input; inputs of one group depend on each other.
        block_size, tile_iterator: how distances are passed over.

    The estimator of the settings is used for similarity scores. Relevance is always unbiased, as in the authors' code. Without
    labels there are no scores with them. Inputs of one group depend on each other: intervals count groups, and labels are not
    permuted, since that would need independent inputs.
    """

    def __init__(
        self,
        sources: Mapping[str, DistanceSource],
        last: Mapping[str, DistanceSource],
        labels: Optional[Tensor],
        settings: Settings,
        block_size: Optional[int] = None,
        tile_iterator: TileIterator = LocalTiles(),
        groups: Optional[Tensor] = None,
        input_groups: Optional[InputGroups] = None,
    ) -> None:
        self.settings = settings
        self._labels = labels
        self.dependent = groups
        self.input_groups = input_groups
        self.block_size, self.tile_iterator = block_size, tile_iterator
        self.sources = dict(sources)
        device = next(iter(sources.values())).device
        every = {**sources, **{_LAST + key: source for key, source in last.items()}}
        if labels is not None:
            check_label_geometry(labels, settings.class_embeddings, ways_out=WAYS_OUT_OF_SCORE)
            every[LABELS] = LabelDistances(labels, settings.class_embeddings, device)
        self.sums = population_sums(
            list(every.values()),
            by_row=settings.confidence is not None or settings.by_input or input_groups is not None,
            classes=None if input_groups is None else input_groups.columns(device),
            block_size=block_size,
            tile_iterator=tile_iterator,
        )
        self.products: Products = products_of(tuple(every), list(every.values()), self.sums)
        self._p_values: dict[str, Optional[float]] = {}

    @property
    def has_teacher(self) -> bool:
        return TEACHER_KEY in self.sources

    @property
    def has_labels(self) -> bool:
        return self._labels is not None

    @cached_property
    def placebos(self) -> list[str]:
        """The keys of the placebo Teachers."""
        return [key for key in self.sources if key.startswith(f"{PLACEBO}:")]

    def of_pair(self, pair: Pair) -> dict[str, Estimate]:
        """The five scores of a Student and a Base, twelve with a Teacher, sixteen with placebo Teachers.

        A Student and all Bases have one, or three with a Teacher. Scores with labels are left out if there are none.
        """
        return {
            name: self._estimate(score, BY_NAME[name].kind, BY_NAME[name].test, minus)
            for name, (score, minus) in self.sides(pair).items()
        }

    def sides(self, pair: Pair) -> dict[str, tuple[Score, list[Score]]]:
        """The sides of each score of a pair, and those of the scores whose mean is subtracted."""
        scores = self._sides(pair, TEACHER_KEY if self.has_teacher else None)
        found: dict[str, tuple[Score, list[Score]]] = {name: (score, []) for name, score in scores.items()}
        of_placebos = [self._sides(pair, placebo) for placebo in self.placebos]
        for each in scores_of_pair(self.has_teacher, bool(of_placebos), pair.has_all_bases, self.has_labels):
            if each.share is not None:
                found[each.name] = scores[each.share], [of_placebo[each.share] for of_placebo in of_placebos]
        return found

    def placebo_shares(self, pair: Pair) -> Tensor:
        """The shares of the Teacher and of each placebo Teacher, (scores, 1 + placebos) float64.

        The scores are those of :func:`placebo_shares_of`, and with labels RS. NaN if undefined; without columns if there are no
        placebo Teachers.
        """
        of_teachers = [self._sides(pair, each) for each in ([TEACHER_KEY] * bool(self.placebos) + self.placebos)]
        names = placebo_shares_of(self.has_labels) + ["rs_teacher"] * self.has_labels
        found = [[self.products.score(of_teacher[name]) for of_teacher in of_teachers] for name in names]
        values = [[value if defined else float("nan") for value, defined in row] for row in found]
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    def _sides(self, pair: Pair, teacher: Optional[str]) -> dict[str, Score]:
        return transfer_scores(pair.student.key, pair.base, labels=LABELS if self.has_labels else None, teacher=teacher)

    def unique_share(self, pair: Pair) -> Optional[float]:
        """The share of the Student's geometry that is left after removal, by the unbiased estimator: 1 - FSS^2 for one Base.

        None if one of the two has no geometry.
        """
        return self.products.unique_share(pair.student.key, pair.base)

    def progression(self, key: str) -> Estimate:
        """Similarity of this layer and the model's last layer, for one set of features."""
        return self._estimate(Score(key, _LAST + key), SIMILARITY)

    def pair_matrices(self, keys: list[str]) -> dict[str, Tensor]:
        """The scores of all ordered pairs of models that seed control compares, by question."""
        found: dict[str, Tensor] = {}
        for score in scores_of_pair(self.has_teacher, bool(self.placebos), has_labels=self.has_labels):
            if score.question is None:
                continue
            target = tuple({TEACHER: TEACHER_KEY}.get(name, name) for name in score.y)
            if score.share is not None:
                of_teacher = found[score.share]
                targets = [tuple({TEACHER: placebo}.get(name, name) for name in score.y) for placebo in self.placebos]
                differences = [of_teacher - pair_scores(self.products, keys, each) for each in targets]
                found[score.name] = torch.stack(differences).mean(0)
            elif score.has_removal:
                found[score.name] = pair_scores(self.products, keys, target)
            else:
                found[score.name] = self.similarities(keys)
        return found

    def similarities(self, keys: Sequence[str]) -> Tensor:
        """FSS of all pairs of models, (models, models) float64 on the CPU; NaN for models without geometry."""
        places = [self.products.names.index(key) for key in keys]
        gram, noise = self._gram[places][:, places], self._noise[places]
        rows = [correlations_given(gram, noise, place, ()) for place in range(len(keys))]
        return torch.stack([torch.where(defined, values, float("nan")) for values, defined in rows]).cpu()

    def left_out(self, groups: Sequence[SeedGroup]) -> dict[str, SeedScores]:
        """The scores of Students given several Bases that seed control compares, by question and group."""
        found: dict[str, SeedScores] = {}
        given_all = scores_of_pair(self.has_teacher, all_bases=True, has_labels=self.has_labels)
        for score in given_all if groups[0].bases >= LEAST_BASES else ():
            target = tuple({TEACHER: TEACHER_KEY}.get(name, name) for name in score.y)
            found[score.name] = [
                left_out_scores(self.products, group.keys, group.students, target, shared_seeds=group.shared_seeds)
                for group in groups
            ]
        return found

    def _estimate(self, score: Score, kind: str, test: Optional[str] = None, minus: Sequence[Score] = ()) -> Estimate:
        settings = self.settings
        if kind == SIMILARITY and settings.estimator != "unbiased":
            return self._similarity(str(score.x), str(score.y))
        value, is_defined = difference(self.products, score, minus)
        if settings.confidence is None:
            return Estimate(value, is_defined=is_defined)
        interval = jackknife(self.products, score, settings.confidence, minus=minus, groups=self.dependent)
        p_value = None
        if is_defined and not settings.maps_use_labels:  # relevance is above 0 even under the null hypothesis
            if test == "permutation":
                p_value = self._permutation_p_value(str(score.x))
            elif test == "jackknife":
                p_value = interval.p_value
        return Estimate(value, interval.low, interval.high, p_value, is_defined)

    @cached_property
    def _gram(self) -> Tensor:
        return self.sums.gram(self.settings.estimator)

    @cached_property
    def _noise(self) -> Tensor:
        """The largest squared norms in ``_gram`` that count as rounding."""
        return self.products.noise * (self.sums.n * (self.sums.n - 3))

    def _similarity(self, first: str, second: str) -> Estimate:
        """Similarity by a biased estimator, without interval: leave-one-out values are unbiased."""
        x, y = (self.products.names.index(side) for side in (first, second))
        value, is_defined = partial_correlation(self._gram, self._noise, x, y)
        return Estimate(float(value), is_defined=bool(is_defined))

    def _permutation_p_value(self, key: str) -> Optional[float]:
        """Cached, since all pairs of a model share it."""
        settings = self.settings
        if settings.n_permutations == 0 or self._labels is None or self.dependent is not None:
            return None
        if key not in self._p_values:
            seen, places = torch.unique(self._labels, return_inverse=True)
            self._p_values[key] = label_permutation_p_value(
                self.sources[key],
                places,
                label_distances(seen, seen, settings.class_embeddings),
                permutations=settings.n_permutations,
                seed=settings.seed,
                sums=self.sums.of(self.products.names.index(key)),
                tile_iterator=self.tile_iterator,
            )
        return self._p_values[key]
