"""Storage of a layer's features, in memory or in a memory-mapped temporary file."""

from __future__ import annotations

import tempfile
from typing import IO, Mapping, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform, global_average_pool
from captum_kd._utils.tensors import largest_of
from captum_kd.distance.block_sums import block_side
from captum_kd.distance.precision import MOST_DENSE, widest
from captum_kd.distance.sources import TensorFeatures
from captum_kd.metrics.report.settings import Compute


class Placement(NamedTuple):
    """The storage of a report's features and distances.

    Attributes:
        in_file (bool): True if features are in temporary files.
        held (bool): True if one layer's distances are held as matrices, False if they are computed block by block.
        block_size (int): number of rows and of columns of a block.
    """

    in_file: bool
    held: bool
    block_size: int


def place_distances(compute: Compute, device: torch.device, n: int, matrices: int, ranks: int, in_file: bool) -> Placement:
    """Places the distances of n inputs in matrices if n is small enough and the memory limit allows it.

    Computing distances needs two more matrices for a moment. Each rank holds one shard of every matrix.
    """
    fits = compute.memory_limit is None or 8 * (matrices + 2) * n * n // ranks <= compute.memory_limit
    held = compute.block_size is None and n <= MOST_DENSE and fits
    return Placement(in_file, held, compute.block_size or block_side(device))


class FeatureStore:
    """Features (n, d) of one model at one layer, appended batch by batch.

    The file has no name while it is open (on Windows it is deleted when it is closed), so it does not outlive the process.

    Args:
        device (torch.device): device of the features that are read.

    Attributes:
        shape, dtype, device: shape, dtype and device of the features.
        rounding (float): the largest distance by which rounding may have moved an input.
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
        """Appends the features (N, d) of a batch, float32 or float64, and the distance by which rounding may have moved them."""
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
        """Moves the features to a temporary file. Later features are appended to it."""
        if self._file is not None:
            return
        self._file = tempfile.TemporaryFile(prefix="captum_kd_")
        while self._pieces:
            self._write(self._pieces.pop(0))

    def read(self, rows: Union[slice, list[int]], columns: slice) -> Tensor:
        """Some columns of some rows."""
        if self._file is None:
            if len(self._pieces) > 1 and rows == slice(0, self.shape[0]):  # a copy of all features would be slow to allocate
                return torch.cat([piece[:, columns] for piece in self._pieces])
            if len(self._pieces) > 1:
                self._pieces = [torch.cat(self._pieces)]
            return self._pieces[0][rows, columns]
        # The file is mapped for one read only, since the pages of a lasting mapping would count as the process's memory.
        dtype = np.float32 if self.dtype == torch.float32 else np.float64
        mapped = np.memmap(self._file, dtype, "r", shape=self.shape)
        return torch.from_numpy(np.array(mapped[rows, columns])).to(self.device)

    def middle(self) -> Tensor:
        """The mean of the features, (d,)."""
        assert self._sum is not None
        return (self._sum / self.shape[0]).to(self.device, self.dtype)

    def largest(self) -> float:
        """The largest absolute value."""
        return self._largest

    def close(self) -> None:
        """Frees the features."""
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


class FeatureStores:
    """The stores of all sets of features at all layers. Above the memory limit all of them go to temporary files.

    Args:
        device (torch.device): device of the features that are read.
        limit (int, optional): limit of all features in bytes.
        size_advice (str): advice at the end of the error about inputs that differ in size.

    Attributes:
        by_key (dict): the stores of each layer, by the key of the feature set; empty before the first batch.
    """

    def __init__(self, device: torch.device, limit: Optional[int], size_advice: str) -> None:
        self.by_key: dict[str, list[FeatureStore]] = {}
        self._device = device
        self._limit = limit
        self._size_advice = size_advice

    @property
    def in_file(self) -> bool:
        return any(store.in_file for store in self.all())

    def all(self) -> list[FeatureStore]:
        return [store for of_layers in self.by_key.values() for store in of_layers]

    def add(self, features: Mapping[str, list[TensorFeatures]]) -> None:
        """Adds a batch: one tensor for each layer, by the set's key. Empties the lists.

        Raises:
            ValueError: another number of features than in earlier batches.
        """
        for key, of_layers in features.items():
            for store in self.by_key.setdefault(key, [FeatureStore(self._device) for _ in of_layers]):
                batch = of_layers.pop(0)  # freed once it is stored
                if store.shape[0] and store.shape[1] != batch.shape[1]:
                    raise ValueError(
                        f"{key} gives {batch.shape[1]} features, but earlier batches had {store.shape[1]}: the "
                        f"inputs differ in size. {self._size_advice}"
                    )
                store.append(batch.values, batch.rounding)
        if self._limit is not None and sum(store.bytes for store in self.all()) > self._limit:
            for store in self.all():
                store.move_to_file()

    def close(self) -> None:
        """Frees all features."""
        for store in self.all():
            store.close()


def size_advice(feature_transform: Optional[FeatureTransform]) -> str:
    """Advice for inputs that differ in size, and so in the number of features."""
    if feature_transform is global_average_pool:
        return "Resize them, or choose a layer whose number of channels does not depend on the input's size."
    return "Resize them, or pass feature_transform=global_average_pool."
