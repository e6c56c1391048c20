"""Distance correlation between two sets of features of the same inputs.

A population of ``n`` inputs is described by the Euclidean distances between its features (:mod:`.pairwise`).
Centering removes what any population has in common; what is left, a :class:`Geometry` (:mod:`.centering`), can be
multiplied, correlated and removed from another one. All that scores need of it are inner products
(:mod:`.gram`), which add up over blocks of distances (:mod:`.sources`, :mod:`.sums`), so populations whose
matrices fit nowhere have the same scores (:mod:`.blockwise`). Everything else in this package calls these
functions; the formulas are written down nowhere else.

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
