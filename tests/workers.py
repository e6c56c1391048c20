"""Processes that work on one thing together, for tests of what is spread over several."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import traceback
from typing import Any, Callable

import torch
import torch.distributed as dist

TIMEOUT = 120


def context() -> Any:
    """Starts processes from one that has imported what takes long. It uses no threads, which a fork would lose."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["captum_kd.metrics", "lightning.pytorch", "captum_kd.metrics.torchmetrics"])
    return found


class Workers:
    """Processes that are started once and run one function after the other.

    Args:
        folder (str): an empty one, in which they find each other.
        most (int): how many there are.
    """

    def __init__(self, folder: str, most: int = 3) -> None:
        self._pipes = []
        self._processes = []
        for rank in range(most):
            here, there = context().Pipe()
            process = context().Process(target=_work, args=(there, rank, most, folder), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(group, *args)`` returns in each of the first ``size`` processes, or the error that it raised.

        Args:
            function (callable): of a module's top level.
        """
        # The process that starts workers keeps its first environment, but .ci/mutation sets a variable for each change.
        for pipe in self._pipes[:size]:
            pipe.send((size, function, args, dict(os.environ)))
        found = []
        for pipe in self._pipes[:size]:
            assert pipe.poll(TIMEOUT), "a process did not answer"
            found.append(pipe.recv())
        return found

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            process.kill()


def of(results: list[Any]) -> list[Any]:
    """The results, none of which is an error."""
    for result in results:
        if isinstance(result, Exception):
            raise AssertionError("\n".join(getattr(result, "__notes__", []))) from result
    return results


def _work(pipe: Any, rank: int, most: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", most)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=most, timeout=datetime.timedelta(seconds=TIMEOUT))
    groups = {size: dist.new_group(list(range(size))) for size in range(1, most)} | {most: dist.group.WORLD}
    while (task := pipe.recv()) is not None:
        size, function, args, environment = task
        os.environ.update(environment)
        try:
            pipe.send(function(groups[size], *args))
        except Exception as error:
            # What add_note() does, which came with Python 3.11.
            error.__notes__ = [*getattr(error, "__notes__", []), f"in process {rank}:\n{traceback.format_exc()}"]
            error.__traceback__ = error.__cause__ = error.__context__ = None
            pipe.send(error)
