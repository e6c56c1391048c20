"""All tests run on one thread: threads only slow down models this small, most of all on a busy machine."""

from typing import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Before every test, since importing dcor sets torch back to all threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
