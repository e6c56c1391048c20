"""Scores for pairs of models and checks of their attributions, with the interface of captum.metrics."""

from captum_kd.metrics.attribution_agreement import attribution_agreement
from captum_kd.metrics.input_embeddings import InputEmbeddings, input_embeddings
from captum_kd.metrics.keep_curve import KeepCurve, keep_curve
from captum_kd.metrics.layer_similarity import layer_similarity
from captum_kd.metrics.localization import LocalizationScores, localization_score
from captum_kd.metrics.map_reliability import MapReliability, map_reliability
from captum_kd.metrics.predictions import prediction_agreement
from captum_kd.metrics.random_attributions import random_attributions
from captum_kd.metrics.randomization import RandomizationTest, randomization_test
from captum_kd.metrics.relevance import relevance_score
from captum_kd.metrics.report import (
    Comparisons,
    Compute,
    Explanations,
    Localization,
    ModelOptions,
    Predictions,
    TokenPositions,
    TransferReport,
    compare_transfer,
)
from captum_kd.metrics.sensitivity import sensitivity_max
from captum_kd.metrics.similarity import feature_similarity_score
from captum_kd.metrics.similarity_matrices import LayerSimilarity

__all__ = [
    "Comparisons",
    "Compute",
    "Explanations",
    "Localization",
    "ModelOptions",
    "Predictions",
    "TokenPositions",
    "TransferReport",
    "compare_transfer",
    "InputEmbeddings",
    "KeepCurve",
    "LayerSimilarity",
    "LocalizationScores",
    "MapReliability",
    "RandomizationTest",
    "attribution_agreement",
    "feature_similarity_score",
    "input_embeddings",
    "keep_curve",
    "layer_similarity",
    "localization_score",
    "prediction_agreement",
    "map_reliability",
    "random_attributions",
    "randomization_test",
    "relevance_score",
    "sensitivity_max",
]
