"""Figures from maps, scores and keep curves.

Figures are plain ``matplotlib.figure.Figure`` objects: nothing is registered with pyplot, nothing is shown,
no display is needed. Save one with ``figure.savefig(path)``; notebooks display the returned object. They are
at most seven inches wide unless asked for otherwise, a page's text width, so that their text, 7 points and
more, prints at its own size. Colors stay apart with any color vision and are never alone: markers, dashes
or words repeat what they say.
"""

from captum_kd.visualization.curves import plot_keep_curve
from captum_kd.visualization.scores import plot_layer_scores
from captum_kd.visualization.transfer import visualize_transfer

__all__ = ["plot_keep_curve", "plot_layer_scores", "visualize_transfer"]
