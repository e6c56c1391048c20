"""All tests run on one thread: threads only slow down models this small, most of all on a busy machine."""

from typing import Any, Iterator

import pytest
import torch
from workers import Workers


@pytest.fixture(scope="session")
def dcor() -> Any:
    """The reference implementation, imported by the tests that use it: it compiles for seconds."""
    return pytest.importorskip("dcor")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Before every test, since importing dcor sets torch back to all threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    found = Workers(str(tmp_path_factory.mktemp("workers")))
    yield found
    found.close()
