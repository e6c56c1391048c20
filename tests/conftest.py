"""Fixtures that all tests share, and the tiers of the test suite.

The default run leaves out the tests that are marked ``slow`` and the folders ``tests/examples`` and ``tests/docs``.
docs/contributing.md has one command for each tier.
"""

from pathlib import Path
from typing import Any, Iterator, Optional

import pytest
import torch
from workers import Workers

TESTS = Path(__file__).parent
FOLDER_TIERS = ("examples", "docs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """Do not import the other tiers' files in the default run: transformers, lightning and others take seconds."""
    is_default = config.option.markexpr in config.getini("addopts")
    is_other_tier = collection_path.parent == TESTS and collection_path.name in FOLDER_TIERS
    return True if is_default and is_other_tier else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a tier that is a folder."""
    for item in items:
        for tier in FOLDER_TIERS:
            if TESTS / tier in item.path.parents:
                item.add_marker(tier)


@pytest.fixture(scope="session")
def dcor() -> Any:
    """The reference implementation, imported by the tests that use it: it compiles for seconds."""
    return pytest.importorskip("dcor")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # More threads slow down models this small, most of all on a busy machine. Set before every test, since importing dcor
    # sets torch back to all threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    found = Workers(str(tmp_path_factory.mktemp("workers")))
    yield found
    found.close()
