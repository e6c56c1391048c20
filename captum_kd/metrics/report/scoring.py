"""From features to scores: one layer of all models over one population.

Distances are taken once for each view; every score, interval and p-value is algebra on their inner products
(:mod:`captum_kd.metrics.inference`).
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd.distance import Estimator, center, correlation, distances_to_center, noise_level
from captum_kd.embeddings import WAYS_OUT_OF_SCORE, label_distances, label_geometry
from captum_kd.metrics.inference import (
    Products,
    Score,
    geometry_products,
    jackknife,
    label_permutation_p_value,
    pair_scores,
    transfer_scores,
)
from captum_kd.metrics.report.subjects import TEACHER
from captum_kd.metrics.report.views import Pair

__all__ = [
    "Estimate",
    "LayerScores",
    "SIMILARITIES",
    "ScoreSettings",
    "TESTED_BY_JACKKNIFE",
    "WHOLE",
    "is_of_a_remainder",
    "repeated_inputs",
    "widened_distances",
]

# 0.5 GiB of float64 features, and 0.13 GiB for a matrix of distances.
MOST_WIDENED_NUMBERS = 2**26
MOST_WIDENED_INPUTS = 2**12

LABELS = "labels"
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
        maps_know_labels (bool): whether the features were localised by maps of the inputs' own labels. They then carry
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
        features (mapping of str to Tensor): (n, d) of each view, by its key; emptied on the way, so that no more
            than one layer's features of one model are held beside the distances.
        labels (Tensor): (n,).
        settings (ScoreSettings): how scores are taken.

    Raises:
        ValueError: labels without geometry or outside the embeddings.
    """

    def __init__(self, features: dict[str, Tensor], labels: Tensor, settings: ScoreSettings) -> None:
        label_geometry(labels, settings.class_embeddings, torch.float64, ways_out=WAYS_OUT_OF_SCORE)
        self.n = labels.shape[0]
        self._settings = settings
        self._labels = labels
        self.distances: dict[str, Tensor] = {}
        levels: list[float] = []
        for key in list(features):
            values = features.pop(key)
            self.distances[key] = widened_distances(values)
            levels.append(noise_level(values.dtype) * float(torch.linalg.matrix_norm(self.distances[key])))
        device = next(iter(self.distances.values())).device
        goal = label_distances(labels, labels, settings.class_embeddings).to(device)
        leave_one_out = settings.confidence is not None
        products = geometry_products({**self.distances, LABELS: goal}, leave_one_out=leave_one_out)
        # Distances may be wider than the features they come from, whose rounding is what counts.
        noise = products.noise.clone()
        noise[:-1] = torch.maximum(noise[:-1], noise.new_tensor(levels).square() / (self.n * (self.n - 3)))
        self.products: Products = products._replace(noise=noise)
        self._p_values: dict[str, Optional[float]] = {}

    @property
    def has_teacher(self) -> bool:
        return TEACHER_KEY in self.distances

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

    def progression(self, key: str, last: Tensor) -> Estimate:
        """Similarity of this layer and the model's last one.

        Args:
            key (str): the view's.
            last (Tensor): (n, n) distances of its last layer.
        """
        confidence = self._settings.confidence
        if self._settings.estimator == "biased":
            return self._biased(self.distances[key], last)
        both = geometry_products({"here": self.distances[key], "last": last}, leave_one_out=confidence is not None)
        score = Score("here", "last")
        value, is_defined = both.score(score)
        if confidence is None:
            return Estimate(value, is_defined=is_defined)
        interval = jackknife(both, score, confidence)
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
            return self._biased(*(self.distances[str(side)] for side in score))
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

    def _biased(self, first: Tensor, second: Tensor) -> Estimate:
        """Leave-one-out values are those of the unbiased estimator: no interval here."""
        sides = [center(distances, "biased") for distances in (first, second)]
        is_defined = not any(bool(side.is_negligible()) for side in sides)
        return Estimate(float(correlation(sides[0], sides[1], warn=False)), is_defined=is_defined)

    def _biased_pairs(self, keys: list[str]) -> Tensor:
        scores = torch.eye(len(keys), dtype=torch.float64)
        for i, first in enumerate(keys):
            for j, second in enumerate(keys[:i]):
                found = self._biased(self.distances[first], self.distances[second])
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
                    self.distances[key],
                    places,
                    label_distances(seen, seen, settings.class_embeddings),
                    permutations=settings.n_permutations,
                    seed=settings.seed,
                )
        return self._p_values[key]


def widened_distances(features: Tensor) -> Tensor:
    """Distances up to scale, in float64 where the features are not too many to be widened.

    Where two models are nearly alike, removal magnifies the rounding of float32 to more than 1e-6 of a score.
    """
    few = features.shape[0] <= MOST_WIDENED_INPUTS and features.numel() <= MOST_WIDENED_NUMBERS
    wide = few and features.device.type != "mps"
    return distances_to_center(features.double() if wide else features)


def repeated_inputs(distances: Mapping[str, Tensor]) -> Optional[Tensor]:
    """(n, n) booleans: pairs of inputs that no model tells apart; None where no model has a geometry."""
    together: Optional[Tensor] = None
    for matrix in distances.values():
        # The same input in another batch may come out different in the last digits. Medians of rows: an outlier
        # must not make all others look alike.
        usual = matrix.median(1).values.median()
        if bool(usual == 0):
            continue  # this model puts most inputs in one place
        alike = matrix <= 1e-5 * usual
        together = alike if together is None else together & alike
    return None if together is None else together.fill_diagonal_(False)
