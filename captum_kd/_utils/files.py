"""Atomic writing of files."""

from __future__ import annotations

import io
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Union

from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import short_repr

_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)|/dev/fd/(\d+)")


def write_whole(path: Union[str, "os.PathLike[str]"], text: str) -> None:
    """Writes a text as :func:`whole_file` does; a Ctrl-C leaves no partial file."""
    with changed_state(), whole_file(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def whole_file(path: Union[str, "os.PathLike[str]"]) -> Iterator[BinaryIO]:
    """A binary file that replaces ``path`` once it is complete on the disk.

    After an error the old file is unchanged and no other file is left. If ``path`` is a symbolic link, its target is
    replaced. The old file's permissions and extended attributes are kept; a new file gets those of ``open()``. Devices,
    named pipes and open file descriptors (``/dev/stdout``, ``/dev/fd/1``) are not replaced; the complete content is written
    to them.

    Raises:
        TypeError: not a path.
        ValueError: a folder, a socket, a block device, or another process's file descriptor.
        OSError: a missing folder, a missing permission, or a full disk.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise TypeError(f"path must be a file's path (str or os.PathLike) or None, got {short_repr(path)}.")
    descriptor = _descriptor(name, path)
    target = Path(os.path.realpath(name))
    old = None
    with suppress(FileNotFoundError):
        old = os.stat(target) if descriptor is None else os.fstat(descriptor)
    if old is not None and (descriptor is not None or stat.S_ISCHR(old.st_mode) or stat.S_ISFIFO(old.st_mode)):
        content = io.BytesIO()
        yield content
        with interruptible():  # a pipe may wait for its reader
            with open(target if descriptor is None else os.dup(descriptor), "wb") as file:
                file.write(content.getvalue())
        return
    if not target.name or name.endswith(("/", os.sep)) or (old is not None and not stat.S_ISREG(old.st_mode)):
        raise ValueError(f"path must name a file, not a folder, socket or block device; got {short_repr(name)}.")
    if old is not None:
        os.close(os.open(target, os.O_WRONLY))  # raises where open() would
    unfinished = target.with_name(f".{secrets.token_hex(8)}.part")
    # Until the old file's permissions are copied, no other user may read the new one.
    mode = 0o666 if old is None else 0o600
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    except OSError as error:
        raise OSError(error.errno, f"No file can be made in this folder ({error.strerror})", str(target.parent)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if old is not None:
            _take_over(unfinished, target, old)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _take_over(path: Path, old_path: Path, old: os.stat_result) -> None:
    """Copies owner (if allowed), permissions and extended attributes from the old file to the new one."""
    new = os.stat(path)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) and hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))
    with suppress(OSError, AttributeError):  # not supported, or not permitted
        for name in os.listxattr(old_path):  # access control lists are stored here
            os.setxattr(path, name, os.getxattr(old_path, name))


def _descriptor(name: str, path: object) -> Optional[int]:
    """The file descriptor of this process that a path names, also through links; None for other paths."""
    for _ in range(40):  # the system's limit of links
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        found = _DESCRIPTOR.fullmatch(name)
        if found is not None:
            process, number, of_device = found.groups()
            if process is not None and int(process) != os.getpid():
                raise ValueError(f"path is an open file of another process, got {short_repr(path)}; pass a file's path.")
            return int(number or of_device)
        if not os.path.islink(name):
            return None
        name = os.path.join(os.path.dirname(name), os.readlink(name))
    return None
