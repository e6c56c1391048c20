"""Statistical inference about the scores: intervals, p-values, seed control.

:mod:`.jackknife` computes intervals and tests over inputs from the leave-one-out Gram matrices of :mod:`.gram_matrices`.
:mod:`.input_parts` splits a score into the parts of single inputs. :mod:`.permutation` needs only distances and labels. Seed
control (:mod:`.seed_tests`, :mod:`.verdicts`) tests whether a difference between Students and Bases exceeds the differences
between models of other random seeds. :mod:`.placebo_tests` tests whether a Teacher's share exceeds the shares of other
Teachers of its recipe.
"""

from captum_kd.metrics.inference.gram_matrices import Products, Score, geometry_products, pair_scores, transfer_scores
from captum_kd.metrics.inference.input_parts import input_parts
from captum_kd.metrics.inference.jackknife import JackknifeEstimate, jackknife
from captum_kd.metrics.inference.left_out_bases import LeftOutScores, left_out_scores
from captum_kd.metrics.inference.means import MeanEstimate
from captum_kd.metrics.inference.permutation import label_permutation_p_value
from captum_kd.metrics.inference.placebo_tests import PlaceboTest, placebo_test
from captum_kd.metrics.inference.seed_tests import SeedTest, holm, seed_test
from captum_kd.metrics.inference.verdicts import QUESTIONS, SeedVerdict, seed_control, single_pair_sentence

__all__ = [
    "JackknifeEstimate",
    "LeftOutScores",
    "MeanEstimate",
    "PlaceboTest",
    "Products",
    "QUESTIONS",
    "Score",
    "SeedTest",
    "SeedVerdict",
    "geometry_products",
    "holm",
    "input_parts",
    "jackknife",
    "label_permutation_p_value",
    "left_out_scores",
    "pair_scores",
    "placebo_test",
    "seed_control",
    "seed_test",
    "single_pair_sentence",
    "transfer_scores",
]
