"""Collective operations over a torch.distributed process group.

If a rank raises while the others wait for its messages, they hang. Code that can fail in a single rank therefore runs inside
:meth:`ProcessGroup.raise_together`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

import torch
from torch import Tensor

from captum_kd._utils.validation import short_repr


# The largest number of characters of a value in an error.
_MOST_SHOWN = 200


class LostRankError(RuntimeError):
    """Another rank exited or exceeded the group's timeout."""


class UnequalRanksError(ValueError):
    """The arguments differ between ranks. It is raised in every rank."""


class ProcessGroup:
    """The ranks that share a computation, or only this process.

    Args:
        group (torch.distributed.ProcessGroup, optional): a group that this process belongs to.

    Attributes:
        rank (int): the number of this rank.
        size (int): the number of ranks.
        device (torch.device): device of the messages, "cuda" for nccl and "cpu" for gloo.
        bytes_sent (int): number of bytes that this rank has sent by :meth:`exchange`.
    """

    def __init__(self, group: Optional[Any] = None) -> None:
        self._group = group
        self.rank, self.size, self.device, self.bytes_sent = 0, 1, torch.device("cpu"), 0
        if group is not None:
            import torch.distributed as dist

            self._dist = dist
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
            self.device = _device_of(dist.get_backend_config(group))

    @property
    def is_distributed(self) -> bool:
        return self._group is not None

    @contextmanager
    def raise_together(self, action: str) -> Iterator[None]:
        """Raises in every rank if one of them raises inside. All ranks wait for each other at the end.

        Args:
            action (str): completes "failed while" in the message.

        Raises:
            RuntimeError: another rank failed. The message has its number and error.
        """
        try:
            yield
        except LostRankError:
            raise  # the others cannot be reached
        except Exception as error:
            self.gather(f"{type(error).__name__}: {error}")
            raise
        for rank, message in enumerate(self.gather(None)):
            if message is not None:
                raise RuntimeError(
                    f"Rank {rank} failed while {action}, so rank {self.rank} of {self.size} stopped too. Its error: {message}"
                )

    def gather(self, value: Any) -> list[Any]:
        """Gathers the picklable values of all ranks in every rank."""
        if not self.is_distributed:
            return [value]
        values: list[Any] = [None] * self.size
        with self._detect_lost_rank():
            self._dist.all_gather_object(values, value, group=self._group)
        return values

    def all_reduce_sum(self, *values: Tensor) -> None:
        """Replaces tensors by their sums over all ranks."""
        for value in values if self.is_distributed else ():
            message = value.to(self.device).contiguous()
            with self._detect_lost_rank():
                self._dist.all_reduce(message, group=self._group)
            if message is not value:
                value.copy_(message)

    def exchange(self, sent: Optional[Tensor], to: int, received: Optional[Tensor], source: int) -> Callable[[], None]:
        """Starts to send a tensor to one rank and to receive one from another. The returned function waits for both.

        Args:
            sent, received (Tensor, optional): contiguous, on the group's device.
            to, source (int): ranks of the group.
        """
        dist, operations = self._dist, []
        if sent is not None:
            operations.append(dist.P2POp(dist.isend, sent, dist.get_global_rank(self._group, to), self._group))
            self.bytes_sent += sent.numel() * sent.element_size()
        if received is not None:
            operations.append(dist.P2POp(dist.irecv, received, dist.get_global_rank(self._group, source), self._group))
        with self._detect_lost_rank():
            works = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            with self._detect_lost_rank():
                for work in works:
                    work.wait()
            operations.clear()  # the tensors are kept until they have been sent

        return wait

    def check_equal(self, values: Mapping[str, object]) -> None:
        """Raises in every rank unless all ranks have equal values.

        Args:
            values (mapping): comparable, picklable values by the argument's name.

        Raises:
            UnequalRanksError: an argument differs. The message names it, two ranks and their values.
        """
        first, *others = self.gather(dict(values))
        for rank, other in enumerate(others, 1):
            difference = _first_difference(first, other)
            if difference is not None:
                name, mine, theirs = difference
                raise UnequalRanksError(
                    f"{name} differs between ranks: {mine} in rank 0, {theirs} in rank {rank}. Pass the same arguments in all "
                    "ranks, except for the data."
                )

    @contextmanager
    def _detect_lost_rank(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(
                f"Rank {self.rank} of {self.size} lost contact with another rank: it exited or exceeded the timeout of "
                f"init_process_group. See the output of the other ranks. ({error})"
            ) from error


def as_process_group(process_group: Any) -> ProcessGroup:
    """The argument ``process_group`` as a :class:`ProcessGroup`; None stands for only this process.

    Raises:
        TypeError: ``process_group`` is neither None nor a process group.
        ValueError: a group that this process does not belong to.
    """
    if process_group is None:
        return ProcessGroup()
    import torch.distributed as dist

    if dist.is_available() and process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("This process does not belong to process_group. Make the call only in ranks of the group.")
    if not (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        raise TypeError(
            "process_group must be None or a torch.distributed process group (torch.distributed.group.WORLD after "
            f"init_process_group()), got {short_repr(process_group)}."
        )
    return ProcessGroup(process_group)


def _first_difference(first: Mapping[str, object], other: Mapping[str, object]) -> Optional[tuple[str, str, str]]:
    """The name of the first entry that differs and the two values as text. Nested mappings give ``name['key']``."""
    for name in {**first, **other}:
        mine, theirs = first.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            inner = _first_difference(mine, theirs)
            if inner is not None:
                return f"{name}[{inner[0]!r}]", inner[1], inner[2]
        elif repr(mine) != repr(theirs):  # NaN has one repr, but is not equal to itself
            return name, repr(mine)[:_MOST_SHOWN], repr(theirs)[:_MOST_SHOWN]
    return None


def _device_of(backends: str) -> torch.device:
    """The device of a configuration such as "cpu:gloo,cuda:nccl": the CPU if it has a backend, else the first device."""
    kinds = [each.split(":")[0] for each in str(backends).split(",")]
    found = torch.device("cpu" if "cpu" in kinds else kinds[0])
    if found.type == "cpu":
        return found
    return torch.device(found.type, torch.get_device_module(found).current_device())
