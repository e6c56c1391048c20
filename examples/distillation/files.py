"""Atomic writing of a run's files."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

from distillation.text import encodable

__all__ = ["UNFINISHED", "whole_file", "write_text"]

UNFINISHED = ".part"
"""Suffix of a file that is not yet complete."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which replaces ``path`` once it is complete on the disk.

    Until then, and after an error or a kill, the old file stays. After an error the new one is removed; after a kill the
    next attempt replaces it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.unlink(missing_ok=True)  # may be a symbolic link, whose target is not ours
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, with escapes for what UTF-8 cannot encode."""
    with whole_file(path) as file:
        file.write(encodable(text).encode("utf-8"))
