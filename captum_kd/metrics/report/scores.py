"""The scores of one layer of all models over one population.

Every score, interval and p-value is algebra on the inner products of the views' distances
(:mod:`captum_kd.metrics.inference`), all of which come from the same blocks of distances, held or not.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd.distance.block_sums import LocalTiles, PairSums, TileIterator, population_sums
from captum_kd.distance.centering import Estimator
from captum_kd.distance.gram import partial_correlation
from captum_kd.distance.labels import WAYS_OUT_OF_SCORE, LabelDistances, check_label_geometry, label_distances
from captum_kd.distance.sources import DistanceSource, FeatureDistances, Features, is_to_be_widened
from captum_kd.metrics.inference import Products, Score, jackknife, label_permutation_p_value, pair_scores, transfer_scores
from captum_kd.metrics.inference.gram_matrices import Side, products_of
from captum_kd.metrics.report.collect import Pair
from captum_kd.metrics.report.models import TEACHER

__all__ = [
    "Estimate",
    "LayerScores",
    "SIMILARITIES",
    "ScoreSettings",
    "TESTED_BY_JACKKNIFE",
    "WHOLE",
    "distance_source",
    "is_of_a_remainder",
]


LABELS = "labels"
_LAST = "\0last:"
TEACHER_KEY = f"{TEACHER}:{TEACHER}"

SIMILARITIES = ("fss", "fss_student_teacher", "fss_base_teacher")
WHOLE = ("rs_student", "rs_base", "rs_teacher")
"""Relevance of a whole model: labels can be permuted."""
TESTED_BY_JACKKNIFE = ("rs_distilled", "rs_residual")
"""For the Teacher's share of these 0 is no null: all models look at the same inputs."""


def is_of_a_remainder(score: str) -> bool:
    """Whether a score is of distilled or residual features, what is left after removal."""
    return score.endswith(("_distilled", "_residual"))


class ScoreSettings(NamedTuple):
    """How scores are taken.

    Attributes:
        estimator (str): of similarity scores, progression and seed control of FSS included; relevance is always
            unbiased, as in the authors' code.
        confidence (float, optional): coverage of the intervals; None: no intervals and p-values.
        n_permutations (int): of the labels; 0 for none.
        seed (int): of the permutations.
        class_embeddings (Tensor, optional): (num_classes, e).
        maps_know_labels (bool): whether the features were localized by maps of the inputs' own labels. They then carry
            the labels, relevance of nothing is no longer 0, and no p-value of relevance would hold.
    """

    estimator: Estimator
    confidence: Optional[float]
    n_permutations: int
    seed: int
    class_embeddings: Optional[Tensor]
    maps_know_labels: bool = False


class Estimate(NamedTuple):
    """A score with what is known of its uncertainty.

    Attributes:
        value (float): 0 where the score is not defined.
        low, high (float, optional): interval over inputs.
        p_value (float, optional): of the test that suits the score.
        is_defined (bool): whether both sides have a geometry.
        n (int, optional): inputs over which the score was taken, where these are not all.
    """

    value: float
    low: Optional[float] = None
    high: Optional[float] = None
    p_value: Optional[float] = None
    is_defined: bool = True
    n: Optional[int] = None


