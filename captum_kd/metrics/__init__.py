"""Scores for pairs of models and their attributions, after captum.metrics."""

from captum_kd.metrics.localization import LocalizationScores, localization_score
from captum_kd.metrics.relevance import relevance_score
from captum_kd.metrics.sensitivity import sensitivity_max
from captum_kd.metrics.similarity import feature_similarity_score

__all__ = [
    "LocalizationScores",
    "feature_similarity_score",
    "localization_score",
    "relevance_score",
    "sensitivity_max",
]
