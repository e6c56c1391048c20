"""Files are written whole or not at all, and nothing but regular files is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Callable

import pytest

from captum_kd._utils import files as _files
from captum_kd._utils.files import whole_file


def write(path: Any, text: str = "new") -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def in_child(act: Callable[[], None]) -> None:
    """Calls a function in a process of its own, whose standard output and user may change."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_a_new_file_has_the_permissions_that_open_gives(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(mask: int) -> None:
        raise AssertionError("the mask of the whole process was changed")

    monkeypatch.setattr(os, "umask", changed)
    write(tmp_path / "ours")
    (tmp_path / "plain").touch()
    assert mode(tmp_path / "ours") == mode(tmp_path / "plain") == 0o640


@pytest.mark.parametrize("permissions", [0o600, 0o644, 0o666, 0o2755], ids=oct)
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, umask: int, permissions: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(permissions)
    write(path)
    assert path.read_text() == "new" and mode(path) == permissions


def test_a_replaced_file_keeps_its_access_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extended attribute, which not every file system has."""
    path, given = tmp_path / "file", {}
    path.write_text("old")
    monkeypatch.setattr(os, "listxattr", lambda of: ["system.posix_acl_access"] if of == path else [], raising=False)
    monkeypatch.setattr(os, "getxattr", lambda of, name: b"list of " + os.fsencode(of), raising=False)
    monkeypatch.setattr(os, "setxattr", lambda of, name, value: given.update({name: value}), raising=False)
    write(path)
    assert given == {"system.posix_acl_access": b"list of " + os.fsencode(path)}
    assert path.read_text() == "new"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid, path.read_text()) == (12345, 23456, "new")


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "deep").mkdir()
    target, link, outer = tmp_path / "deep" / "target", tmp_path / "link", tmp_path / "outer"
    link.symlink_to("deep/target")
    outer.symlink_to(link)
    if exists:
        target.write_text("old")
    write(outer)
    assert target.read_text() == "new" and os.readlink(link) == "deep/target" and os.readlink(outer) == str(link)
    assert not target.is_symlink() and [each.name for each in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("linked", [True, False])
def test_devices_are_written_to_and_stay(tmp_path: Path, linked: bool) -> None:
    path = Path(os.devnull)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(os.devnull)
    write(path)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and path.is_symlink() == linked


def test_a_named_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path, "through the pipe")
    reader.join(10)
    assert read == ["through the pipe"] and path.is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("redirected", [True, False])
def test_standard_output_is_written_to_wherever_it_goes(tmp_path: Path, name: str, redirected: bool) -> None:
    if name == "link":
        name = str(tmp_path / "link")
        os.symlink("/dev/stdout", name)
    out = tmp_path / "out"
    out.touch()
    end, start = os.pipe()

    def act() -> None:
        os.dup2(os.open(out, os.O_WRONLY) if redirected else start, 1)
        os.write(1, b"before\n")
        write(name, "content\n")
        os.write(1, b"after\n")

    in_child(act)
    found = out.read_bytes() if redirected else os.read(end, 100)
    assert found == b"before\ncontent\nafter\n"


def test_what_cannot_be_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = socket.socket(socket.AF_UNIX)
    where.bind("socket")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to("folder")
    for path in ("socket", "folder", "folder/", "to folder", "new/", "", ".", "/"):
        with pytest.raises(ValueError, match="path must name a file, not a folder, socket or block device; got"):
            write(path)
    where.close()
    for other in (b"name", 3, open):
        with pytest.raises(TypeError, match="path must be a file's path"):
            write(other)
    with pytest.raises(ValueError, match="open file of another process"):
        write(f"/proc/{os.getppid()}/fd/1")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "socket", "to folder"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No file can be made in this folder") as caught:
        write(tmp_path / "missing" / "file")
    assert caught.value.filename == str(tmp_path / "missing")


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_a_missing_permission_leaves_the_old_file(protected: str) -> None:
    with tempfile.TemporaryDirectory() as parent:  # tmp_path lies in folders that other users cannot enter
        Path(parent).chmod(0o755)
        _check_missing_permission(Path(parent) / "folder", protected)


def _check_missing_permission(folder: Path, protected: str) -> None:
    path = folder / "file"
    folder.mkdir()
    path.write_text("old")
    path.chmod(0o444 if protected == "file" else 0o666)
    folder.chmod(0o777 if protected == "file" else 0o555)

    def act() -> None:
        if os.getuid() == 0:  # who may write everything
            os.setgid(65534)
            os.setuid(65534)
        with pytest.raises(PermissionError) as caught:
            write(path)
        assert str(caught.value.filename) == str(path if protected == "file" else folder)

    in_child(act)
    assert path.read_text() == "old" and [each.name for each in folder.iterdir()] == ["file"]
    folder.chmod(0o755)


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("exists", [True, False])
def test_an_error_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, exists: bool
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    if exists:
        path.write_text("old")
    monkeypatch.setattr(_files.os, step, full)
    if step == "chmod" and not exists:  # nothing to take over
        write(path)
        assert path.read_text() == "new"
        return
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"] * exists


def test_the_longest_name_is_no_longer_than_open_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write(path)
    write(path, "again")
    assert path.read_text() == "again" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_called_like_an_unfinished_one_stays(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_text("the user's")
    write(tmp_path / "file")
    assert (tmp_path / "file.part").read_text() == "the user's"
