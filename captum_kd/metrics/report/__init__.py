"""One report over several models and layers.

:mod:`.compare` is the function; data flow from :mod:`.subjects` (models and layers by name) through :mod:`.views`
(features, localized by :mod:`.localizing`) and :mod:`.populations` (all inputs or mini-batches) to :mod:`.scoring`
(scores, intervals, p-values), and end in :mod:`.transfer_report` (the result; :mod:`.notes` and :mod:`.table` put it
into words).
"""

from captum_kd.metrics.report.compare import compare_transfer
from captum_kd.metrics.report.transfer_report import TransferReport

__all__ = ["TransferReport", "compare_transfer"]
