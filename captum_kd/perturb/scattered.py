"""Scattered holes, whose pixels all have known ones close by: the diagonal alone preconditions them well.

Let ``M = N / D`` be the weighted mean of a pixel's removed neighbors: a walk from pixel to pixel that ends at known
ones. ``s = M^k 1`` is the chance of still being on the way after k steps, and the sum of the ``M^j 1`` for j < k what
such walks last. With both, the error of any approximation is bounded by its residual, ``z = b / D - (1 - M) x``: it is
the sum of all ``M^j z``, in size at most max |z| times the mean length of walks, and that at most
``max(sum of M^j 1) / (1 - max s)``. Where holes are large the chance s stays near 1, and the bound says nothing.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd.perturb.grids import Buffers, Pixels

__all__ = ["Scattered"]

# Steps of the walk. Some pixel of a large hole is certainly still on its way after the first few.
_FIRST_STEPS, _STEPS = 2, 6
_MOST_ON_THE_WAY = 0.7


class Scattered:
    """The diagonal as preconditioner: a drop-in for :class:`~captum_kd.perturb.multigrid.Hierarchy`.

    Args:
        finest (Pixels): the images' grid.
        lengths (Tensor): (N, 1, 1, 1, 1, 1), at least the mean length of every image's walks.
    """

    def __init__(self, finest: Pixels, lengths: Tensor) -> None:
        self.finest = finest
        # With z added the error is the sum of M^j z from j = 1 on: walks are one step shorter. A step more than none
        # bounds what is left where no removed pixel has a removed neighbor.
        self.safety = (lengths - 1).clamp(min=1)

    @classmethod
    def of(cls, finest: Pixels, removed: Tensor, buffers: Buffers) -> Optional[Scattered]:
        """None unless all images' holes are scattered. ``removed`` is 1 where a pixel is to be found, else 0."""
        on_the_way = buffers.like(removed, "on the way").copy_(removed)
        length, room = buffers.like(removed, "length").copy_(removed), buffers.like(removed, "room")
        for step in range(1, _STEPS + 1):
            torch.mul(finest.neighbors(on_the_way, out=room), finest.inverse, out=on_the_way)
            if step == _FIRST_STEPS and bool(on_the_way.amax() > 0.999):
                return None
            if step < _STEPS:
                length.add_(on_the_way)
        most = on_the_way.amax((2, 3, 4, 5), keepdim=True)
        if bool((most > _MOST_ON_THE_WAY).any()):
            return None
        return cls(finest, length.amax((2, 3, 4, 5), keepdim=True) / (1 - most))

    def cycle(self, residual: Tensor) -> Tensor:
        """The residual over the diagonal, 0 at known pixels; overwritten by the next call."""
        return torch.mul(self.finest.inverse, residual, out=self.finest.buffers.like(residual, "x"))
