r"""Populations that are sharded over ranks: each rank holds the features of some inputs.

Every unordered pair of inputs is in one tile of one rank. A rank receives features of other ranks block by block, computes
the distances between them and its own inputs, and adds them to its sums (:mod:`.block_sums`). An all-reduce adds the sums.

With W ranks in a ring, rank r receives the inputs of the ranks r + 1, ..., r + (W - 1) / 2. If W is even, two opposite ranks
divide their pairs: the lower rank receives the first half of the higher rank's inputs; the higher rank receives all inputs
of the lower rank and compares them with its second half. If shards are equally long, each rank sends
:math:`\tfrac12 n d` numbers at most, for any W.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any, Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.block_sums import TileCallback, parts
from captum_kd.distance.precision import widest
from captum_kd.distance.sources import DistanceSource, FeatureDistances, Features

__all__ = ["RemoteBuffer", "RingTiles", "ShardedDistances", "ShardedFeatures", "Shards"]

# Numbers of one message (64 MB of float32).
_MESSAGE_NUMBERS = 1 << 24
# Numbers of a block of remote rows in memory (128 MB of float32).
_REMOTE_NUMBERS = 1 << 25


class Readable(Protocol):
    """Features that can be read in parts."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""


class RingStep(NamedTuple):
    """One step of the ring for one rank; slices are indices in the whole population.

    Attributes:
        to (int): the rank that receives inputs of this one.
        out (slice): the inputs that are sent.
        source (int): the rank that sends inputs to this one.
        remote_rows (slice): the inputs that are received.
        own_rows (slice): this rank's inputs that they are compared with.
    """

    to: int
    out: slice
    source: int
    remote_rows: slice
    own_rows: slice


