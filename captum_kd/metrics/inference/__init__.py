"""Statistical inference about the scores: intervals, p-values, seed control.

Data flows from :mod:`.products` (inner products of geometries, with each input left out) to
:mod:`.jackknife` (intervals and tests over inputs); :mod:`.permutation` needs distances and labels
only; :mod:`.seeds` and :mod:`.verdicts` need the scores of several trained models.
"""

from captum_kd.metrics.inference.gram_matrices import Products, Score, geometry_products, pair_scores, transfer_scores
from captum_kd.metrics.inference.jackknife import JackknifeEstimate, jackknife
from captum_kd.metrics.inference.permutation import label_permutation_p_value
from captum_kd.metrics.inference.seed_tests import SeedTest, holm, seed_test
from captum_kd.metrics.inference.verdicts import QUESTIONS, SeedVerdict, seed_control, single_pair_sentence

__all__ = [
    "JackknifeEstimate",
    "Products",
    "QUESTIONS",
    "Score",
    "SeedTest",
    "SeedVerdict",
    "geometry_products",
    "holm",
    "jackknife",
    "label_permutation_p_value",
    "pair_scores",
    "seed_control",
    "seed_test",
    "single_pair_sentence",
    "transfer_scores",
]
