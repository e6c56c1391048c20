"""Storage of a layer's features in memory or in a temporary file.

The file is deleted while it is open (where the system can't, when it is closed), so nothing is left of it however the
process ends. A read maps it into memory a window at a time, since pages of a file that are mapped count as the process'
memory: what was read before does not stay.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, Optional

import numpy as np
import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.distance.precision import widest

__all__ = ["FeatureStore"]

# Bytes of the file that are mapped at once: few enough to be forgotten beside the features in work, and so many that
# mapping them takes no time beside copying them.
_WINDOW = 64 * 2**20


class FeatureStore:
    """Features (n, d) of one model at one layer, batch after batch.

    Args:
        device (torch.device): on which features are read.
        half (bool): keep them in float16, each input's in units of a power of two of its own: 11 bits of each number,
            whatever the features' size.

    Attributes:
        shape, dtype, device: of what is read.
        bytes (int): that the features take, in memory or in the file.
        rounding (float): by which distance rounding may have moved each input at most.
    """

    def __init__(self, device: torch.device, half: bool = False) -> None:
        self.device = device
        self.dtype = torch.float32
        self.shape = (0, 0)
        self.bytes = 0
        self.rounding = 0.0
        self._half = half
        self._pieces: list[Tensor] = []
        self._units: list[Tensor] = []
        self._file: Optional[IO[bytes]] = None
        self._sum: Optional[Tensor] = None
        self._largest = 0.0

    @property
    def in_file(self) -> bool:
        return self._file is not None

    def append(self, values: Tensor, rounding: float = 0.0) -> None:
        """Takes the features (N, d) of a batch, float32 or float64, and by which distance rounding may have moved them."""
        self.rounding = max(self.rounding, rounding)
        values = values.detach()
        n, width = self.shape
        if n == 0:
            self.dtype = values.dtype
        total = values.sum(0, dtype=widest(values.device))
        self._sum = total if self._sum is None else self._sum + total.to(self._sum.device)
        self._largest = max(self._largest, largest_of(values))
        self.shape = (n + values.shape[0], values.shape[1])
        values = values.to(self.device, self.dtype)
        if self._half:
            # Half of the power of two above the largest value, which may be more than the dtype has.
            units = torch.exp2(torch.frexp(values.abs().amax(1)).exponent.to(values.dtype) - 1)
            self._units.append(units)
            values = (values / units[:, None]).half()
        self.bytes += values.numel() * values.element_size()
        if self._file is None:
            self._pieces.append(values)
        else:
            self._write(values)

    def move_to_file(self) -> None:
        """From now on features are kept in a temporary file, those that came before too."""
        if self._file is not None:
            return
        self._file = tempfile.TemporaryFile(prefix="captum_kd_")
        for place, piece in enumerate(self._pieces):
            self._write(piece)
            self._pieces[place] = piece[:0]
        self._pieces = []

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""
        first, stop, step = rows.indices(self.shape[0])
        if self._file is None:
            values = self._from_pieces(first, stop, step, columns)
        else:
            values = self._from_file(slice(first, stop, step), columns).to(self.device)
        if self._half:
            values = values.to(self.dtype) * torch.cat(self._units)[rows, None]
        return values

    def middle(self) -> Tensor:
        """(d,) the features' mean."""
        assert self._sum is not None
        return (self._sum / self.shape[0]).to(self.device, self.dtype)

    def largest(self) -> float:
        """The largest absolute value."""
        return self._largest

    def close(self) -> None:
        """Gives up the features."""
        self._pieces = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _from_pieces(self, first: int, stop: int, step: int, columns: slice) -> Tensor:
        found, offset = [], 0
        for piece in self._pieces:
            # The first of first, first + step, ... that is in this piece.
            start = max(first, first + -(-(offset - first) // step) * step) - offset
            part = piece[start : max(0, stop - offset) : step, columns]
            if part.shape[0]:
                found.append(part)
            offset += piece.shape[0]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _write(self, values: Tensor) -> None:
        assert self._file is not None
        self._file.write(values.cpu().contiguous().numpy().data)

    def _from_file(self, rows: slice, columns: slice) -> Tensor:
        assert self._file is not None
        self._file.flush()
        kind = np.dtype(np.float16 if self._half else np.float32 if self.dtype == torch.float32 else np.float64)
        n, width = self.shape
        chosen_rows, chosen_columns = range(n)[rows], range(width)[columns]
        values = np.empty((len(chosen_rows), len(chosen_columns)), kind)
        # As many whole rows as a window has room for; of rows that are wider, one at a time and a part of it.
        height = max(1, _WINDOW // (kind.itemsize * width * chosen_rows.step))
        breadth = max(1, _WINDOW // (kind.itemsize * chosen_columns.step))
        for top in range(0, len(chosen_rows), height):
            for left in range(0, len(chosen_columns), breadth):
                place = slice(top, top + height), slice(left, left + breadth)
                _copy_window(self._file, width, chosen_rows[place[0]], chosen_columns[place[1]], values[place])
        return torch.from_numpy(values)


def _copy_window(file: IO[bytes], width: int, rows: range, columns: range, into: np.ndarray) -> None:
    """Copies some entries of a matrix in a file, of which all between the first and the last are mapped.

    Args:
        file (file): the rows of a matrix one after the other, from its beginning on.
        width (int): numbers of a row.
        rows, columns (range): which entries; neither is empty.
        into (np.ndarray): of their shape and of the file's type.
    """
    size = into.itemsize
    first, last = rows[0] * width + columns[0], rows[-1] * width + columns[-1]
    begin = first * size // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = (last + 1) * size - begin
    with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=begin) as mapped:
        strides = (rows.step * width * size, columns.step * size)
        window = np.ndarray(into.shape, into.dtype, mapped, first * size - begin, strides)
        into[...] = window
        del window  # or the map could not be closed
