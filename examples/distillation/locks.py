"""Locks between processes, on files: the system releases them when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Held", "exclusive"]


class Held(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Holds the lock of a file, which is made for it and removed afterwards.

    Yields:
        False where the file system has no locks: then nothing is held.

    Raises:
        Held: another process holds it.
        OSError: the file cannot be made, or is one of somebody else: a lock is empty.
    """
    descriptor, locked = _opened(path)
    try:
        yield locked
    finally:
        try:
            # While it is still locked: see _opened.
            path.unlink()
        except OSError:
            pass  # Windows does not remove open files
        os.close(descriptor)


def _opened(path: Path) -> tuple[int, bool]:
    while True:
        # Links are not followed: they may lead to a file of somebody else.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            found = os.fstat(descriptor)
            if found.st_size or not stat.S_ISREG(found.st_mode):
                raise FileExistsError(errno.EEXIST, "This file is no lock, for which its name is needed", str(path))
            locked = _lock(descriptor)
            # The process before may have removed the file between our opening and our locking it.
            if _is_at(descriptor, path):
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise Held from error
        return False
    return True