class Shards:
    """The division of a population's inputs over ranks; inputs are numbered rank by rank.

    Args:
        sizes (sequence of int): number of inputs of each rank; may be 0.
        rank (int): this rank.

    Attributes:
        n (int): number of all inputs.
        own (slice): indices of this rank's inputs.
    """

    def __init__(self, sizes: Sequence[int], rank: int) -> None:
        self.sizes = tuple(sizes)
        self.rank = rank
        self.n = sum(sizes)
        self.own = self.of(rank)

    def of(self, rank: int) -> slice:
        start = sum(self.sizes[:rank])
        return slice(start, start + self.sizes[rank])

    def ring_steps(self) -> Iterator[RingStep]:
        """The steps of this rank. In each step every rank sends to one other rank and receives from one."""
        size = len(self.sizes)
        for step in range(1, size // 2 + 1):
            source, to = (self.rank + step) % size, (self.rank - step) % size
            out, remote_rows, own_rows = self.own, self.of(source), self.own
            if 2 * step == size:  # two opposite ranks divide their pairs
                if self.rank < to:
                    remote_rows = _halves(remote_rows)[0]
                else:
                    out, own_rows = _halves(self.own)
            yield RingStep(to, out, source, remote_rows, own_rows)


def _halves(part: slice) -> tuple[slice, slice]:
    middle = part.start + -(-(part.stop - part.start) // 2)
    return slice(part.start, middle), slice(middle, part.stop)


class ShardedFeatures:
    """Features (n, d) of which this rank holds its own rows and, for a time, rows of another rank.

    The constructor is collective: all ranks must call it at the same time.

    Args:
        own (Features): features of this rank's inputs.
        shards (Shards): the division of the inputs over ranks.
        processes (ProcessGroup): all ranks.
    """

    def __init__(self, own: Features, shards: Shards, processes: ProcessGroup) -> None:
        self.shape = (shards.n, own.shape[1])
        self.dtype = own.dtype
        self.device = own.device
        self.shards = shards
        self.processes = processes
        self._own = own
        self._remote_rows: Optional[tuple[slice, Readable]] = None
        wide, count = widest(own.device), shards.sizes[shards.rank]
        total = torch.zeros(own.shape[1], dtype=wide, device=own.device)
        largest = total.new_zeros(2)  # of the features and of their rounding
        with processes.raise_together("reading its features"):
            if count:
                total += own.middle().to(wide) * count
                largest.copy_(largest.new_tensor([own.largest(), own.rounding])).nan_to_num_(torch.inf)
        processes.all_reduce_sum(total)
        processes.all_reduce_min(largest.neg_())
        self._middle = (total / shards.n).to(self.dtype)
        self._largest, self.rounding = -float(largest[0]), -float(largest[1])

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows, which must be a range of this rank's rows or of the remote rows."""
        places: list[tuple[slice, Readable]] = [(self.shards.own, self._own)]
        if self._remote_rows is not None:
            places.append(self._remote_rows)
        for there, features in places:
            if there.start <= rows.start and rows.stop <= there.stop:
                return features.read(slice(rows.start - there.start, rows.stop - there.start), columns)
        raise IndexError(f"Inputs {rows.start} to {rows.stop - 1} are not on this rank.")

    def middle(self) -> Tensor:
        return self._middle

    def largest(self) -> float:
        return self._largest

    def set_remote_rows(self, rows: slice, features: Readable) -> None:
        """Makes rows of another rank readable, in place of earlier ones."""
        self._remote_rows = rows, features

    def drop_remote_rows(self) -> None:
        self._remote_rows = None


class ShardedDistances(FeatureDistances):
    """Distances between this rank's inputs, and between them and remote ones.

    The constructor, :meth:`shift` and :meth:`hold` are collective: all ranks must call them at the same time.

    Args:
        features (ShardedFeatures): (n, d).

    Raises:
        ValueError: non-finite features on any rank; raised on all ranks.
    """

    def __init__(self, features: ShardedFeatures) -> None:
        super().__init__(features, keep=False)
        self.features = features
        self._held: Optional[dict[tuple[int, int], Tensor]] = None
        self._estimate: Optional[Tensor] = None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def hold(self, tile_iterator: "RingTiles", block_size: int) -> None:
        """Computes the tiles of this rank and keeps them; the features are not needed afterwards."""
        self.shift()
        held: dict[tuple[int, int], Tensor] = {}

        def keep(rows: slice, columns: slice) -> None:
            held[rows.start, columns.start] = self.block(rows, columns)

        tile_iterator.each([self], block_size, keep)
        self._held = held

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        """Distances (r, c) of two ranges of inputs, of which one at least is on this rank."""
        if self._held is not None:
            return self._held[rows.start, columns.start]
        return super().block(rows, columns, rechecks)

    def shift(self) -> tuple[Tensor, bool]:
        r"""An estimate from the distances r to the mean: features of many dimensions are nearly orthogonal after centering,
        so that :math:`D_{ij} \approx \sqrt{r_i^2 + r_j^2} \approx (r_i + r_j) / \sqrt 2`."""
        if self._estimate is not None:
            return self._estimate, False
        own, wide = self.features.shards.own, widest(self.device)
        found = torch.zeros(self.n, dtype=wide, device=self.device)
        with self.features.processes.raise_together("reading its features"):
            for rows in parts(own, max(1, _MESSAGE_NUMBERS // self._width)):
                found[rows] = torch.linalg.vector_norm(self._read(rows, slice(0, self._width)), dim=1).to(wide) / 2**0.5
        self.features.processes.all_reduce_sum(found)
        self._estimate = found
        return found, False


class RemoteBuffer(Protocol):
    """Storage for rows of another rank."""

    def append(self, values: Tensor) -> None:
        """Adds the next rows (m, d)."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""

    def close(self) -> None:
        """Frees the storage."""


class _InMemory:
    """Rows of another rank in memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: list[Tensor] = []

    def append(self, values: Tensor) -> None:
        self._pieces.append(values.to(self._device))

    def read(self, rows: slice, columns: slice) -> Tensor:
        if len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces)]
        return self._pieces[0][rows, columns]

    def close(self) -> None:
        self._pieces = []


class DeferredError:
    """Keeps an error until this rank has sent all messages that other ranks wait for; later actions are skipped."""

    def __init__(self) -> None:
        self._error: Optional[Exception] = None

    def run(self, act: Callable[[], Any]) -> Any:
        if self._error is None:
            try:
                return act()
            except Exception as error:
                self._error = error
        return None

    def end(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class _Message(NamedTuple):
    """Some rows of one source's features; ``last`` is True if they complete the block of remote rows."""

    source: int
    rows: slice
    block: slice
    last: bool


class RingTiles:
    """Iterates over the tiles of one rank: pairs of its own inputs, and pairs of its inputs with those of other ranks.

    Args:
        shards (Shards): the division of the inputs, the same on all ranks.
        processes (ProcessGroup): all ranks.
        width (int): features of an input, in all sources that are exchanged together; bounds the memory of remote rows.
        make_buffer (callable, optional): makes the storage of remote rows on a device; default: memory. On all ranks or on
            none.
    """

    def __init__(
        self,
        shards: Shards,
        processes: ProcessGroup,
        width: int,
        make_buffer: Optional[Callable[[torch.device], RemoteBuffer]] = None,
    ) -> None:
        self.shards = shards
        self.processes = processes
        # At most half of a shard is received at a time, even if it is small.
        self._most = max(1, -(-max(shards.sizes) // 2))
        if make_buffer is None:
            self._most = max(1, min(self._most, _REMOTE_NUMBERS // width))
        self._make_buffer: Callable[[torch.device], RemoteBuffer] = _InMemory if make_buffer is None else make_buffer

    def all_reduce_sum(self, *values: Tensor) -> None:
        self.processes.all_reduce_sum(*values)

    def each(self, sources: Sequence[DistanceSource], block_size: int, callback: TileCallback) -> None:
        exchanged = [
            source.features for source in sources if isinstance(source, ShardedDistances) and not source.is_held
        ]
        failure = DeferredError()

        def run(rows: slice, columns: slice) -> None:
            failure.run(lambda: callback(rows, columns))

        with self.processes.raise_together("comparing inputs"):
            for rows, columns in combinations_with_replacement(parts(self.shards.own, block_size), 2):
                run(rows, columns)
            for step in self.shards.ring_steps():
                size = min(block_size, self._most)
                there = parts(step.remote_rows, size)
                for remote_rows in self._exchange(step, exchanged, size, failure) if exchanged else there:
                    for own_rows in parts(step.own_rows, block_size):
                        run(*sorted((own_rows, remote_rows), key=lambda each: each.start))
            for features in exchanged:
                features.drop_remote_rows()
            failure.end()

    def _exchange(
        self, step: RingStep, exchanged: Sequence[ShardedFeatures], block_size: int, failure: DeferredError
    ) -> Iterator[slice]:
        """Exchanges messages and yields each block of remote rows when it is complete; the next message is sent meanwhile."""
        outgoing = list(_messages(exchanged, step.out, block_size))
        incoming = list(_messages(exchanged, step.remote_rows, block_size))
        buffers: dict[int, RemoteBuffer] = {}

        def begin(number: int) -> Callable[[], Optional[Tensor]]:
            out = self._outgoing(exchanged, outgoing[number], failure) if number < len(outgoing) else None
            into = None
            if number < len(incoming):
                message = incoming[number]
                features = exchanged[message.source]
                into = self.processes.buffer(_length(message.rows), features.shape[1], dtype=features.dtype)
            wait = self.processes.send_and_receive(out, step.to, into, step.source)

            def end() -> Optional[Tensor]:
                wait()
                return into

            return end

        number, total = 0, max(len(outgoing), len(incoming))
        under_way = begin(0) if total else None
        while under_way is not None:
            received = under_way()
            under_way = begin(number + 1) if number + 1 < total else None
            if received is not None:
                message = incoming[number]
                features = exchanged[message.source]
                if message.source not in buffers:
                    buffers[message.source] = self._make_buffer(features.device)
                failure.run(lambda: buffers[message.source].append(received))
                if message.last:
                    for place, each in enumerate(exchanged):
                        each.set_remote_rows(message.block, buffers[place])
                    yield message.block
                    for each in exchanged:
                        each.drop_remote_rows()
                    for buffer in buffers.values():
                        buffer.close()
                    buffers = {}
            number += 1

    def _outgoing(self, exchanged: Sequence[ShardedFeatures], message: _Message, failure: DeferredError) -> Tensor:
        features = exchanged[message.source]
        values = failure.run(lambda: features.read(message.rows, slice(0, features.shape[1])))
        if values is None:  # the other rank waits for a message of this size; the error is raised on all ranks later
            return self.processes.buffer(_length(message.rows), features.shape[1], dtype=features.dtype).zero_()
        return self.processes.outgoing(values)


def _messages(exchanged: Sequence[ShardedFeatures], rows: slice, block_size: int) -> Iterator[_Message]:
    """Messages in the order of sending and receiving: by block, then by source, then by parts of bounded size."""
    for block in parts(rows, block_size):
        for source, features in enumerate(exchanged):
            pieces = list(parts(block, max(1, _MESSAGE_NUMBERS // features.shape[1])))
            for piece in pieces:
                yield _Message(source, piece, block, source == len(exchanged) - 1 and piece is pieces[-1])


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
