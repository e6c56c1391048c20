"""Distance correlation between two sets of features of the same inputs.

A population of ``n`` inputs is described by the Euclidean distances between its features (:mod:`.pairwise`).
Centered distances are called a geometry (:mod:`.centering`). Scores need only the inner products of geometries, the Gram
matrix (:mod:`.gram`). It is a sum over tiles of the distance matrices (:mod:`.sources`, :mod:`.block_sums`), so populations
whose matrices do not fit into memory have the same scores (:mod:`.blockwise`).

Sources: Szekely, Rizzo & Bakirov 2007 (distance correlation), Szekely & Rizzo
2014 (U-centering, unbiased estimator, partial distance correlation).
"""

from captum_kd.distance.centering import Estimator
from captum_kd.distance.functional import (
    distance_correlation,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.distance.pairwise import euclidean_distances

__all__ = [
    "Estimator",
    "distance_correlation",
    "euclidean_distances",
    "partial_distance_correlation",
    "semipartial_distance_correlation",
]
