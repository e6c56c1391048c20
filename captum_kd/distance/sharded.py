r"""Populations that are sharded over ranks: each rank holds the features of some inputs.

Every unordered pair of inputs is met by one process. Features of some rows, a block at a time, visit another process, which
takes the distances between them and its own; what it finds goes into sums (:mod:`.sums`), and only the sums of all
processes are added up.

With W processes in a ring, process r is visited by the inputs of r + 1, ..., r + (W - 1) / 2. Where W is even, the process
opposite is met half and half: the first half of the inputs of the higher one visits the lower one, whose inputs all visit
the other half. Every process so meets its inputs with about half of all others, and sends about half of what all processes
together have, divided by W, for each process: :math:`\tfrac12 n d` numbers altogether at most, whatever W is.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd.distance.block_sums import Meeting, parts
from captum_kd.distance.precision import widest
from captum_kd.distance.sources import DistanceSource, FeatureDistances, Features, TensorFeatures

__all__ = ["RemoteBuffer", "RingTiles", "ShardedDistances", "ShardedFeatures", "Shards"]

# Numbers of one message (64 MB of float32).
_MESSAGE_NUMBERS = 1 << 24
# Numbers of a block of visitors in memory (128 MB of float32).
_VISITING_NUMBERS = 1 << 25
# Rows of a sample that are looked at together.
_SAMPLE_ROWS = 64


class Readable(Protocol):
    """Anything that can be read in parts."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""


class RingStep(NamedTuple):
    """One step of the ring, as one process sees it; slices are places in the whole population.

    Attributes:
        to (int): the process that this one sends inputs to.
        out (slice): these inputs.
        source (int): the process whose inputs visit this one.
        visitors (slice): these inputs.
        hosts (slice): those of this process' own inputs that they meet.
    """

    to: int
    out: slice
    source: int
    remote_rows: slice
    own_rows: slice


class Shards:
    """Which inputs each process has: they are numbered process after process.

    Args:
        sizes (sequence of int): of each process' share, which may be 0.
        rank (int): this process.

    Attributes:
        n (int): all inputs.
        own (slice): this process'.
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
        """Those of this process; in each step every process sends to one other and receives from one."""
        size = len(self.sizes)
        for step in range(1, size // 2 + 1):
            source, to = (self.rank + step) % size, (self.rank - step) % size
            out, remote_rows, own_rows = self.own, self.of(source), self.own
            if 2 * step == size:  # the two that are opposite each other share the work
                if self.rank < to:
                    remote_rows = _halves(remote_rows)[0]
                else:
                    out, own_rows = _halves(self.own)
            yield RingStep(to, out, source, remote_rows, own_rows)


def _halves(part: slice) -> tuple[slice, slice]:
    middle = part.start + -(-(part.stop - part.start) // 2)
    return slice(part.start, middle), slice(middle, part.stop)


class ShardedFeatures:
    """Features (n, d) of which this process has some rows, and for a while those of visitors.

    All processes make one at the same time.

    Args:
        own (Features): of this process' inputs.
        shards (Shards): which these are.
        processes (ProcessGroup): that have the others.
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
        with processes.raise_together("looking at its features"):
            if count:
                total += own.middle().to(wide) * count
                largest.copy_(largest.new_tensor([own.largest(), own.rounding])).nan_to_num_(torch.inf)
        processes.all_reduce_sum(total)
        processes.all_reduce_min(largest.neg_())
        self._middle = (total / shards.n).to(self.dtype)
        self._largest, self.rounding = -float(largest[0]), -float(largest[1])

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows: a range of this process' inputs or of the visitors."""
        places: list[tuple[slice, Readable]] = [(self.shards.own, self._own)]
        if self._remote_rows is not None:
            places.append(self._remote_rows)
        for there, features in places:
            if there.start <= rows.start and rows.stop <= there.stop:
                return features.read(slice(rows.start - there.start, rows.stop - there.start), columns)
        raise IndexError(f"The inputs {rows.start} to {rows.stop - 1} are those of another process.")

    def middle(self) -> Tensor:
        return self._middle

    def largest(self) -> float:
        return self._largest

    def set_remote_rows(self, rows: slice, features: Readable) -> None:
        """From now on these inputs of another process can be read, in place of those that came before."""
        self._remote_rows = rows, features

    def drop_remote_rows(self) -> None:
        self._remote_rows = None