class LayerScores:
    """Scores of one layer.

    Args:
        sources (mapping of str to DistanceSource): of each view, by its key.
        last (mapping of str to DistanceSource): of the same views at the models' last layer, where progression is asked
            for.
        labels (Tensor): (n,).
        settings (ScoreSettings): how scores are taken.
        block_size (int, optional): inputs a side of a block.
        walk (Walk): where several processes share the population.

    Raises:
        ValueError: labels without geometry or outside the embeddings.
    """

    def __init__(
        self,
        sources: Mapping[str, DistanceSource],
        last: Mapping[str, DistanceSource],
        labels: Tensor,
        settings: ScoreSettings,
        block_size: Optional[int] = None,
        walk: TileIterator = LocalTiles(),
    ) -> None:
        check_label_geometry(labels, settings.class_embeddings, ways_out=WAYS_OUT_OF_SCORE)
        self._settings = settings
        self._labels = labels
        self._walk = walk
        self._sources = dict(sources)
        device = next(iter(sources.values())).device
        every = {
            **sources,
            LABELS: LabelDistances(labels, settings.class_embeddings, device),
            **{_LAST + key: source for key, source in last.items()},
        }
        self._sums: PairSums = population_sums(
            list(every.values()),
            by_row=settings.confidence is not None,
            block_size=block_size,
            walk=walk,
        )
        self.products: Products = products_of(tuple(every), list(every.values()), self._sums)
        self._biased_gram: Optional[Tensor] = None
        if settings.estimator == "biased":
            self._biased_gram = self._sums.gram("biased")
        self._p_values: dict[str, Optional[float]] = {}

    @property
    def has_teacher(self) -> bool:
        return TEACHER_KEY in self._sources

    def of_pair(self, pair: Pair) -> dict[str, Estimate]:
        """The five scores of a Student and a Base; with a Teacher the twelve."""
        student, base = pair.student.key, pair.base.key
        scores = transfer_scores(student, base, labels=LABELS, teacher=TEACHER_KEY if self.has_teacher else None)
        return {name: self._estimate(name, score) for name, score in scores.items()}

    def unique_share(self, pair: Pair) -> Optional[float]:
        """1 - FSS^2, by the unbiased estimator: what is left of one geometry when the other is removed.

        None where one of the two has no geometry.
        """
        return self.products.unique_share(pair.student.key, pair.base.key)

    def progression(self, key: str) -> Estimate:
        """Similarity of this layer and the model's last one.

        Args:
            key (str): the view's.
        """
        score = Score(key, _LAST + key)
        if self._settings.estimator == "biased":
            return self._biased(*score)
        value, is_defined = self.products.score(score)
        if self._settings.confidence is None:
            return Estimate(value, is_defined=is_defined)
        interval = jackknife(self.products, score, self._settings.confidence)
        return Estimate(value, interval.low, interval.high, None, is_defined)

    def pair_matrices(self, keys: list[str]) -> dict[str, Tensor]:
        """By question, the scores of all ordered pairs of models: what seed control compares."""
        questions = {"fss": pair_scores(self.products, keys), "rs_distilled": pair_scores(self.products, keys, LABELS)}
        if self._settings.estimator == "biased":
            questions["fss"] = self._biased_pairs(keys)
        if self.has_teacher:
            questions["teacher_distilled"] = pair_scores(self.products, keys, TEACHER_KEY)
            questions["teacher_only_distilled"] = pair_scores(self.products, keys, (TEACHER_KEY, LABELS))
        return questions

    def _estimate(self, name: str, score: Score) -> Estimate:
        settings = self._settings
        value, is_defined = self.products.score(score)
        if name in SIMILARITIES and settings.estimator == "biased":
            return self._biased(score.x, score.y)
        if settings.confidence is None:
            return Estimate(value, is_defined=is_defined)
        interval = jackknife(self.products, score, settings.confidence)
        p_value = None
        if is_defined and not settings.maps_know_labels:
            if name in WHOLE:
                p_value = self._permutation_p_value(str(score.x))
            elif name in TESTED_BY_JACKKNIFE:
                p_value = interval.p_value
        return Estimate(value, interval.low, interval.high, p_value, is_defined)

    def _biased(self, first: Side, second: Side) -> Estimate:
        """Leave-one-out values are those of the unbiased estimator: no interval here."""
        assert self._biased_gram is not None
        x, y = (self.products.names.index(str(side)) for side in (first, second))
        noise = self.products.noise * (self._sums.n * (self._sums.n - 3))
        value, is_defined = partial_correlation(self._biased_gram, noise, x, y)
        return Estimate(float(value), is_defined=bool(is_defined))

    def _biased_pairs(self, keys: list[str]) -> Tensor:
        scores = torch.eye(len(keys), dtype=torch.float64, device="cpu")
        for i, first in enumerate(keys):
            for j, second in enumerate(keys[:i]):
                found = self._biased(first, second)
                scores[i, j] = scores[j, i] = found.value if found.is_defined else float("nan")
        return scores

    def _permutation_p_value(self, key: str) -> Optional[float]:
        """Every pair of a model asks for it again: computed once."""
        if key not in self._p_values:
            settings = self._settings
            if settings.n_permutations == 0:
                self._p_values[key] = None
            else:
                seen, places = torch.unique(self._labels, return_inverse=True)
                self._p_values[key] = label_permutation_p_value(
                    self._sources[key],
                    places,
                    label_distances(seen, seen, settings.class_embeddings),
                    permutations=settings.n_permutations,
                    seed=settings.seed,
                    sums=self._sums.of(self.products.names.index(key)),
                    walk=self._walk,
                )
        return self._p_values[key]


def distance_source(features: Features, *, held: bool) -> DistanceSource:
    """Distances up to scale, in float64 where the inputs are not too many.

    Where two models are nearly alike, removal magnifies the rounding of float32 to more than 1e-6 of a score.

    Args:
        features (Features): (n, d).
        held (bool): whether to compute all of them now and keep them, or block by block when they are asked for.
    """
    source = FeatureDistances(features, widen=is_to_be_widened(features))
    return source.matrix() if held else source
