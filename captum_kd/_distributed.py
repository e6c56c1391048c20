"""Collective operations over a torch.distributed process group, with errors that are raised in every rank.

One process by itself is a :class:`ProcessGroup`, which has nobody to wait for; a :class:`TorchProcessGroup` speaks through
``torch.distributed``. Code that uses them does not ask which it has.

Whoever waits for others must hear when one of them fails: what may fail in one process alone is done inside
:meth:`ProcessGroup.raise_together`, which makes an error of one an error of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

import torch
from torch import Tensor

from captum_kd._utils.validation import short_repr

__all__ = ["DifferingProcesses", "TorchProcessGroup", "LostRankError", "ProcessGroup", "as_process_group"]

Wait = Callable[[], None]


class LostRankError(RuntimeError):
    """Another process does not answer any more: it has ended, or took longer than the group's timeout."""


class DifferingProcesses(ValueError):
    """The processes were not given the same; all of them raise it."""


class ProcessGroup:
    """One process by itself.

    Attributes:
        rank (int): this process' place among all of them.
        size (int): their number.
        sent (int): bytes of features that this process has sent so far.
    """

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.sent = 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"

    @contextmanager
    def raise_together(self, doing: str) -> Iterator[None]:
        """What is done inside is done by all or by none: every process waits for the others at the end.

        Args:
            doing (str): what is done, for the message.

        Raises:
            RuntimeError: another process failed; names it and its error.
        """
        yield

    def gather(self, value: Any) -> list[Any]:
        """Every process' value, in the processes' order."""
        return [value]

    def all_reduce_sum(self, *values: Tensor) -> None:
        """Replaces tensors by their sums over all processes."""

    def all_reduce_min(self, *values: Tensor) -> None:
        """Replaces tensors by the smallest of each entry over all processes."""

    def send_and_receive(self, out: Optional[Tensor], to: int, into: Optional[Tensor], source: int) -> Wait:
        """Begins to send a tensor and to receive another one; what is returned waits until both are done."""
        raise RuntimeError("One process has nobody to send anything to.")

    def broadcast(self, value: Tensor, source: int) -> None:
        """Overwrites a tensor by the one that the process ``source`` has."""

    def buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An empty tensor where this group's messages live."""
        return torch.empty(shape, dtype=dtype)

    def outgoing(self, value: Tensor) -> Tensor:
        """A tensor, brought to where this group's messages live."""
        return value.contiguous()

    def check_equal(self, values: Mapping[str, object]) -> None:
        """Raises in all processes unless all of them have the same values.

        Args:
            values (mapping): by the argument's name; comparable, and short enough to be shown.

        Raises:
            DifferingProcesses: names the first argument that differs, and two processes with their values.
        """
        everyone = self.gather(dict(values))
        first = everyone[0]
        for rank, other in enumerate(everyone):
            for name in {**first, **other}:
                one, two = first.get(name, "nothing"), other.get(name, "nothing")
                if one != two and repr(one) != repr(two):  # NaN is no other value than NaN
                    if isinstance(one, Mapping) and isinstance(two, Mapping):
                        one, two = _less(one, two), _less(two, one)
                    raise DifferingProcesses(
                        f"{name} differs among the processes: {short_repr(one)} in process 0, {short_repr(two)} in "
                        f"process {rank}. All processes must be given the same but for their data."
                    )


def _less(one: Mapping[Any, object], two: Mapping[Any, object]) -> dict[Any, object]:
    """What one mapping has and another has not, so that it is not lost among what both have."""
    return {key: value for key, value in one.items() if repr(two.get(key, "nothing")) != repr(value)}


class TorchProcessGroup(ProcessGroup):
    """The processes of a ``torch.distributed`` group.

    Args:
        group (ProcessGroup): one that this process belongs to.

    Attributes:
        device (torch.device): on which the group's backend takes tensors: "cuda" for nccl, "cpu" for gloo.
    """

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        super().__init__()
        self._dist = dist
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.device = _device_of(dist.get_backend_config(group))

    @contextmanager
    def raise_together(self, doing: str) -> Iterator[None]:
        failure: Optional[Exception] = None
        try:
            yield
        except LostRankError:
            raise  # nobody is left who could be told
        except Exception as error:
            failure = error
        told = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        try:
            if failure is not None:
                raise failure
        finally:
            failure = None  # or the error would hold itself through this frame
        for rank, message in enumerate(told):
            if message is not None:
                raise RuntimeError(f"Process {rank} failed while {doing}, so {self} stopped too. Its error: {message}")

    def gather(self, value: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.size
        with self._waiting():
            self._dist.all_gather_object(everyone, value, group=self._group)
        return everyone

    def all_reduce_sum(self, *values: Tensor) -> None:
        for value in values:
            self._reduce(value, self._dist.ReduceOp.SUM)

    def all_reduce_min(self, *values: Tensor) -> None:
        for value in values:
            self._reduce(value, self._dist.ReduceOp.MIN)

    def send_and_receive(self, out: Optional[Tensor], to: int, into: Optional[Tensor], source: int) -> Wait:
        dist, operations = self._dist, []
        if out is not None:
            operations.append(dist.P2POp(dist.isend, out, self._peer(to), self._group))
            self.sent += out.numel() * out.element_size()
        if into is not None:
            operations.append(dist.P2POp(dist.irecv, into, self._peer(source), self._group))
        with self._waiting():
            begun = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            assert out is None or out.numel()  # the message lives until it has been sent
            with self._waiting():
                for each in begun:
                    each.wait()

        return wait

    def broadcast(self, value: Tensor, source: int) -> None:
        if source == self.rank:
            self.sent += value.numel() * value.element_size() * (self.size > 1)
        with self._waiting():
            self._dist.broadcast(value, self._peer(source), self._group)

    def buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def outgoing(self, value: Tensor) -> Tensor:
        return value.to(self.device).contiguous()

    def _peer(self, rank: int) -> int:
        return int(self._dist.get_global_rank(self._group, rank))

    def _reduce(self, value: Tensor, operation: Any) -> None:
        there = self.outgoing(value)
        with self._waiting():
            self._dist.all_reduce(there, operation, group=self._group)
        if there is not value:
            value.copy_(there)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(
                f"{str(self).capitalize()} waits in vain for another one, which has ended or took longer than the timeout of "
                f"init_process_group. Look at the other processes' output first. ({error})"
            ) from error


def as_process_group(process_group: Any) -> ProcessGroup:
    """What ``process_group=`` says.

    Raises:
        TypeError: neither None nor a group.
        ValueError: a group that this process does not belong to.
    """
    if process_group is None:
        return ProcessGroup()
    import torch.distributed as dist

    if dist.is_available() and process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "process_group is a group that this process does not belong to; call this in the group's own processes only."
        )
    if not (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        raise TypeError(
            "process_group must be None or a torch.distributed process group (torch.distributed.group.WORLD after "
            f"init_process_group()), got {short_repr(process_group)}."
        )
    return TorchProcessGroup(process_group)


def _device_of(backends: str) -> torch.device:
    """Of a configuration such as "cpu:gloo,cuda:nccl": the CPU, unless the group has none."""
    kinds = [each.split(":")[0] for each in str(backends).split(",")]
    found = torch.device("cpu" if "cpu" in kinds else kinds[0])
    if found.type == "cpu":
        return found
    return torch.device(found.type, torch.get_device_module(found).current_device())
