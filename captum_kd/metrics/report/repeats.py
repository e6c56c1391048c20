"""Duplicate inputs, by their distances in every model."""

from __future__ import annotations

from typing import Callable, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.distance.block_sums import TileIterator
from captum_kd.distance.pairwise import is_async_device
from captum_kd.distance.sources import DistanceSource

__all__ = ["RepeatedInputs"]

# Inputs whose distances say what is usual.
_SAMPLE = 256
# The same input in another batch may come out different in the last digits.
_ALIKE = 1e-5


class RepeatedInputs:
    """Groups of inputs that are alike in every model at every layer."""

    def __init__(self) -> None:
        self._groups: Optional[Tensor] = None
        self._firsts: list[Tensor] = []

    @property
    def count(self) -> int:
        """Inputs that have at least one other like them; 0 where no model has a geometry."""
        if self._groups is None:
            return 0
        sizes = torch.unique(self._groups, return_counts=True)[1]
        return int(sizes[sizes > 1].sum())

    def watch(self, sources: Sequence[DistanceSource]) -> Callable[[Sequence[Tensor], slice, slice], None]:
        """What is to be called with the distances of every block of a layer, each pair of blocks once.

        Args:
            sources (sequence of DistanceSource): the layer's models, the first of those whose blocks will come.
        """
        levels = [_ALIKE * _usual(source) for source in sources]
        # A model that puts most inputs in one place says nothing.
        speaking = [place for place, level in enumerate(levels) if level > 0]
        n = sources[0].n
        # The first input that each is like, itself at the latest.
        firsts = {place: torch.arange(n, device=sources[place].device) for place in speaking}

        def see(distances: Sequence[Tensor], rows: slice, columns: slice) -> None:
            for place in speaking:
                block = distances[place]
                if is_async_device(block.device):
                    # A GPU's queue goes on: nobody asks it whether there are any.
                    of_rows = torch.arange(rows.start, rows.stop, device=block.device)[:, None]
                    first = torch.where(block <= levels[place], of_rows, n).amin(0)
                    torch.minimum(firsts[place][columns], first, out=firsts[place][columns])
                    continue
                if rows != columns and float(block.amin()) > levels[place]:
                    continue
                of_row, of_column = (block <= levels[place]).nonzero().T
                firsts[place].scatter_reduce_(0, of_column + columns.start, of_row + rows.start, "amin")

        self._firsts = list(firsts.values())
        return see

    def end(self, walk: TileIterator) -> None:
        """To be called after the last block: only inputs that are alike in all of these models, and were before, are."""
        groups, self._firsts = self._firsts, []
        if not groups:
            return
        walk.all_reduce_min(*groups)
        groups = [each.cpu() for each in groups]
        known = groups if self._groups is None else [self._groups, *groups]
        self._groups = torch.unique(torch.stack(known, 1), dim=0, return_inverse=True)[1]


def _usual(source: DistanceSource) -> float:
    """Median of rows' medians: an outlier must not make all others look alike."""
    sample = slice(0, source.n, max(1, source.n // _SAMPLE))
    return float(source.block(sample, sample).median(1).values.median())
