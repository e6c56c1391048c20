"""A process that ends in the middle of a report ends the others' waiting, with a message, before the timeout is over."""

from __future__ import annotations

import datetime
import os
import signal
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
import torch.distributed as dist
from models import ConvNet, images, labels
from workers import context

from captum_kd._distributed import LostRankError
from captum_kd.distance import sharded
from population import compare

pytestmark = pytest.mark.slow

TIMEOUT = 8


def job(rank: int, when: str, folder: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    group = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=TIMEOUT))

    def end(*_: Any) -> None:
        pipe.send("begun")
        os.kill(os.getpid(), signal.SIGKILL) if when != "asleep" else time.sleep(600)

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            yield images(8, seed=rank), labels(8)
            if when == "reading" and rank == 1:
                end()
            yield images(8, seed=5 + rank), labels(8)

    if when != "reading" and rank == 1:
        sharded._Message.filled = end  # type: ignore[method-assign, assignment]
    student, base = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    try:
        compare(student, base, "conv1", Loader(), block_size=4, process_group=group)
    except Exception as error:
        pipe.send(error)
        os._exit(3)


@pytest.mark.parametrize("when", ["reading", "exchanging", "asleep"])
def test_others_do_not_wait_for_ever(when: str, tmp_path: Path) -> None:
    pipes = [context().Pipe() for _ in range(2)]
    jobs = [context().Process(target=job, args=(rank, when, str(tmp_path), pipes[rank][1])) for rank in range(2)]
    try:
        for each in jobs:
            each.start()
        assert pipes[1][0].poll(120) and pipes[1][0].recv() == "begun"
        started = time.monotonic()
        assert pipes[0][0].poll(60)
        error = pipes[0][0].recv()
        assert isinstance(error, LostRankError)
        assert "Rank 0 of 2 lost contact with another rank: it exited or exceeded the timeout" in str(error)
        # A process that has ended is missed at once.
        assert when == "asleep" or time.monotonic() - started < TIMEOUT
        jobs[0].join(10)
        assert jobs[0].exitcode == 3
        if when != "asleep":
            jobs[1].join(10)
            assert jobs[1].exitcode == -signal.SIGKILL
    finally:
        for each in jobs:
            each.kill()
            each.join()
