"""Folders that are laid out otherwise than expected: the message names the folder that works, or what to move."""

import shlex
import shutil
from pathlib import Path

import pytest
from distillation.data.image_folder import read_image_folder
from distillation.data.layout import layout_hint
from distillation.task import DataError
from pictures import class_folders


def refused(folder, cache):
    with pytest.raises(DataError) as error:
        read_image_folder(folder, 16, cache, progress=False)
    return str(error.value)


def named(message):
    """The folder that the message tells to give."""
    words = shlex.split(message[message.index("Try --data") :].partition(": the class")[0])
    return Path(words[2])


@pytest.mark.parametrize("inside", ["color", "raw/color", "a folder/it's"])
def test_a_folder_too_high_names_the_one_below(tmp_path, inside):
    right = class_folders(tmp_path / "data" / inside)
    message = refused(tmp_path / "data", tmp_path)
    assert named(message) == right
    assert len(read_image_folder(right, 16, tmp_path, progress=False).classes) == 3


def test_several_folders_below_are_named(tmp_path):
    for name in ("color", "grayscale", "segmented", "more"):
        class_folders(tmp_path / "raw" / name)
    message = refused(tmp_path / "raw", tmp_path)
    assert all(f"--data {tmp_path / 'raw' / name}" in message for name in ("color", "grayscale", "more"))
    assert "(1 more look alike)" in message


def test_a_class_folder_names_the_one_above(tmp_path):
    right = class_folders(tmp_path / "data")
    assert named(refused(right / "cat", tmp_path)) == right


def test_a_class_folder_of_a_part_names_the_folder_of_both_parts(tmp_path):
    for part in ("train", "test"):
        class_folders(tmp_path / "data" / part)
    assert named(refused(tmp_path / "data" / "train" / "cat", tmp_path)) == tmp_path / "data"


def test_parts_one_level_down_are_found(tmp_path):
    for part in ("train", "val"):
        class_folders(tmp_path / "data" / "pictures" / part)
    (tmp_path / "data" / "notes").mkdir()
    assert named(refused(tmp_path / "data", tmp_path)) == tmp_path / "data" / "pictures"


@pytest.mark.parametrize("parts", [("Train", "Test"), ("train", "Val"), ("TRAIN", "validation")])
def test_parts_with_capitals_are_to_be_renamed(tmp_path, parts):
    for part in parts:
        class_folders(tmp_path / "data" / part)
    assert f"Rename {parts[0]!r} to 'train' and {parts[1]!r} to {parts[1].lower()!r}." in refused(tmp_path / "data", tmp_path)


def test_a_training_part_alone_can_be_given_itself(tmp_path):
    right = class_folders(tmp_path / "data" / "train")
    assert named(refused(tmp_path / "data", tmp_path)) == right


def test_images_one_level_too_deep_are_to_be_moved(tmp_path):
    class_folders(tmp_path / "made")
    for name in ("cat", "dog", "ship"):
        shutil.move(tmp_path / "made" / name, tmp_path / "data" / name / "images")
    message = refused(tmp_path / "data", tmp_path)
    assert "one folder too deep, as in 'cat/images': move them up into 'cat'" in message


def test_images_without_class_folders_are_to_be_sorted(tmp_path):
    folder = class_folders(tmp_path / "above" / "data", ["cat"]) / "cat"
    assert "holds images itself: put those of each class into a folder named after the class" in refused(folder, tmp_path)


def test_nothing_nearby_is_not_guessed_at(tmp_path):
    (tmp_path / "a" / "data" / "empty").mkdir(parents=True)
    assert layout_hint(tmp_path / "a" / "data") == ""


def test_a_right_layout_with_another_fault_gets_no_hint(tmp_path):
    right = class_folders(tmp_path / "above" / "data")
    for file in (right / "cat").iterdir():
        file.write_bytes(b"")
    assert "Try" not in refused(right, tmp_path)


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"")
    assert "is not a folder. Unpack an archive first." in refused(tmp_path / "images.zip", tmp_path)


def test_links_that_lead_back_end(tmp_path):
    (tmp_path / "data" / "loop").mkdir(parents=True)
    (tmp_path / "data" / "loop" / "again").symlink_to(tmp_path / "data")
    assert layout_hint(tmp_path / "data") == ""
