r"""Distances between inputs that are sharded over ranks, by a ring exchange of features.

Each rank holds the features of its own inputs. Each unordered pair of inputs belongs to one tile, and each tile to one rank.
A rank receives the features of other ranks block by block, computes the tiles of these rows with its own, and sums over
them (:mod:`.block_sums`). Only the sums are all-reduced.

The W ranks form a ring: rank r receives the inputs of ranks r + 1, ..., r + (W - 1) / 2. If W is even, two opposite ranks
divide their common tiles: the lower one receives the first half of the other's inputs, and the higher one compares the second
half of its own with all of the lower one's. So every rank has about the same number of pairs, and with equal shards a rank
sends at most :math:`\tfrac12 n d` numbers, for any W.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, zip_longest
from typing import Any, Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.block_sums import TileCallback, parts
from captum_kd.distance.precision import widest
from captum_kd.distance.sources import DistanceSource, FeatureDistances, Features

# Numbers of one message (64 MiB of float32).
_MESSAGE_NUMBERS = 1 << 24
# Numbers of a block of remote rows in memory (128 MiB of float32).
_REMOTE_NUMBERS = 1 << 25


class RingStep(NamedTuple):
    """One step of the ring exchange in one rank. Slices are positions among all inputs.

    Attributes:
        to (int): the rank that receives inputs from this one.
        sent_rows (slice): the inputs that are sent.
        source (int): the rank that sends inputs to this one.
        remote_rows (slice): the inputs that are received.
        own_rows (slice): the inputs of this rank that the received ones are compared with.
    """

    to: int
    sent_rows: slice
    source: int
    remote_rows: slice
    own_rows: slice


class Shards:
    """The division of all inputs into ranges, one for each rank in the ranks' order.

    Args:
        sizes (sequence of int): inputs of each rank, which may be 0.
        rank (int): this rank.

    Attributes:
        n (int): number of all inputs.
        own (slice): the inputs of this rank.
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
        """The steps of this rank. In each step every rank sends to one rank and receives from one."""
        size = len(self.sizes)
        for step in range(1, size // 2 + 1):
            source, to = (self.rank + step) % size, (self.rank - step) % size
            sent_rows, remote_rows, own_rows = self.own, self.of(source), self.own
            if 2 * step == size:  # opposite ranks share their tiles
                if self.rank < to:
                    remote_rows = _halves(remote_rows)[0]
                else:
                    sent_rows, own_rows = _halves(self.own)
            yield RingStep(to, sent_rows, source, remote_rows, own_rows)


def _halves(rows: slice) -> tuple[slice, slice]:
    middle = (rows.start + rows.stop + 1) // 2
    return slice(rows.start, middle), slice(middle, rows.stop)


class RemoteBuffer(Protocol):
    """Holds a block of features of another rank."""

    def append(self, values: Tensor) -> None:
        """Stores the next rows (m, d)."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""

    def close(self) -> None:
        """Frees the features."""


class _MemoryBuffer:
    """Holds remote features in memory."""

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


class ShardedFeatures:
    """Features (n, d) of which this rank holds its own rows, and for a while a block of remote rows.

    The constructor is collective: all ranks must call it at the same time.

    Args:
        own (Features): features of this rank's inputs.
        shards (Shards): the division of the inputs.
        group (ProcessGroup): all ranks.
    """

    def __init__(self, own: Features, shards: Shards, group: ProcessGroup) -> None:
        self.shape = (shards.n, own.shape[1])
        self.dtype = own.dtype
        self.device = own.device
        self.shards = shards
        self.group = group
        self._own = own
        self._remote: Optional[tuple[slice, RemoteBuffer]] = None
        total = torch.zeros(own.shape[1], dtype=widest(own.device), device=own.device)
        largest = 0.0
        with group.raise_together("reading its features"):
            if own.shape[0]:
                total += own.middle().to(total.dtype) * own.shape[0]
                largest = own.largest()
        group.all_reduce_sum(total)
        self._middle = (total / shards.n).to(self.dtype)
        # max() of a NaN depends on the order.
        bounds = group.gather((largest if math.isfinite(largest) else math.inf, own.rounding))
        self._largest: float = max(largest for largest, _ in bounds)
        self.rounding: float = max(rounding for _, rounding in bounds)

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of a range of inputs, of this rank or of the remote block."""
        for held, features in ((self.shards.own, self._own), self._remote or (slice(0, 0), self._own)):
            if held.start <= rows.start and rows.stop <= held.stop:
                return features.read(slice(rows.start - held.start, rows.stop - held.start), columns)
        raise IndexError(f"This rank does not hold the features of the inputs {rows.start} to {rows.stop - 1}.")

    def middle(self) -> Tensor:
        return self._middle

    def largest(self) -> float:
        return self._largest

    def set_remote_rows(self, rows: slice, features: Optional[RemoteBuffer]) -> None:
        """Replaces the remote block; None removes it."""
        self._remote = None if features is None else (rows, features)


class ShardedDistances(FeatureDistances):
    """Distances between inputs of this rank, or between them and remote ones.

    The constructor, :meth:`shift` and :meth:`hold` are collective: all ranks must call them at the same time.

    Args:
        features (ShardedFeatures): (n, d).
        dtype (torch.dtype, optional): as for :class:`FeatureDistances`.

    Raises:
        ValueError: non-finite features in any rank; raised in all ranks.
    """

    def __init__(self, features: ShardedFeatures, dtype: Optional[torch.dtype] = None) -> None:
        super().__init__(features, keep=False, dtype=dtype)
        self.features = features
        self._held: Optional[dict[tuple[int, int], Tensor]] = None
        self._shift: Optional[Tensor] = None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def hold(self, tile_iterator: RingTiles, block_size: int) -> None:
        """Computes and keeps the tiles of this rank. The features are not needed afterwards."""
        self.shift()
        held: dict[tuple[int, int], Tensor] = {}

        def keep(rows: slice, columns: slice) -> None:
            held[rows.start, columns.start] = self.block(rows, columns)

        tile_iterator.each([self], block_size, keep)
        self._held = held

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        if self._held is not None:
            return self._held[rows.start, columns.start]
        return super().block(rows, columns, rechecks)

    def shift(self) -> tuple[Tensor, bool]:
        r"""An estimate from the distances r to the mean: centered features of many dimensions are nearly orthogonal, so that
        :math:`D_{ij} \approx \sqrt{r_i^2 + r_j^2} \approx (r_i + r_j) / \sqrt 2`."""
        if self._shift is None:
            shift = torch.zeros(self.n, dtype=widest(self.device), device=self.device)
            with self.features.group.raise_together("reading its features"):
                for rows in parts(self.features.shards.own, max(1, _MESSAGE_NUMBERS // self._width)):
                    norms = torch.linalg.vector_norm(self._read(rows, slice(0, self._width)), dim=1)
                    shift[rows] = norms.to(shift.dtype) / 2**0.5
            self.features.group.all_reduce_sum(shift)
            self._shift = shift
        return self._shift, False


class DeferredError:
    """Keeps the first error until the ring exchange is over, and skips the work that follows it.

    A rank that stops in the middle would make the others wait for its messages.
    """

    def __init__(self) -> None:
        self._error: Optional[Exception] = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._error is None:
            try:
                return function(*args)
            except Exception as error:
                self._error = error
        return None

    def raise_now(self) -> None:
        error, self._error = self._error, None  # its traceback refers to this object
        if error is not None:
            raise error


class _Message(NamedTuple):
    """Some rows of one set of features. ``is_last`` marks the last one of a block of rows of all sets."""

    features: ShardedFeatures
    rows: slice
    block: slice
    is_last: bool

    def empty(self) -> Tensor:
        """A tensor (m, d) for the message."""
        shape = self.rows.stop - self.rows.start, self.features.shape[1]
        return torch.empty(shape, dtype=self.features.dtype, device=self.features.group.device)

    def filled(self) -> Tensor:
        columns = slice(0, self.features.shape[1])
        return self.features.read(self.rows, columns).to(self.features.group.device).contiguous()


class RingTiles:
    """The tiles of this rank: pairs of its own inputs, and pairs with inputs of other ranks.

    Args:
        shards (Shards): the same division in all ranks.
        group (ProcessGroup): all ranks.
        width (int): numbers of an input in all sets of features that are exchanged together. Bounds the remote rows that are
            held at a time.
        make_buffer (callable, optional): makes a buffer for remote features that are not to be held in memory; in all ranks or
            in none.
    """

    def __init__(
        self,
        shards: Shards,
        group: ProcessGroup,
        width: int,
        make_buffer: Optional[Callable[[torch.device], RemoteBuffer]] = None,
    ) -> None:
        self.shards = shards
        self.group = group
        # At most half of a shard, so that no rank holds all features of two.
        self._most_rows = max(1, -(-max(shards.sizes) // 2))
        if make_buffer is None:
            self._most_rows = max(1, min(self._most_rows, _REMOTE_NUMBERS // width))
        self._make_buffer: Callable[[torch.device], RemoteBuffer] = make_buffer or _MemoryBuffer

    def all_reduce_sum(self, *values: Tensor) -> None:
        self.group.all_reduce_sum(*values)

    def each(self, sources: Sequence[DistanceSource], block_size: int, callback: TileCallback) -> None:
        computed = [each.features for each in sources if isinstance(each, ShardedDistances) and not each.is_held]
        exchanged = list(dict.fromkeys(computed))
        deferred, remote_size = DeferredError(), min(block_size, self._most_rows)
        with self.group.raise_together("comparing inputs"):
            for rows, columns in combinations_with_replacement(parts(self.shards.own, block_size), 2):
                deferred.run(callback, rows, columns)
            for step in self.shards.ring_steps():
                blocks = parts(step.remote_rows, remote_size)
                for remote_rows in self._receive(step, exchanged, remote_size, deferred) if exchanged else blocks:
                    for own_rows in parts(step.own_rows, block_size):
                        deferred.run(callback, *sorted((own_rows, remote_rows), key=lambda rows: rows.start))
            deferred.raise_now()

    def _receive(
        self, step: RingStep, exchanged: Sequence[ShardedFeatures], size: int, deferred: DeferredError
    ) -> Iterator[slice]:
        """Yields each block of remote rows while their features can be read."""
        buffers: dict[ShardedFeatures, RemoteBuffer] = {}
        for message, values in self._exchange(step, exchanged, size, deferred):
            features = message.features
            if features not in buffers:
                buffers[features] = deferred.run(self._make_buffer, features.device) or _MemoryBuffer(features.device)
            deferred.run(buffers[features].append, values)
            if message.is_last:
                for features in exchanged:
                    features.set_remote_rows(message.block, buffers[features])
                yield message.block
                for features in exchanged:
                    features.set_remote_rows(message.block, None)
                    buffers.pop(features).close()

    def _exchange(
        self, step: RingStep, exchanged: Sequence[ShardedFeatures], size: int, deferred: DeferredError
    ) -> Iterator[tuple[_Message, Tensor]]:
        """Sends and receives messages; yields those received. The next message is in flight meanwhile."""
        messages = zip_longest(_messages(exchanged, step.sent_rows, size), _messages(exchanged, step.remote_rows, size))
        received: Optional[tuple[_Message, Tensor]] = None
        wait: Callable[[], None] = lambda: None
        for to_send, to_receive in [*messages, (None, None)]:
            wait()
            arrived = received
            received = None if to_receive is None else (to_receive, to_receive.empty())
            sent = None
            if to_send is not None:
                # After an error the others still wait for a message of this size.
                sent = deferred.run(to_send.filled)
                sent = to_send.empty().zero_() if sent is None else sent
            wait = self.group.exchange(sent, step.to, None if received is None else received[1], step.source)
            if arrived is not None:
                yield arrived


def _messages(exchanged: Sequence[ShardedFeatures], rows: slice, size: int) -> Iterator[_Message]:
    """The messages in the order in which they are sent: block by block, in each block one set of features after the other."""
    for block in parts(rows, size):
        for features in exchanged:
            for piece in parts(block, max(1, _MESSAGE_NUMBERS // features.shape[1])):
                yield _Message(features, piece, block, features is exchanged[-1] and piece.stop == block.stop)
