"""A process that ends in the middle of a report ends the others' waiting, with a message, before the timeout is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = '''
import datetime, os, signal, sys, time
import torch
import torch.distributed as dist
from captum_kd.distance import sharded
from captum_kd.metrics import compare_transfer
from models import ConvNet, images, labels

torch.set_num_threads(1)
dist.init_process_group("gloo")
group = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=8))
rank, when = dist.get_rank(), sys.argv[1]


def end():
    print("begun", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if when != "asleep" else time.sleep(600)


class Loader:
    def __iter__(self):
        yield images(8, seed=rank), labels(8)
        if when == "reading" and rank == 1:
            end()
        yield images(8, seed=5 + rank), labels(8)


if when != "reading" and rank == 1:
    send = sharded.ShardWalk._outgoing
    sharded.ShardWalk._outgoing = lambda *given: end() or send(*given)
student, base = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
try:
    compare_transfer(student, base, "conv1", Loader(), block_size=4, show_progress=False, process_group=group)
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(3)
'''


@pytest.mark.parametrize("when", ["reading", "exchanging", "asleep"])
def test_others_do_not_wait_for_ever(when: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[2]
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    common = {
        **os.environ, "PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), when], env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        assert jobs[1].stdout is not None and "begun" in jobs[1].stdout.readline()
        started = time.monotonic()
        told, _ = jobs[0].communicate(timeout=60)
        assert jobs[0].returncode == 3, told
        assert "LostProcess: Process 0 of 2 waits in vain for another one, which has ended" in told
        assert "timeout of init_process_group" in told
        # The timeout is that of the group; a process that has ended is missed at once.
        assert time.monotonic() - started < (40 if when == "asleep" else 8)
        if when != "asleep":
            assert jobs[1].wait(10) == -signal.SIGKILL
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def free_port() -> str:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])
