"""Many images lie in a mapped file: the same pixels, found again, written whole or not at all."""

import os
from types import SimpleNamespace

import pytest
import torch
from distillation import locks
from distillation.data import store
from distillation.data.listing import classes_in, list_images
from distillation.data.sources import Source
from distillation.data.trees import Folder
from distillation.task import DataError
from pictures import class_folders, picture, write

SOURCE = Source("made images", None, "images", "Made here.")


@pytest.fixture
def root(tmp_path):
    root = class_folders(tmp_path / "images")
    (root / "cat" / "0001.jpg").write_bytes(b"broken")
    return root


@pytest.fixture
def always_mapped(monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY", 0)


def read(root, cache, size=32):
    tree = Folder(root)
    return store.read_images(tree, list_images(tree, [""], classes_in(tree, ""), SOURCE).entries, size, cache, False)


def counted(monkeypatch):
    """How many images were decoded."""
    seen = []
    decode = store.decode
    monkeypatch.setattr(store, "decode", lambda data, size: (seen.append(1), decode(data, size))[1])
    return seen


def test_in_memory_below_a_gigabyte(root, tmp_path):
    stored = read(root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() and stored.pixels.shape == (17, 3, 32, 32)
    assert stored.kept.tolist() == [0, *range(2, 18)] and stored.unreadable == {"broken or truncated": ["cat/0001.jpg"]}


def test_mapped_images_are_the_same(root, tmp_path, monkeypatch):
    expected = read(root, tmp_path / "cache")
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    seen = counted(monkeypatch)
    for _ in range(2):
        stored = read(root, tmp_path / "cache")
        assert torch.equal(stored.pixels, expected.pixels) and torch.equal(stored.kept, expected.kept)
        assert stored.unreadable == expected.unreadable
    assert len(seen) == 18  # the second time they were found
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_writing_to_the_tensor_leaves_the_file_alone(root, tmp_path, always_mapped):
    expected = read(root, tmp_path / "cache").pixels.clone()
    read(root, tmp_path / "cache").pixels.zero_()
    assert torch.equal(read(root, tmp_path / "cache").pixels, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write(root / "cat" / "new.jpg", picture(77)),
        lambda root: (root / "cat" / "0002.jpg").unlink(),
        lambda root: (root / "cat" / "0002.jpg").rename(root / "cat" / "renamed.jpg"),
        lambda root: os.utime(root / "cat" / "0002.jpg", (1, 1)),
    ],
)
def test_changed_images_are_read_anew(root, tmp_path, always_mapped, monkeypatch, change):
    read(root, tmp_path / "cache")
    change(root)
    seen = counted(monkeypatch)
    read(root, tmp_path / "cache")
    assert len(seen) >= 17


def test_another_size_is_read_anew(root, tmp_path, always_mapped):
    assert read(root, tmp_path / "cache", 32).pixels.shape[-1] == 32
    assert read(root, tmp_path / "cache", 16).pixels.shape[-1] == 16


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left")])
def test_an_interrupted_run_leaves_nothing_behind(root, tmp_path, always_mapped, monkeypatch, error):
    expected, cache = read(root, tmp_path / "other"), tmp_path / "cache"

    def interrupted(*args):
        for i, image in enumerate(whole(*args)):
            if i == 5:
                raise error
            yield image

    whole = store._decoded
    with monkeypatch.context() as patch:
        patch.setattr(store, "_decoded", interrupted)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else DataError):
            read(root, cache)
    assert list(cache.iterdir()) == []
    assert torch.equal(read(root, cache).pixels, expected.pixels)


@pytest.mark.parametrize("spoil", ["pixels.bin", "contents.json"])
def test_a_file_that_is_not_whole_is_made_anew(root, tmp_path, always_mapped, spoil):
    expected = read(root, tmp_path / "cache").pixels.clone()
    (folder,) = (tmp_path / "cache").iterdir()
    content = (folder / spoil).read_bytes()
    (folder / spoil).write_bytes(content[:-10])
    assert torch.equal(read(root, tmp_path / "cache").pixels, expected)


def test_a_cache_that_cannot_be_written_is_explained(root, tmp_path, always_mapped):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="another folder for the cache"):
        read(root, tmp_path / "file" / "cache")


def test_files_that_cannot_be_opened_are_no_broken_images(root, tmp_path, monkeypatch):
    def refuse(self, file):
        raise DataError(f"{file} cannot be read (permission denied).")

    monkeypatch.setattr(Folder, "read", refuse)
    with pytest.raises(DataError, match="permission denied"):
        read(root, tmp_path / "cache")


def test_what_a_killed_process_left_is_removed_and_nothing_else(root, tmp_path, always_mapped):
    cache = tmp_path / "cache"
    name = "images-48px-0123456789abcdef"
    others = {"images.unfinished", "mine.0123abcd.unfinished", name}
    for left in (f"{name}.0123abcd.unfinished", f"{name}.4567abcd.unfinished", *others):
        (cache / left).mkdir(parents=True)
        (cache / left / "file").write_text("")
    (cache / f"{name}.0123abcd.lock").write_text("")
    (cache / f"{name}.89ababcd.unfinished").symlink_to(cache / "images.unfinished")
    with locks.exclusive(cache / f"{name}.4567abcd.lock"):
        read(root, cache, size=16)
        left = {path.name for path in cache.iterdir()}
    found = {each for each in left if not each.startswith("images-16px-")}
    held = {f"{name}.4567abcd.unfinished", f"{name}.4567abcd.lock"}
    assert found == {*others, *held, f"{name}.89ababcd.unfinished"}
    assert (cache / "images.unfinished" / "file").exists() and len(left) == len(found) + 1


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"kept": 3, "unreadable": {}}', '{"kept": ["a"]}', "[" * 100_000])
def test_a_cache_with_spoiled_contents_is_written_anew(root, tmp_path, always_mapped, content):
    expected = read(root, tmp_path / "cache").pixels.clone()
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / store.CONTENTS).write_text(content)
    assert torch.equal(read(root, tmp_path / "cache").pixels, expected)


def test_a_cache_that_does_not_fit_on_the_disk_is_refused_before_images_are_read(root, tmp_path, always_mapped, monkeypatch):
    seen = counted(monkeypatch)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="0.0 GiB are free"):
        read(root, tmp_path / "cache")
    assert not seen and not list((tmp_path / "cache").iterdir())
