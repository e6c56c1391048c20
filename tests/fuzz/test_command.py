"""The command with odd arguments: an exit code and one line that says what is wrong, never a traceback."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from captum_kd.command.parser import DONE, FAILED, USAGE, main
from command.checkpoints_and_data import PLAIN, write_images, write_models

EXAMPLES = int(os.environ.get("CAPTUM_KD_FUZZ_EXAMPLES", "15"))

ODD = [
    "", " ", "-1", "0", "1e9", "nan", "inf", "=", "a=", "=a", "a=b", ":", "@", "a@b", "torchvision:", "torchvision:no",
    "timm:no@x", "hf:.", "hf:/no", "models.py:small", "models.py:no", "models.py:broken", "models.py:text",
    "models.py:small@models.py", "models.py:small@photos", "models.py:small@random", "models.py:wide@kd1.pt",
    "models.py:small@kd1.pt#student", "photos", "none", "models.py", "kd1.pt", "photos/cat/000.png", "conv1", "conv9", "fc",
    "auto", "conv1,student:conv2", "a=conv1,no:conv2", "cpu", "cuda:7", "meta", "12", "student=8", "0.5,0.5", "0,0,0",
    "1,2,3,4", "no=1,1,1", "\0", "\n", "é", "\ud800", "..", "/dev/null",
]  # fmt: skip
"""Values of options: names of files that there are, and others."""
OPTIONS = [
    "--student", "--base", "--teacher", "--layers", "--data", "--split", "--classes", "--limit", "--maps", "--output",
    "--batch-size", "--device", "--seed", "--image-size", "--resize", "--mean", "--std", "--placebo", "--confidence",
    "--no-such-option",
]  # fmt: skip
COMMON = [
    "--student", "models.py:small@kd1.pt", "--base", "models.py:small@base1.pt", *PLAIN, "--layers", "conv2", "--data", "photos",
    "--no-progress", "--output", "new",
]  # fmt: skip
VALID = {
    "compare": [*COMMON, "--maps", "0"],
    "maps": [*COMMON, "--maps", "3"],
    "layers": ["models.py:small@kd1.pt", *PLAIN],
    "report": ["out"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_models(folder)
    write_images(folder / "photos", count=10)
    (folder / "out").mkdir()
    (folder / "out/kept.txt").write_text("mine")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_any_arguments(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    texts = st.sampled_from(ODD) | st.text(max_size=4)

    @settings(max_examples=2 * EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.sampled_from(sorted(VALID)),
        st.lists(st.tuples(st.sampled_from(OPTIONS), texts), max_size=2),
        st.lists(texts, max_size=1),
    )
    def run(command: str, options: list[tuple[str, str]], more: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in place.iterdir():
                (Path(folder) / name.name).symlink_to(name)
            monkeypatch.chdir(folder)
            try:
                code = main([command, *VALID[command], *(part for option in options for part in option), *more])
            except SystemExit as stopped:
                code = stopped.code
                assert code in (DONE, USAGE)  # --help and --version, or wrong usage
            said = capfd.readouterr().err
            assert code in (DONE, FAILED, USAGE) and "Traceback" not in said
            if code == FAILED:
                errors = [line for line in said.splitlines() if not line.startswith("warning: ")]
                assert len(errors) == 1 and errors[0].startswith("captum-kd: error: ") and len(errors[0]) > 40
            monkeypatch.chdir(place)
        assert [(place / "out/kept.txt").read_text(), *(path.name for path in (place / "out").iterdir())] == ["mine", "kept.txt"]

    run()
