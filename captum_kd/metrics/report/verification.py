"""Recomputation of a report's scores by dcor, on a sample of the inputs."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_kd.distance.sources import FeatureDistances, TensorFeatures
from captum_kd.metrics.inference.gram_matrices import Score, Side
from captum_kd.metrics.report.models import Pair
from captum_kd.metrics.report.scores import LayerScores
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import BY_NAME, LABELS, SIMILARITY

Array = npt.NDArray[np.float64]
ROUNDING = 1e-4
"""Larger differences are no rounding. With ResNet-18 and 200 inputs, they were below 1e-13 where at least 1% of the geometry is
left after removal, and below 4e-9 where 3e-8 of it is left; with distances in float32 (more than 4,096 inputs) below 4e-8 and
below 3e-5."""


class Verification(NamedTuple):
    """The result of a recomputation.

    Attributes:
        dcor (str): version of dcor.
        inputs (int): number of inputs of the sample.
        scores (int): number of recomputed scores; scores that are undefined on the sample are left out.
        largest_difference (float): largest absolute difference between a score and dcor's.
        where (str): the score with this difference, with its layer and models.
    """

    dcor: str
    inputs: int
    scores: int
    largest_difference: float
    where: str

    def __add__(self, other: Any) -> "Verification":
        worse: Verification = max(self, other, key=lambda each: each.largest_difference)
        return worse._replace(scores=self.scores + other.scores)


def foot(found: Mapping[str, Any], n: int) -> str:
    """The last note of a report over n inputs."""
    return (
        f"Checked by dcor {found['dcor']} on {found['inputs']} of {n} inputs: {found['scores']} correlations, largest difference "
        f"{found['largest_difference']:.1g}."
    )


def failed_check(found: Optional[Mapping[str, Any]]) -> list[str]:
    """A caution that comes first: a score differs from dcor's by more than rounding."""
    if found is None or found["largest_difference"] <= ROUNDING:
        return []
    return [
        f"Failed check: dcor {found['dcor']} differs by {found['largest_difference']:.2g} for {found['where']}, on a sample of "
        f"{found['inputs']} inputs. Rounding explains at most {ROUNDING:g}, so one of the two is wrong. Do not use this report. "
        "Please report the failure, with the settings in report.to_json()."
    ]


def sample_of(n: int, inputs: int, seed: int) -> list[int]:
    """Sorted indices of a random sample of at most ``inputs`` of n inputs."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
    return sorted(order[:inputs].tolist())


def verify_layer(
    layer: str, features: Mapping[str, Tensor], labels: Optional[Tensor], pairs: Sequence[Pair], settings: Settings
) -> Verification:
    """Recomputes the scores of one layer from the features (n, d) of a sample and its labels (n,), if there are any.

    Raises:
        ValueError: labels without geometry.
    """
    threads = torch.get_num_threads()
    import dcor  # imported here, since it compiles for seconds

    torch.set_num_threads(threads)  # numba may have changed it
    settings = replace(settings, confidence=None)
    ours = LayerScores({key: FeatureDistances(TensorFeatures(each)) for key, each in features.items()}, {}, labels, settings)
    points = {key: each.detach().cpu().double().numpy() for key, each in features.items()}
    if labels is not None:
        table = settings.class_embeddings
        if table is None:
            table = torch.eye(int(labels.max()) + 1, dtype=torch.float64, device="cpu")
        points[LABELS] = table.cpu()[labels.cpu()].double().numpy()
    centered = {key: dcor.u_centered(dcor.distances.pairwise_distances(each)) for key, each in points.items()}

    def left(side: Side) -> Array:
        name, *given = (side,) if isinstance(side, str) else side
        matrix: Array = centered[name]
        removed = [centered[each] for each in given]
        while removed:
            without = dcor.u_complementary_projection(removed.pop(0))
            matrix, rest = without(matrix), [(each, without(each)) for each in removed]
            # What is in the span of earlier ones is only rounding now.
            removed = [left for each, left in rest if np.linalg.norm(left) > 1e-5 * np.linalg.norm(each)]
        return matrix

    def correlation(score: Score) -> float:
        p, q = left(score.x), left(score.y)
        return float(dcor.u_product(p, q) / np.sqrt(dcor.u_product(p, p) * dcor.u_product(q, q)))

    differences: list[tuple[float, str]] = []
    for pair in pairs:
        sides = ours.sides(pair)
        for name, estimate in ours.of_pair(pair).items():
            if not estimate.is_defined:
                continue
            score, minus = sides[name]
            if BY_NAME[name].kind == SIMILARITY and settings.estimator == "biased":
                expected = float(dcor.distance_correlation_sqr(points[str(score.x)], points[str(score.y)]))
            else:
                expected = correlation(score) - (np.mean([correlation(each) for each in minus]) if minus else 0.0)
            where = f"{name} at {layer} ({pair.student.of.name}, {pair.base_name})"
            difference = abs(estimate.value - float(expected))
            # NaN agrees with nothing: it counts as the largest difference of two correlations.
            differences.append((2.0 if isnan(difference) else difference, where))
    largest, where = max(differences, default=(0.0, "no score"))
    return Verification(dcor.__version__, len(next(iter(points.values()))), len(differences), largest, where)