class ShardedDistances(FeatureDistances):
    """Distances between inputs of this process, or between them and visitors.

    All processes make one at the same time, and call :meth:`shift` and :meth:`hold` at the same time.

    Args:
        features (ShardedFeatures): (n, d).

    Raises:
        ValueError: non-finite features, in all processes.
    """

    def __init__(self, features: ShardedFeatures) -> None:
        super().__init__(features, keep=False)
        self.features = features
        self._held: Optional[dict[tuple[int, int], Tensor]] = None
        self._guess: Optional[Tensor] = None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def hold(self, walk: "RingTiles", block_size: int) -> None:
        """Takes the blocks of this process' share now and keeps them; the features are not needed any more."""
        self.shift()
        held: dict[tuple[int, int], Tensor] = {}

        def see(rows: slice, columns: slice) -> None:
            held[rows.start, columns.start] = self.block(rows, columns)

        walk.each([self], block_size, see)
        self._held = held

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        """Of two ranges of inputs, one of them this process' own; of a sample, a slice with a step, in all processes at the
        same time."""
        if rows.step is not None:
            return self.sample(rows.step)
        if self._held is not None:
            return self._held[rows.start, columns.start]
        return super().block(rows, columns, rechecks)

    def shift(self) -> tuple[Tensor, bool]:
        r"""Inputs of many features lie about at right angles, seen from the middle, so that with r their distances from it
        :math:`D_{ij} \approx \sqrt{r_i^2 + r_j^2}`, which is nearly :math:`(r_i + r_j) / \sqrt 2`."""
        if self._guess is not None:
            return self._guess, False
        own, wide = self.features.shards.own, widest(self.device)
        found = torch.zeros(self.n, dtype=wide, device=self.device)
        with self.features.processes.raise_together("looking at its features"):
            for rows in parts(own, max(1, _MESSAGE_NUMBERS // self._width)):
                found[rows] = torch.linalg.vector_norm(self._read(rows, slice(0, self._width)), dim=1).to(wide) / 2**0.5
        self.features.processes.all_reduce_sum(found)
        self._guess = found
        return found, False

    def sample(self, step: int) -> Tensor:
        """(s, s) distances between every ``step``-th input, in all processes."""
        processes = self.features.processes
        size = len(range(0, self.n, step))
        found = torch.zeros((size, size), dtype=widest(self.device), device=self.device)
        if self._held is not None:
            _pick(self._held, step, found)
        else:
            failure = DeferredError()
            with processes.raise_together("comparing a sample of inputs"):
                for part, remote_rows in self._sample_rows(step, failure):
                    failure.run(lambda: self._meet_sample(step, part, remote_rows, found))
                failure.end()
        processes.all_reduce_sum(found)
        return found.fill_diagonal_(0)

    def _sample_rows(self, step: int, failure: "DeferredError") -> Iterator[tuple[range, Tensor]]:
        """A few rows of the sample after the other, from the process that has them to all."""
        processes = self.features.processes
        for rank in range(processes.size):
            for part in _ranges(_sampled(self.features.shards.of(rank), step), self._rows_at_once()):
                there = processes.buffer(len(part), self._width, dtype=self.features.dtype).zero_()
                if rank == processes.rank:
                    failure.run(lambda: there.copy_(self._own_sample(part)))
                processes.broadcast(there, rank)
                yield part, there

    def _meet_sample(self, step: int, columns: range, remote_rows: Tensor, found: Tensor) -> None:
        for rows in _ranges(_sampled(self.features.shards.own, step), self._rows_at_once()):
            both = TensorFeatures(torch.cat([self._own_sample(rows), remote_rows.to(self.device)]))
            met = _Framed(both, self).block(slice(0, len(rows)), slice(len(rows), len(rows) + len(columns)))
            found[[each // step for each in rows], columns[0] // step : columns[-1] // step + 1] = met.to(found.dtype)

    def _own_sample(self, places: range) -> Tensor:
        return torch.cat([self.features.read(slice(each, each + 1), slice(0, self._width)) for each in places])

    def _rows_at_once(self) -> int:
        return max(1, min(_SAMPLE_ROWS, _MESSAGE_NUMBERS // self._width))


class _Framed(FeatureDistances):
    """Distances of other features in the units of a population."""

    def __init__(self, features: Features, population: FeatureDistances) -> None:
        self.n, self._width = features.shape
        self.device, self.noise, self.rounding = population.device, population.noise, population.rounding
        self.dtype, self.unit = population.dtype, population.unit
        self._features, self._middle, self._kept = features, population._middle, None


def _sampled(part: slice, step: int) -> range:
    """The multiples of a number in a range."""
    return range(-(-part.start // step) * step, part.stop, step)


def _ranges(places: range, size: int) -> Iterator[range]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _pick(blocks: Mapping[tuple[int, int], Tensor], step: int, found: Tensor) -> None:
    """Every ``step``-th row and column of blocks, written into their matrix on both sides of the diagonal."""
    for (row, column), block in blocks.items():
        rows, columns = (_sampled(slice(a, a + n), step) for a, n in zip((row, column), block.shape))
        if len(rows) and len(columns):
            part = block[rows[0] - row :: step, columns[0] - column :: step].to(found.dtype)
            here, there = (slice(each[0] // step, each[-1] // step + 1) for each in (rows, columns))
            found[here, there] = part
            found[there, here] = part.T


class RemoteBuffer(Protocol):
    """Where visitors stay."""

    def append(self, values: Tensor) -> None:
        """Takes the next rows (m, d)."""

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Some columns of some rows."""

    def close(self) -> None:
        """They leave."""


class _InMemory:
    """Visitors in memory."""

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
    """Keeps an error until the others need no messages from this process any more; what follows it is not done."""

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
    """Some rows of one source's features; ``last`` says that the block of visitors is then complete."""

    source: int
    rows: slice
    block: slice
    last: bool


class RingTiles:
    """This process' share of the pairs: those of its own inputs, and those of its inputs with visitors.

    Args:
        shards (Shards): the same division in all processes.
        processes (ProcessGroup): all of them.
        width (int): numbers of an input in all sets of features that travel together: what visits at once is bounded.
        room (callable, optional): makes a place for a block of visitors' features where these are not to be in memory; in
            all processes or in none.
    """

    def __init__(
        self,
        shards: Shards,
        processes: ProcessGroup,
        width: int,
        room: Optional[Callable[[torch.device], RemoteBuffer]] = None,
    ) -> None:
        self.shards = shards
        self.processes = processes
        # Of small shares too only a part visits at a time.
        self._most = max(1, -(-max(shards.sizes) // 2))
        if room is None:
            self._most = max(1, min(self._most, _VISITING_NUMBERS // width))
        self._room: Callable[[torch.device], RemoteBuffer] = _InMemory if room is None else room

    def all_reduce_sum(self, *values: Tensor) -> None:
        self.processes.all_reduce_sum(*values)

    def each(self, sources: Sequence[DistanceSource], block_size: int, see: Meeting) -> None:
        traveling = [
            source.features for source in sources if isinstance(source, ShardedDistances) and not source.is_held
        ]
        failure = DeferredError()

        def meet(rows: slice, columns: slice) -> None:
            failure.run(lambda: see(rows, columns))

        with self.processes.raise_together("comparing inputs"):
            for rows, columns in combinations_with_replacement(parts(self.shards.own, block_size), 2):
                meet(rows, columns)
            for encounter in self.shards.ring_steps():
                size = min(block_size, self._most)
                there = parts(encounter.remote_rows, size)
                for remote_rows in self._exchange(encounter, traveling, size, failure) if traveling else there:
                    for own_rows in parts(encounter.own_rows, block_size):
                        meet(*sorted((own_rows, remote_rows), key=lambda each: each.start))
            for features in traveling:
                features.drop_remote_rows()
            failure.end()

    def _exchange(
        self, encounter: RingStep, traveling: Sequence[ShardedFeatures], block_size: int, failure: DeferredError
    ) -> Iterator[slice]:
        """Exchanges messages; gives each block of visitors once it is there. The next message travels meanwhile."""
        outgoing = list(_messages(traveling, encounter.out, block_size))
        incoming = list(_messages(traveling, encounter.remote_rows, block_size))
        rooms: dict[int, RemoteBuffer] = {}

        def begin(number: int) -> Callable[[], Optional[Tensor]]:
            out = self._outgoing(traveling, outgoing[number], failure) if number < len(outgoing) else None
            into = None
            if number < len(incoming):
                message = incoming[number]
                features = traveling[message.source]
                into = self.processes.buffer(_length(message.rows), features.shape[1], dtype=features.dtype)
            wait = self.processes.send_and_receive(out, encounter.to, into, encounter.source)

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
                features = traveling[message.source]
                if message.source not in rooms:
                    rooms[message.source] = self._room(features.device)
                failure.run(lambda: rooms[message.source].append(received))
                if message.last:
                    for place, each in enumerate(traveling):
                        each.set_remote_rows(message.block, rooms[place])
                    yield message.block
                    for each in traveling:
                        each.drop_remote_rows()
                    for room in rooms.values():
                        room.close()
                    rooms = {}
            number += 1

    def _outgoing(self, traveling: Sequence[ShardedFeatures], message: _Message, failure: DeferredError) -> Tensor:
        features = traveling[message.source]
        values = failure.run(lambda: features.read(message.rows, slice(0, features.shape[1])))
        if values is None:  # the others wait for so many numbers, and will hear of the error
            return self.processes.buffer(_length(message.rows), features.shape[1], dtype=features.dtype).zero_()
        return self.processes.outgoing(values)


def _messages(traveling: Sequence[ShardedFeatures], rows: slice, block_size: int) -> Iterator[_Message]:
    """In the order in which they are sent and received: block by block, in each source by source, in messages of a size."""
    for block in parts(rows, block_size):
        for source, features in enumerate(traveling):
            pieces = list(parts(block, max(1, _MESSAGE_NUMBERS // features.shape[1])))
            for piece in pieces:
                yield _Message(source, piece, block, source == len(traveling) - 1 and piece is pieces[-1])


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
