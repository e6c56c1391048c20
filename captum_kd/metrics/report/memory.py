"""The memory that a report needs, and the devices that hold its features and distances."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any, Collection, Iterable, NamedTuple, Optional

import torch

from captum_kd._utils.batches import length_of
from captum_kd._utils.validation import check_int
from captum_kd.distance.block_sums import block_side
from captum_kd.distance.precision import MOST_DENSE
from captum_kd.distance.pairwise import CHUNK

__all__ = ["MemoryLimit", "Placement"]

CPU = torch.device("cpu")
GIB = 2**30
MIB = 2**20

# Chunks of features that are in work at once while distances are taken, in float64.
_CHUNKS = 4


POOLING = "feature_transform=global_average_pool"
HALVING = "half_precision=True"
PROJECTING = "random_projection=4096"


class Placement(NamedTuple):
    """Where things go.

    Attributes:
        in_file (bool): features in a temporary file.
        held (bool): one layer's distances as matrices; otherwise they are computed in blocks, as often as needed.
        block_size (int): inputs a side of a block.
    """

    in_file: bool
    held: bool
    block_size: int


class MemoryLimit:
    """Places a report's features and distances so that they keep to a limit.

    Features stay in memory if they fit beside the distances, and otherwise go to a temporary file. Distances are held if
    they fit and the inputs are not too many; otherwise they are computed block by block.

    Args:
        limit (int, optional): bytes; None for no limit.
        data (iterable): the loader, whose length tells how many inputs are to come.
        views (int): number of distance matrices a layer.
        progression (bool): whether the last layer's distances are needed beside them.
        block_size (int, optional): inputs a side of a block, where blocks were asked for.
        processes (int): that share the inputs about evenly; the limit is that of each.
        device (torch.device): where features are scored.
        taken (collection of str): ways out that the call has already taken, as errors name them.

    Raises:
        ValueError: a limit that is no positive integer.
    """

    def __init__(
        self,
        limit: Optional[int],
        data: Iterable[Any],
        views: int,
        progression: bool = False,
        block_size: Optional[int] = None,
        processes: int = 1,
        device: torch.device = CPU,
        taken: Collection[str] = (),
    ) -> None:
        self._limit = None if limit is None else check_int(limit, "memory_limit (in bytes)", 1, or_none=True)
        self._data = data
        self._matrices = views * (2 if progression else 1)
        self._block_size = block_size
        self._processes = processes
        self._device = device
        self._taken = taken
        self._expected: Optional[int] = None
        self._written = 0  # bytes that are in the file and so take no more room

    def place(self, feature_bytes: int, widest: int, inputs: int) -> Placement:
        """Called after each batch.

        Args:
            feature_bytes (int): what all features so far take.
            widest (int): numbers of an input at the widest layer.
            inputs (int): inputs so far.

        Raises:
            ValueError: what is in work at once needs more than the limit, or the file more than the disk has; the
                message names the ways out.
        """
        if self._expected is None:
            self._expected = _expected_inputs(self._data, inputs)
        n = max(inputs, self._expected)
        block = self._block_size or block_side(self._device)
        may_hold = self._block_size is None and n <= MOST_DENSE
        if self._limit is None:
            return Placement(False, may_hold, block)
        features = feature_bytes * n // inputs
        # With two matrices that come and go while distances are taken and repeated inputs sought.
        # Each of several processes has the distances between its inputs and about half of all.
        held = (self._matrices + 2) * 8 * n * n * max(1, self._processes // 2) + self._work(n, n, widest)
        blocks = self._work(n, min(n, block), widest)
        if may_hold and features + held <= self._limit:
            return Placement(False, True, block)
        if features + blocks <= self._limit and not (may_hold and held <= self._limit):
            return Placement(False, False, block)
        if may_hold and held <= self._limit:
            found = Placement(True, True, block)
        elif blocks <= self._limit:
            found = Placement(True, False, block)
        else:
            raise ValueError(
                f"{n} inputs of {widest} features need about {blocks / MIB:.3g} MiB while one block of each model's "
                f"distances is taken, more than memory_limit={self._limit} ({self._limit / MIB:.3g} MiB). "
                f"Ways out: a larger memory_limit, a smaller block_size, fewer models a call, {self._ways(POOLING)}"
                "or fewer inputs (torch.utils.data.Subset)."
            )
        free = shutil.disk_usage(tempfile.gettempdir()).free + self._written
        if features > free:
            raise ValueError(
                f"{n} inputs have {features / GIB:.2f} GiB of features, more than memory_limit={self._limit} "
                f"({self._limit / GIB:.2f} GiB), and the {free / GIB:.2f} GiB free for temporary files in "
                f"{tempfile.gettempdir()} (the environment variable TMPDIR) do not hold them either. Ways out: fewer "
                f"layers or models a call, {self._ways(POOLING, HALVING, PROJECTING)}fewer inputs (torch.utils.data.Subset), or "
                "a larger memory_limit."
            )
        self._written = feature_bytes
        return found

    def _ways(self, *ways: str) -> str:
        """Those that are left, for an error's list."""
        return "".join(f"{way}, " for way in ways if way not in self._taken)

    def _work(self, n: int, side: int, widest: int) -> int:
        """Bytes of one block of distances of all models, of the features behind it and of sums by input."""
        k = self._matrices + 1
        return 8 * (side * side * k + _CHUNKS * side * min(widest, CHUNK) + n * k * k)


def _expected_inputs(data: Iterable[Any], batch_size: int) -> int:
    """Inputs that a loader will give, as far as it says so; 0 where it does not."""
    batches = length_of(data)
    by_batches = None if batches is None else batches * batch_size
    by_sampler = length_of(getattr(data, "sampler", None))
    known = [number for number in (by_batches, by_sampler) if number is not None]
    return min(known) if known else 0
