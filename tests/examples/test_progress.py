"""What an example shows while it runs: its first words, the bar, and a line for each network."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from distillation import opening, progress
from distillation.opening import announce
from distillation.progress import Progress

EXAMPLES = Path(__file__).parents[2] / "examples"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    yield now


def train(shown: Progress, clock: list[float], name: str, seconds: float, accuracy: float) -> None:
    shown.begin(name)
    for share in (0.0, 0.5, 1.0):
        shown.moved(share)
        clock[0] += seconds / 2
    shown.finished(accuracy)


def test_a_file_gets_a_line_for_each_network_and_stage(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress({"Teacher": 1.0, "Base 1": 1.0}, True) as shown:
        train(shown, clock, "Teacher", 60, 0.9864)
        train(shown, clock, "Base 1", 60, 0.75)
        shown.stage("Measuring maps of Bases")
    printed = capsys.readouterr()
    assert printed.out == "1/2 Teacher: accuracy 0.986\n2/2 Base 1: accuracy 0.750\nMeasuring maps of Bases\n"
    assert not printed.err


def test_a_dumb_terminal_gets_lines_without_control_characters(
    capsys: pytest.CaptureFixture[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    with Progress({"Teacher": 1.0}, True) as shown:
        train(shown, clock, "Teacher", 60, 0.9)
    assert not stream.getvalue() and "\r" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [20, 40, 100])
def test_a_terminal_gets_a_bar_that_fits(
    columns: int, capsys: pytest.CaptureFixture[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    real = progress.tqdm

    def narrow(*args: Any, **options: Any) -> Any:
        return real(*args, **{**options, "dynamic_ncols": False, "ncols": columns, "mininterval": 0})

    narrow.write = real.write  # type: ignore[attr-defined]
    monkeypatch.setattr(progress, "tqdm", narrow)
    with Progress({"Teacher": 1.0, "Base 1": 1.0, "Student 1": 2.0}, True) as shown:
        train(shown, clock, "Teacher", 100, 0.9)
        train(shown, clock, "Base 1", 100, 0.8)
        shown.stage("Measuring maps of Bases")
    drawn = re.split(r"[\r\n]", stream.getvalue())
    assert max(map(len, drawn)) <= columns
    if columns > 20:
        assert any(line.startswith("Training 2 of 3, 5 min left  25%|") for line in drawn)
        assert any(line.startswith("Measuring maps of Bases") for line in drawn)
    assert capsys.readouterr().out.splitlines() == ["1/3 Teacher: accuracy 0.900", "2/3 Base 1: accuracy 0.800"]


def test_networks_from_checkpoints_say_nothing_about_the_time(clock: list[float]) -> None:
    shown = Progress({"Teacher": 10.0, "Base 1": 1.0}, False)
    shown.begin("Teacher")
    shown.finished(0.9)
    shown.begin("Base 1")
    shown.moved(0.5)  # a resumed training goes on in its middle
    clock[0] += 3
    shown.moved(0.75)
    assert (shown._measured, shown._seconds) == (0.25, 3)


@pytest.mark.parametrize("seconds, words", [(3, "<1 min"), (61, "2 min"), (3600, "1 h 0 min"), (5000, "1 h 24 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert progress._words(seconds) == words


def test_the_first_words_are_the_purpose_and_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening.sys, "argv", ["example.py"])
    announce("Title.\n\nTrains networks::\n\n    python example.py\n\nTakes a minute.\n")
    assert capsys.readouterr().out == "Title.\n\nTrains networks.\n\nTakes a minute.\n\nLoading PyTorch and Lightning ...\n"
    monkeypatch.setattr(opening.sys, "argv", ["example.py", "--help"])
    announce("Title.")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_speaks_before_it_loads_anything_slow(path: Path, tmp_path: Path) -> None:
    """With a torch that cannot be imported, the first words are on the screen all the same."""
    (tmp_path / "torch.py").write_text("raise ImportError('too slow')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode and "too slow" in done.stderr
    assert re.search(r"\nTakes .*\n\nLoading PyTorch and Lightning \.\.\.\n$", done.stdout)
