"""A run's files, which are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

from captum_kd._utils import files as _files

__all__ = ["whole_file", "write_text"]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside the old one, to be written into, that takes its place once it is complete on the disk.

    Who reads meanwhile, or after a kill, finds the old one; an error or an interrupt leaves nothing else behind. What a kill
    leaves behind has a name of its own (``.part``), and the next attempt removes it.
    """
    os.makedirs(path.parent, exist_ok=True)
    with _files.whole_file(path, unfinished=path.with_name(path.name + ".part")) as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all. What UTF-8 does not have, of names of files, is escaped."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
