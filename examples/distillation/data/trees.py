"""Folders of files, on disk or in a zip archive, which is read without being unpacked."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from distillation.task import DataError

__all__ = ["Folder", "Stamp", "Tree", "TreeError", "Zip"]


class TreeError(DataError):
    """Files that cannot be read at all, whatever they hold: readers add where to get them."""


Stamp = tuple[int, int]
"""Changes when the file does."""

SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}
"""What operating systems leave behind, beside names with a dot in front."""


class Tree(Protocol):
    """Names are relative to the root, with slashes between; the root itself is ""."""

    @property
    def name(self) -> str:
        """For messages."""

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder, each sorted, without what systems leave behind."""

    def stamp(self, file: str) -> Stamp:
        """Size and time of change, or size and checksum."""

    def read(self, file: str) -> bytes:
        """Raises TreeError if the file cannot be read."""


def inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        try:
            for entry in sorted((self.path / folder).iterdir()):
                if not _left_by_a_system(entry.name):
                    (folders if entry.is_dir() else files).append(inside(folder, entry.name))
        except OSError as error:
            raise TreeError(f"{self.path / folder} cannot be listed ({error}).") from error
        return folders, files

    def stamp(self, file: str) -> Stamp:
        status = (self.path / file).stat()
        return status.st_size, status.st_mtime_ns

    def read(self, file: str) -> bytes:
        try:
            return (self.path / file).read_bytes()
        except OSError as error:  # a fault of the disk or of permissions, not of the image
            raise TreeError(f"{self.path / file} cannot be read ({error}).") from error


class Zip:
    """Raises TreeError if the archive is truncated or none at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Left open: members are read from several threads, which ZipFile allows.
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            # The list of members is at the very end: an archive cut off anywhere has none.
            raise TreeError(f"{path} is truncated, or no zip archive ({error}).") from error
        self._members = {member.filename: member for member in self._archive.infolist() if not member.is_dir()}
        self._children: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for name in self._members:
            parts = PurePosixPath(name).parts
            if not any(_left_by_a_system(part) for part in parts):
                self._add(name)

    def _add(self, file: str) -> None:
        parent = file.rpartition("/")[0]
        self._children.setdefault(parent, (set(), set()))[1].add(file)
        while parent:
            folder, parent = parent, parent.rpartition("/")[0]
            self._children.setdefault(parent, (set(), set()))[0].add(folder)

    @property
    def name(self) -> str:
        return str(self.path)

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        folders, files = self._children[folder]
        return sorted(folders), sorted(files)

    def stamp(self, file: str) -> Stamp:
        member = self._members[file]
        return member.file_size, member.CRC

    def read(self, file: str) -> bytes:
        try:
            return self._archive.read(self._members[file])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise TreeError(f"The archive {self.path} is damaged at {file} ({error}).") from error
