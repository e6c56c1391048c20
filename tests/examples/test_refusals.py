"""The command line: what cannot be right is refused in one line and status 2, and nobody's file goes."""

import json
import os
from pathlib import Path

import own_images
import pytest
import quickstart
import torch
from distillation import command_line, experiment, networks, photographs, run_folder

OPTIONS = "--teacher-images 40 --train-images 40 --test-images 12 --map-images 4 --references 24 --no-progress".split()


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """Makes every training a failure of the test."""

    def fit(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(experiment, "fit", fit)


def refusal(capsys, output, *more, main=quickstart.main):
    """The one line of the error, without argparse's usage."""
    with pytest.raises(SystemExit) as stopped:
        main([*OPTIONS, "--output", str(output), *more])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count(": error: ") == 1 and said.endswith("\n")
    line = said[said.index(": error: ") + 9 : -1]
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/below", "below/" + "x" * 300, "x/" * 3000])
def test_a_name_that_is_too_long_is_refused(tmp_path, capsys, name):
    assert "File name too long" in refusal(capsys, tmp_path / name)


@pytest.mark.parametrize(
    "option, message",
    [
        ("--seed 9223372036854775808", "must be at most 9223372036854775807"),
        ("--seeds 99999999999", "must be at most 1000"),
        ("--threads 9999999999", "must be at most 1024"),
        ("--references 99999999999999999999", "scenes are too many, 1,000,000 are the most"),
        ("--test-images 1000000", "scenes are too many, 1,000,000 are the most"),
    ],
)
def test_numbers_that_no_machine_can_hold_are_refused(tmp_path, capsys, option, message):
    assert message in refusal(capsys, tmp_path / "new", *option.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("student, size", [("resnet18", 32), ("resnet50", 8)])
def test_images_whose_last_map_is_a_single_position_are_refused_before_the_training(tmp_path, capsys, student, size):
    options = ["--data", str(tmp_path), "--teacher", "resnet50", "--student", student, "--image-size", str(size)]
    said = refusal(capsys, tmp_path / "new", *options, main=own_images.main)
    assert "the last stage of resnet50 has a single position" in said and "33 pixels or more (--image-size)" in said


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_least_side_is_the_smallest_with_a_map(name):
    sizes = []
    for side in (networks.least_side(name) - 1, networks.least_side(name)):
        shapes = []
        network = networks.build(name, 2).eval()
        hook = network.get_submodule(networks.stages(name)[-1]).register_forward_hook(lambda *call: shapes.append(call[2].shape))
        network(torch.rand(1, 3, side, side))
        hook.remove()
        sizes.append(shapes[0][-1])
    assert sizes == [1, 2]


def test_images_that_no_machine_can_hold_are_refused(tmp_path, capsys):
    options = ["--data", str(tmp_path), "--image-size", "99999999"]
    assert "must be at most 4096" in refusal(capsys, tmp_path / "new", *options, main=own_images.main)


@pytest.mark.parametrize("option", ["--data", "--cache"])
def test_no_folder_is_not_the_current_one(tmp_path, capsys, option):
    assert f"argument {option}: must name a folder" in refusal(capsys, tmp_path, option, "", main=own_images.main)


def test_an_output_that_cannot_be_printed_to_is_refused(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command_line, "print", full, raising=False)
    assert "No space left on device" in refusal(capsys, tmp_path / "new")


def test_too_little_memory_is_said(tmp_path, capsys, monkeypatch):
    def claimed(*args):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(command_line, "claimed", claimed)
    assert "The memory does not suffice (Unable to allocate 9 TiB)" in refusal(capsys, tmp_path)


@pytest.mark.parametrize("name", run_folder.FOLDERS)
def test_a_folder_that_cannot_be_written_into_is_refused(tmp_path, capsys, monkeypatch, name):
    (tmp_path / name).mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and access(path, mode))
    assert f"{name} cannot be written into" in refusal(capsys, tmp_path)


def test_a_file_of_others_is_not_taken_for_the_lock(tmp_path, capsys):
    lock = tmp_path / ".captum_kd.lock"
    lock.write_text("mine")
    assert "This file is no lock" in refusal(capsys, tmp_path)
    assert lock.read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    assert "This file is no lock" in refusal(capsys, tmp_path)
    assert lock.is_fifo()


@pytest.mark.parametrize("name", ["figures/mine.png", "tables/mine.csv", "checkpoints/mine.ckpt", "checkpoints/teachers.ckpt"])
def test_files_of_others_stay_although_the_list_of_a_run_names_them(tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("mine")
    (tmp_path / "run.json").write_text(json.dumps({"version": 1, "settings": {}, "data": "", "files": [name]}))
    assert "its entries are not those of a run" in refusal(capsys, tmp_path, "--overwrite")
    assert (tmp_path / name).read_text() == "mine"


def test_a_huge_list_of_files_is_not_read(tmp_path, capsys):
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(1 << 40)
    assert "it is too large" in refusal(capsys, tmp_path)


def test_names_of_others_files_are_shown_escaped(tmp_path, capsys):
    (tmp_path / "a\x1b[31m\nb").write_text("mine")
    with pytest.raises(AssertionError, match="trained"):
        quickstart.main([*OPTIONS, "--output", str(tmp_path)])
    assert "stay as they are: a\\x1b[31m\\nb in " in capsys.readouterr().out


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert photographs._cache().name == "captum_kd"
