"""Labels as a source of distances: between any two inputs those of their classes, never stored."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd.distance.centring import noise_level
from captum_kd.distance.sources import widest
from captum_kd.embeddings import label_distances

__all__ = ["LabelDistances"]


class LabelDistances:
    """Distances between the embeddings of labels.

    Args:
        labels (Tensor): (n,) integers, on any device.
        class_embeddings (Tensor, optional): (num_classes, e), one-hot without.
        device (torch.device): of the distances.

    Raises:
        ValueError: a label that has no row in ``class_embeddings``.
    """

    def __init__(self, labels: Tensor, class_embeddings: Optional[Tensor], device: torch.device) -> None:
        seen, place, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        self.n = labels.shape[0]
        self.device = device
        self.noise = noise_level(widest(device))
        self._place = place.to(device)
        self._counts = counts.to(device, widest(device))
        self._apart = label_distances(seen, seen, class_embeddings).to(device, widest(device))

    def block(self, rows: slice, columns: slice, doubts: Optional[list[Tensor]] = None) -> Tensor:
        return self._apart[self._place[rows]][:, self._place[columns]]

    def shift(self) -> tuple[Tensor, bool]:
        sums = self._apart @ self._counts  # of an input's row, by its class
        of_class = (sums - (self._counts @ sums) / (2 * (self.n - 1))) / (self.n - 2)
        return of_class[self._place], True
