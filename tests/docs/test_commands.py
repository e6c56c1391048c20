"""Shell commands of README.md and docs/*.md: their scripts, modules, extras and options exist."""

import argparse
import configparser
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, commands

PYTHON = re.compile(r"(^|/)python3?$")


class Parsed(Exception):
    """A script has read its command line; nothing else of it is to run."""


def python_commands() -> list[tuple[str, list[str]]]:
    found = [(page.name, shlex.split(command)) for page in PAGES for command in commands(page)]
    return [(page, words) for page, words in found if PYTHON.search(words[0])]


def script_commands() -> list[tuple[str, list[str]]]:
    return sorted({(words[1], tuple(words[2:])) for _, words in python_commands() if words[1] != "-m"})


def check_options(script: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a script's own parser read the options.

    Raises:
        SystemExit: the parser refuses them.
    """
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def test_pages_have_commands() -> None:
    assert len(script_commands()) > 8
    assert any("examples/own_images.py" == script for script, _ in script_commands())


@pytest.mark.parametrize(("script", "options"), script_commands(), ids=lambda value: "".join(value)[:60])
def test_a_script_takes_the_options_that_pages_give_it(
    script: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (ROOT / script).is_file()
    # A script without options may have no parser to stop at.
    if options:
        pytest.importorskip("lightning")
        if script.endswith("quantus_metrics.py"):
            pytest.importorskip("quantus")
        check_options(script, list(options), monkeypatch)


def test_options_that_a_script_does_not_have_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        check_options("docs/scripts/draw_imports.py", ["--outputs=x"], monkeypatch)


@pytest.mark.parametrize(
    ("page", "words"), [item for item in python_commands() if item[1][1] == "-m"], ids=lambda value: "".join(value)[:60]
)
def test_modules_and_extras_exist(page: str, words: list[str]) -> None:
    assert importlib.util.find_spec(words[2]) is not None
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in words:
        for extras in re.findall(r"^\.\[(.*)\]$", word):
            assert set(extras.split(",")) <= set(setup["options.extras_require"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    """Code spans that look like paths of the repository."""
    spans = re.findall(r"`((?:captum_kd|docs|examples|tests)/[\w./*-]*)`", page.read_text())
    missing = [span for span in spans if not list(ROOT.glob(span.rstrip("/"))) and span != "examples/birds.py"]
    assert not missing
