"""Storage of a layer's features, in memory or in a memory-mapped temporary file."""

from __future__ import annotations

import tempfile
from typing import IO, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd.distance.block_sums import block_side
from captum_kd.distance.precision import MOST_DENSE, widest
from captum_kd.metrics.report.settings import Compute


class Placement(NamedTuple):
    """The storage of a report's features and distances.

    Attributes:
        in_file (bool): features in temporary files.
        held (bool): one layer's distances as matrices; otherwise they are computed block by block.
        block_size (int): inputs a side of a block.
    """

    in_file: bool
    held: bool
    block_size: int


def place_distances(compute: Compute, device: torch.device, n: int, matrices: int, ranks: int, in_file: bool) -> Placement:
    """Hold the distance matrices of n inputs if they are few enough and keep to the memory limit.

    Two more matrices come and go while distances are taken. Each rank holds at most its share.
    """
    fits = compute.memory_limit is None or 8 * (matrices + 2) * n * n // ranks <= compute.memory_limit
    held = compute.block_size is None and n <= MOST_DENSE and fits
    return Placement(in_file, held, compute.block_size or block_side(device))


class FeatureStore:
    """Features (n, d) of one model at one layer, appended batch by batch.

    The file has no name while it is open (on Windows it is deleted when it is closed), so nothing is left of it however the
    process ends.

    Args:
        device (torch.device): on which features are read.

    Attributes:
        shape, dtype, device: of what is read.
        rounding (float): by which distance rounding may have moved each input at most.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32
        self.shape = (0, 0)
        self.rounding = 0.0
        self._pieces: list[Tensor] = []
        self._file: Optional[IO[bytes]] = None
        self._sum: Optional[Tensor] = None
        self._largest = 0.0

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def in_file(self) -> bool:
        return self._file is not None

    def append(self, values: Tensor, rounding: float = 0.0) -> None:
        """Takes the features (N, d) of a batch, float32 or float64, and by which distance rounding may have moved them."""
        values = values.detach()
        n, width = self.shape
        if n == 0:
            self.dtype = values.dtype
        total = values.sum(0, dtype=widest(values.device))
        self._sum = total if self._sum is None else self._sum + total.to(self._sum.device)
        self._largest = max(self._largest, largest_of(values))
        self.rounding = max(self.rounding, rounding)
        self.shape = (n + values.shape[0], values.shape[1])
        values = values.to(self.device, self.dtype)
        if self._file is None:
            self._pieces.append(values)
        else:
            self._write(values)

    def move_to_file(self) -> None:
        """Moves the features to a temporary file, to which later ones are appended."""
        if self._file is not None:
            return
        self._file = tempfile.TemporaryFile(prefix="captum_kd_")
        while self._pieces:
            self._write(self._pieces.pop(0))

    def read(self, rows: Union[slice, list[int]], columns: slice) -> Tensor:
        """Some columns of some rows."""
        if self._file is None:
            if len(self._pieces) > 1:
                self._pieces = [torch.cat(self._pieces)]
            return self._pieces[0][rows, columns]
        # Mapped anew by each read: the pages of a mapping that stays would count as the process' memory.
        dtype = np.float32 if self.dtype == torch.float32 else np.float64
        mapped = np.memmap(self._file, dtype, "r", shape=self.shape)
        return torch.from_numpy(np.array(mapped[rows, columns])).to(self.device)

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

    def _write(self, values: Tensor) -> None:
        assert self._file is not None
        try:
            self._file.write(values.cpu().contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: features above memory_limit go to a temporary file in {tempfile.gettempdir()}. Set the "
                "environment variable TMPDIR to a folder on a larger disk, or pass fewer layers, models or inputs, or a "
                "feature_transform with fewer features",
            ) from error
