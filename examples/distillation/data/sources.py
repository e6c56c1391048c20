"""Where the data sets come from, and where they are looked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from distillation.task import DataError

__all__ = ["ENVIRONMENT", "Source", "find"]

ENVIRONMENT = "CAPTUM_KD_DATA"
"""Variable naming a folder that holds the data sets' own folders, such as ``cifar10``."""


def find(given: Optional[Path], name: str) -> Optional[Path]:
    """Where the data should be: the path given, or ``name`` in $CAPTUM_KD_DATA; None if neither is set.

    Whether anything is there is for the reader to say, who also knows what should be.
    """
    root = os.environ.get(ENVIRONMENT)
    return given if given is not None else Path(root) / name if root else None


@dataclass(frozen=True)
class Source:
    """What every error about a data set tells.

    Attributes:
        title: of the data set.
        folder: its name in $CAPTUM_KD_DATA; None if it is only given by ``--data``.
        layout: what the folder should hold.
        origin: where to get it.
    """

    title: str
    folder: Optional[str]
    layout: str
    origin: str

    def error(self, complaint: str) -> DataError:
        """The complaint, what was expected, and how to come by it."""
        named = "Name it with --data"
        if self.folder is not None:
            named += f", or put it as {self.folder} into the folder that ${ENVIRONMENT} names"
        return DataError(f"{complaint} Expected is {self.layout}. {self.origin} {named}.")

    def existing(self, path: Optional[Path]) -> Path:
        """The path.

        Raises:
            DataError: none given, or nothing there.
        """
        if path is None:
            raise self.error(f"Nobody said where {self.title} is.")
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise self.error(f"There is no folder {path} ({error}).") from error
        return path
