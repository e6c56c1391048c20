"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

__all__ = ["whole_file", "write_text"]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside the old one, to be written into, that takes its place once it is complete on the disk.

    Who reads meanwhile, or after a kill, finds the old one; an error or an interrupt leaves nothing else behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all. What UTF-8 does not have, of names of files, is escaped."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
