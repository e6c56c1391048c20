"""Random projection of wide features, with the known error of its distances."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RandomProjection", "relative_error"]


def relative_error(width: int) -> float:
    """Standard error of a projected distance, as a share of it: that of its square is at most sqrt(2 / width)."""
    return float((0.5 / width) ** 0.5)


class RandomProjection:
    r"""From (n, d) to (n, width): every column is added to a random one of ``width``, with a random sign.

    Squared distances stay what they are on average, with a relative standard error of at most
    :math:`\sqrt{2 / width}`, whatever the features and however many they are; distances one of half of that.

    Args:
        width (int): columns that are left.
        seed (int): of the projection; layers of the same width are projected alike.

    Source: Charikar, Chen & Farach-Colton 2002; Weinberger et al. 2009 (variance).
    """

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self._seed = seed
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, features: Tensor) -> Tensor:
        """(n, width); features that are not wider than that are given back."""
        n, d = features.shape
        if d <= self.width:
            return features
        place, sign = self._table(d, features.device)
        return features.new_zeros((n, self.width)).index_add_(1, place, features * sign)

    def _table(self, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (d, device)
        if key not in self._tables:
            draw = torch.Generator().manual_seed(self._seed)
            place = torch.randint(self.width, (d,), generator=draw, device=draw.device)
            sign = torch.randint(2, (d,), generator=draw, dtype=torch.int8, device=draw.device)
            self._tables[key] = place.to(device), (2 * sign - 1).to(device)
        return self._tables[key]
