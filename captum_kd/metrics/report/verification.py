"""Recomputation of a report's scores by dcor, on a sample of the inputs."""

from __future__ import annotations

from dataclasses import replace
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


class Verification(NamedTuple):
    """The result of a recomputation.

    Attributes:
        inputs (int): number of inputs of the sample.
        scores (int): number of recomputed scores; scores that are undefined on the sample are left out.
        largest_difference (float): largest absolute difference between a score and dcor's.
    """

    inputs: int
    scores: int
    largest_difference: float

    def __add__(self, other: Any) -> "Verification":
        largest = max(self.largest_difference, other.largest_difference)
        return Verification(self.inputs, self.scores + other.scores, largest)

    def sentence(self, n: int) -> str:
        """The note in a report over n inputs."""
        return (
            f"dcor recomputed {self.scores} scores on {self.inputs} of the {n} inputs; the largest difference is "
            f"{self.largest_difference:.1g}."
        )


def sample_of(n: int, inputs: int, seed: int) -> list[int]:
    """Sorted indices of a random sample of at most ``inputs`` of n inputs."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
    return sorted(order[:inputs].tolist())


def verify_layer(
    features: Mapping[str, Tensor], labels: Optional[Tensor], pairs: Sequence[Pair], settings: Settings
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

    differences = [0.0]
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
            differences.append(abs(estimate.value - float(expected)))
    return Verification(len(next(iter(points.values()))), len(differences) - 1, max(differences))
