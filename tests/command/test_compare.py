"""The command from options to files, and the errors that users meet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_and_data import PLAIN, write_images, write_models

from captum_kd.command.parser import FAILED, INTERRUPTED, USAGE, main
from captum_kd.metrics import compare_transfer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    write_models(folder)
    write_images(folder / "photos")
    return folder


def models(place: Path, teacher: bool = True) -> list[str]:
    spec = f"{place / 'models.py'}:small@{place}"
    given = [
        "--student", f"kd1={spec}/kd1.pt", "--student", f"kd2={spec}/kd2.pt", "--base", f"b1={spec}/base1.pt",
        "--base", f"b2={spec}/base2.pt",
    ]  # fmt: skip
    return given + ["--teacher", f"{place / 'models.py'}:wide@{place}/teacher.pt"] * teacher


def given(place: Path, output: Path, *more: str) -> list[str]:
    return ["compare", *models(place), *PLAIN, "--layers", "conv2", "--data", str(place / "photos"), "--maps", "6",
            "--no-progress", "--batch-size", "32", "--output", str(output), *more]  # fmt: skip


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    output = place / "out"
    assert main(given(place, output)) == 0
    return output


def test_compare_writes_page_report_tables_figures_and_maps(done: Path) -> None:
    names = {each.name for each in done.iterdir()}
    assert {"index.html", "report.json", "scores.csv", "inputs.csv", "report.md", "layers.png", "maps.png", "maps.pt"} <= names
    content = json.loads((done / "report.json").read_text())
    assert content["settings"]["n"] == 90 and content["settings"]["class_names"] == ["cat", "dog", "eel"]
    assert set(content["settings"]["models"]) == {"kd1", "kd2", "b1", "b2", "teacher"}
    assert {"rs_distilled", "teacher_distilled", "accuracy_student"} & {row["score"] for row in content["rows"]}
    saved = torch.load(done / "maps.pt", weights_only=True)
    assert saved["maps"]["conv2"]["kd1", "b1"]["net"].shape == (6, 1, 6, 6)
    assert sorted(saved["labels"].tolist()) == [0, 0, 1, 1, 2, 2]


def test_scores_are_those_of_compare_transfer(done: Path, place: Path) -> None:
    from captum_kd.command.images import read_images
    from captum_kd.command.preprocessing import Preprocessing
    from captum_kd.command.specs import load_model, parse_spec

    kind = Preprocessing((12, 12), 12, (0.5,) * 3, (0.25,) * 3)
    names = {"student": ["kd1", "kd2"], "base": ["base1", "base2"], "teacher": ["teacher"]}
    loaded = {
        name: load_model(
            parse_spec(f"{place / 'models.py'}:{'wide' if role == 'teacher' else 'small'}@{place}/{name}.pt"), name, role, False
        )._replace(preprocessing=kind)
        for role, own in names.items() for name in own
    }  # fmt: skip
    data = read_images(place / "photos", None, 1000, 0, [], list(loaded.values()))
    expected = compare_transfer(
        {name: loaded[name].module for name in ("kd1", "kd2")}, {f"b{i}": loaded[f"base{i}"].module for i in (1, 2)}, "conv2",
        data.batches(90), teacher=loaded["teacher"].module, show_progress=False,
    )  # fmt: skip
    rows = {(r["student"], r["base"], r["score"]): r["value"] for r in json.loads((done / "report.json").read_text())["rows"]}
    for row in expected.rows:
        assert rows[row["student"], row["base"], row["score"]] == pytest.approx(row["value"], abs=1e-6)


def test_a_saved_report_is_drawn_again_with_its_maps(done: Path, tmp_path: Path) -> None:
    assert main(["report", str(done), "--output", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/scores.csv").read_bytes() == (done / "scores.csv").read_bytes()
    assert (tmp_path / "again/index.html").read_text() == (done / "index.html").read_text()
    assert (tmp_path / "again/maps.pt").is_file()


def test_maps_alone(place: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["maps", *models(place), *PLAIN, "--layers", "conv2", "--data", str(place / "photos"), "--maps", "4",
                 "--no-progress", "--output", str(tmp_path / "maps")]  # fmt: skip
    assert main(arguments) == 0
    assert "in this order: cat, dog, eel" in capsys.readouterr().out
    assert {"index.html", "maps.png", "maps.pt"} <= {each.name for each in (tmp_path / "maps").iterdir()}


def test_maps_of_few_positions_are_named(place: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["maps", *models(place), *PLAIN, "--image-size", "6", "--layers", "conv1", "conv2", "--data",
                 str(place / "photos"), "--maps", "4", "--no-progress", "--output", str(tmp_path / "maps")]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Maps of conv2 have only 3 x 3 positions" in said and "Maps of conv1" not in said


def test_models_may_have_sizes_and_layers_of_their_own(place: Path, tmp_path: Path) -> None:
    more = ["--image-size", "teacher=16", "--layers", "last=conv2,teacher:conv1"]
    assert main(given(place, tmp_path / "out", *more)) == 0
    layers = json.loads((tmp_path / "out/report.json").read_text())["settings"]["layers"]
    assert layers == {"last": {"kd1": "conv2", "kd2": "conv2", "b1": "conv2", "b2": "conv2", "teacher": "conv1"}}


def test_other_classes_than_the_models(place: Path, tmp_path: Path, capsys: Any) -> None:
    write_images(tmp_path / "two", classes=("up", "down"), count=50)
    arguments = given(place, tmp_path / "out", "--data", str(tmp_path / "two"))
    assert main(arguments) == FAILED
    assert "3 outputs, and the data have 2 classes" in capsys.readouterr().err
    assert main([*arguments, "--no-predictions"]) == 0
    assert torch.load(tmp_path / "out/maps.pt", weights_only=True)["predictions"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--data", "{place}/photos/cat"], "needs a folder for each class"),
        (["--split", "test"], "has no folder 'test'"),
        (["--layers", "conv9"], "Close matches: 'conv2', 'conv1'"),
        (["--layers", "conv2,nobody:conv1"], "no model 'nobody'"),
        (["--layers", "auto"], "--layers conv2"),
        (["--maps", "40"], "Use --maps 26"),
        (["--resize", "teacher=10"], "--resize 10 is less than the image size 12"),
        (["--device", "quantum"], "Use cpu"),
        (["--output", "{place}/photos"], "is not empty"),
        (["--student", "x={place}/models.py:small@{place}/none.pt"], "There is no file"),
        (["--student", "x={place}/models.py:tiny"], "no function 'tiny'"),
        (["--student", "x={place}/models.py:broken"], "no such thing"),
        (["--student", "x={place}/models.py:text"], "returned str"),
        (["--student", "x={place}/models.py:wide@{place}/kd1.pt"], "another shape"),
        (["--student", "b1={place}/models.py:small"], "called 'b1'"),
        (["--limit", "6"], "too few"),
        (["--classes", "{place}/kd1.pt"], "--classes"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_1(
    place: Path, tmp_path: Path, capsys: Any, change: list[str], message: str
) -> None:
    arguments = given(place, tmp_path / "out", *(each.format(place=place) for each in change))
    assert main(arguments) == FAILED
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [["--mean", "a"], ["--mean", "1,2"], ["--student", "resnet18"], ["--layers", "a,b"], ["--teacher", "x=hf:y"],
     ["--confidence", "2"], ["--maps", "-1"], ["--limit", "0"], ["--batch", "4"]],
)  # fmt: skip
def test_wrong_usage_is_status_2(place: Path, tmp_path: Path, change: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*given(place, tmp_path / "out"), *change])
    assert stopped.value.code == USAGE


def test_it_runs_from_source_and_its_help_has_examples() -> None:
    done = subprocess.run([sys.executable, "-m", "captum_kd", "compare", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout and "exit codes" in done.stdout


def test_ctrl_c_ends_in_one_line_and_status_130(place: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_kd.command.compare.compare_transfer", stopped)
    assert main(given(place, tmp_path / "out")) == INTERRUPTED
    stopped = "captum-kd: stopped. --output may lack files; give the same command again, with --overwrite.\n"
    assert capsys.readouterr().err == stopped
