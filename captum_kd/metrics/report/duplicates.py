"""Number of duplicate inputs. Inputs are duplicates if all their bits are equal."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup

_BYTES = 8


def _digest(rows: tuple[memoryview, ...]) -> bytes:
    """CRC-32 and Adler-32 of one input. A cryptographic hash would take as long as a GPU's forward passes."""
    crc, adler = 0, 1
    for row in rows:
        crc, adler = zlib.crc32(row, crc), zlib.adler32(row, adler)
    return struct.pack("<II", crc, adler)


def _rows(values: Tensor) -> list[memoryview]:
    values = values.detach().cpu().contiguous()
    return [memoryview(row.reshape(-1).view(torch.uint8).numpy()) for row in values]


class DuplicateCounter:
    """Counts inputs whose numbers all equal those of another input.

    Attributes:
        seen (int): the number of inputs so far.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._digests: Counter[bytes] = Counter()

    def add(self, inputs: tuple[Tensor, ...]) -> None:
        """Adds a batch."""
        with_rows = (value for value in inputs if isinstance(value, Tensor) and value.dim() > 0)
        rows, threads = [_rows(value) for value in with_rows], torch.get_num_threads()
        if threads == 1:
            self._digests.update(map(_digest, zip(*rows)))
        else:  # zlib releases the GIL while it reads a row
            with ThreadPoolExecutor(threads) as pool:
                self._digests.update(pool.map(_digest, zip(*rows)))
        self.seen += len(rows[0])

    def all_reduce(self, group: ProcessGroup) -> None:
        """Adds the inputs of all other ranks."""
        of_ranks = group.gather(b"".join(self._digests.elements()))
        if len(of_ranks) > 1:
            self._digests = Counter(
                each[start : start + _BYTES] for each in of_ranks for start in range(0, len(each), _BYTES)
            )
            self.seen = sum(self._digests.values())

    @property
    def count(self) -> int:
        """The number of inputs that have at least one duplicate."""
        return sum(number for number in self._digests.values() if number > 1)
