"""Figures from maps, scores and keep curves.

Figures are plain ``matplotlib.figure.Figure`` objects that are not registered with pyplot, so no display is needed.
Save one with ``figure.savefig(path)``; notebooks display the returned object. By default figures are at most seven
inches wide, the text width of a page, with text of at least 7 points. Colors can be distinguished with any color vision;
markers, dashes or words repeat them.
"""

from captum_kd.visualization.classes import plot_classes
from captum_kd.visualization.curves import plot_keep_curve
from captum_kd.visualization.layer_similarity import plot_layer_similarity
from captum_kd.visualization.input_embeddings import plot_embeddings
from captum_kd.visualization.models import plot_models
from captum_kd.visualization.predictions import plot_predictions
from captum_kd.visualization.scores import plot_layer_scores
from captum_kd.visualization.seed_control import plot_seed_control
from captum_kd.visualization.tokens import TokenFigure, token_records, visualize_tokens
from captum_kd.visualization.transfer import visualize_transfer

__all__ = [
    "TokenFigure",
    "plot_classes",
    "plot_embeddings",
    "plot_keep_curve",
    "plot_layer_scores",
    "plot_layer_similarity",
    "plot_models",
    "plot_predictions",
    "plot_seed_control",
    "token_records",
    "visualize_tokens",
    "visualize_transfer",
]
