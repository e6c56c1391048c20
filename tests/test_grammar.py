"""The sources are in the grammar of the oldest Python that setup.cfg names, whatever Python runs the tests."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("captum_kd", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def oldest() -> tuple[int, int]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    major, minor = setup["options"]["python_requires"].removeprefix(">=").split(".")
    return int(major), int(minor)


def test_there_are_sources() -> None:
    assert len(SOURCES) > 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_oldest_python_can_read_it(path: Path, oldest: tuple[int, int]) -> None:
    ast.parse(path.read_text(), str(path), feature_version=oldest)


def test_newer_grammar_is_found_out(oldest: tuple[int, int]) -> None:
    with pytest.raises(SyntaxError):
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass\n", feature_version=oldest)
