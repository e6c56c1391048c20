"""Scores of a Student while it trains: how the transfer proceeds from epoch to epoch, layer by layer.

:class:`TransferMonitor` needs no framework. :class:`LightningTransferMonitor` and :class:`TransformersTransferMonitor` call it
from the trainers of Lightning and Hugging Face transformers; neither is imported before its class is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captum_kd.monitor.figure import plot_process
from captum_kd.monitor.transfer_monitor import TransferMonitor

if TYPE_CHECKING:
    from captum_kd.monitor.lightning_callback import LightningTransferMonitor
    from captum_kd.monitor.transformers_callback import TransformersTransferMonitor

__all__ = ["LightningTransferMonitor", "TransferMonitor", "TransformersTransferMonitor", "plot_process"]

_OPTIONAL = {"LightningTransferMonitor": "lightning_callback", "TransformersTransferMonitor": "transformers_callback"}


def __getattr__(name: str) -> Any:
    if name not in _OPTIONAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OPTIONAL[name]}"), name)
