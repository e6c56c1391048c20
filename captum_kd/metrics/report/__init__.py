"""A report over several models and layers.

:mod:`.compare` is the function and :mod:`.settings` its options. :mod:`.models` finds models and layers, :mod:`.collect` takes
their features batch by batch (of images that :mod:`.salient` reduces, or of the tokens that :mod:`.positions` draws),
:mod:`.predictions` and :mod:`.explanation_scores` compare logits and maps input by input,
:mod:`.aggregation` pools them, and :mod:`.scores` computes scores, intervals and p-values of a layer. :mod:`.transfer_report`
is the result; :mod:`.notes` and :mod:`.text` put it into words.
"""

from captum_kd.metrics.report.compare import compare_transfer
from captum_kd.metrics.report.explanations import Explanations
from captum_kd.metrics.report.localization import Localization
from captum_kd.metrics.report.positions import TokenPositions
from captum_kd.metrics.report.predictions import Predictions
from captum_kd.metrics.report.settings import Comparisons, Compute, ModelOptions
from captum_kd.metrics.report.transfer_report import TransferReport

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
]
