"""One pass over the loader."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Optional, Union

from torch import Tensor

from captum_kd._utils.batches import Unpack, batches_of, unpack_batch
from captum_kd.metrics.report.aggregation import PooledScores, BatchMeanScores
from captum_kd.metrics.report.collect import FeatureCollector
from captum_kd.metrics.report.duplicates import Copies

__all__ = ["read_data"]


def read_data(
    data: Iterable[Any],
    aggregator: Union[PooledScores, BatchMeanScores],
    collector: FeatureCollector,
    unpack: Optional[Unpack],
    class_embeddings: Optional[Tensor],
    show_progress: bool,
) -> Copies:
    """Takes the features of every batch.

    Returns:
        Copies: what is known of inputs that are copies of others.

    Raises:
        TypeError: data that are no iterable of batches.
        ValueError: a label that the class embeddings have no row for.
    """
    if isinstance(data, (Tensor, str, Mapping)) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"data must be a DataLoader or another iterable of batches (inputs, labels), got {type(data).__name__}. "
            "A single batch is data=[(inputs, labels)]."
        )
    copies = Copies()
    for batch in batches_of(data, "Comparing models", show_progress):
        inputs, labels = unpack_batch(batch, unpack)
        if class_embeddings is not None and int(labels.max()) >= len(class_embeddings):
            raise ValueError(
                f"The data hold the label {int(labels.max())}, but class_embeddings has rows for the labels 0 to "
                f"{len(class_embeddings) - 1} only."
            )
        copies.add(inputs)
        aggregator.add(collector.features(inputs, labels), labels)
    return copies
