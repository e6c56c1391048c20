"""The checks of every push are the commands of docs/contributing.md, on the versions of Python that setup.cfg names."""

import configparser
import re
from typing import Any

import pytest
import yaml
from pages import DOCS, ROOT, commands

CHECK = re.compile(r"^(\.venv/bin/python -m (flake8|mypy|pytest|sphinx)|\.ci/)")


@pytest.fixture
def jobs() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())["jobs"]


@pytest.fixture
def setup() -> configparser.ConfigParser:
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    return read


def commands_of(job: dict[str, Any]) -> list[str]:
    """What a job runs, a step at a time, one command of its matrix after the other."""
    run = [step["run"] for step in job["steps"] if "run" in step]
    chosen = [case["command"] for case in job.get("strategy", {}).get("matrix", {}).get("include", [])]
    return [command for step in run for command in (chosen if step == "${{ matrix.command }}" else [step])]


def test_a_push_is_checked_with_the_commands_of_the_page(jobs: dict[str, Any]) -> None:
    checks = [command for command in commands(DOCS / "contributing.md") if CHECK.match(command)]
    run = [command for job in jobs.values() for command in commands_of(job)]
    assert len(checks) == 12
    assert set(checks) == {command for command in run if CHECK.match(command)}


def test_it_is_set_up_as_the_page_says(jobs: dict[str, Any], setup: configparser.ConfigParser) -> None:
    for job in jobs.values():
        (environment, install) = [command for command in commands_of(job) if not CHECK.match(command)]
        assert environment in commands(DOCS / "contributing.md")
        extras = re.fullmatch(r"\.venv/bin/python -m pip install --editable '\.\[(.*)\]'", install)
        assert extras is not None and set(extras[1].split(",")) <= set(setup["options.extras_require"])


def test_tests_run_on_every_version_of_python_that_the_package_names(
    jobs: dict[str, Any], setup: configparser.ConfigParser
) -> None:
    named = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert jobs["tests"]["strategy"]["matrix"]["python"] == named
    assert setup["options"]["python_requires"] == f">={named[0]}"
    assert setup["mypy"]["python_version"] == named[0]


@pytest.mark.parametrize("name", ["run", "wheel", "lowest", "mutation"])
def test_scripts_of_checks_can_be_run(name: str) -> None:
    assert (ROOT / ".ci" / name).stat().st_mode & 0o111
