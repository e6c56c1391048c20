"""Folders of files, on disk or in a zip archive, which is read without being unpacked."""

from __future__ import annotations

import io
import stat
import weakref
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Optional, Protocol

from distillation.data.decoding import MOST_BYTES
from distillation.task import DataError

__all__ = ["Children", "Folder", "Stamp", "Tree", "TreeError", "Zip"]


class TreeError(DataError):
    """Files that cannot be read at all, whatever they hold: readers add where to get them."""


Stamp = tuple[int, int]
"""Changes when the file does."""

SYSTEM = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
    "__macosx", "icon\r", "lost+found", "@eadir",
}  # fmt: skip
"""What operating systems leave behind, beside names with a dot in front."""


MOST_UNPACKED = 1 << 32
"""Bytes of all members of an archive together, 4 GiB; ASIRRA has 0.9 GiB."""

MOST_LISTED = 1 << 24
"""Bytes of an archive's list of members, 16 MiB; ASIRRA's has 2 MiB. In memory it is up to twenty times as large."""


class Children(NamedTuple):
    """Contents of a folder: names from the root on, each list sorted, without what systems leave behind.

    Attributes:
        folders: folders, and links to folders.
        files: regular files, and links to such.
        special: everything else, which is never opened: links that lead nowhere or to a folder that holds them, pipes,
            sockets and devices.
    """

    folders: list[str]
    files: list[str]
    special: list[str]


class Tree(Protocol):
    """Names are relative to the root, with slashes between; the root itself is ""."""

    @property
    def name(self) -> str:
        """For messages."""

    def children(self, folder: str) -> Children:
        """Contents of a folder. Raises TreeError if it cannot be listed."""

    def stamp(self, file: str) -> Stamp:
        """Size and time of change, or size and checksum."""

    def read(self, file: str) -> bytes:
        """The file, or its first ``MOST_BYTES`` + 1 bytes. Raises TreeError if the file cannot be read."""


def inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _leads_nowhere_or_back(entry: Path) -> bool:
    """Whether it is a link that cannot be followed, or leads to a folder that holds it."""
    if not entry.is_symlink():
        return False
    try:
        return entry.is_dir() and entry.parent.resolve().is_relative_to(entry.resolve())
    except OSError:  # no permission, or too long a name
        return True


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    def children(self, folder: str) -> Children:
        found = Children([], [], [])
        try:
            for entry in sorted((self.path / folder).iterdir()):
                if not _left_by_a_system(entry.name):
                    kind = found.special
                    if not _leads_nowhere_or_back(entry):
                        kind = found.folders if entry.is_dir() else found.files if entry.is_file() else found.special
                    kind.append(inside(folder, entry.name))
        except OSError as error:
            raise TreeError(f"{self.path / folder} cannot be listed ({error}).") from error
        return found

    def stamp(self, file: str) -> Stamp:
        try:
            status = (self.path / file).stat()
        except OSError as error:
            raise TreeError(f"{self.path / file} cannot be read ({error}).") from error
        return status.st_size, status.st_mtime_ns

    def read(self, file: str) -> bytes:
        try:
            with open(self.path / file, "rb") as opened:
                # As large as it was listed, at most: some files of /proc have no size, and reading them does not end.
                return opened.read(min(self.stamp(file)[0], MOST_BYTES + 1))
        except OSError as error:  # a fault of the disk or of permissions, not of the image
            raise TreeError(f"{self.path / file} cannot be read ({error}).") from error


class _Archive(io.BufferedReader):
    """A file that refuses to be read in large pieces: zipfile reads the whole list of members in one."""

    def read(self, size: Optional[int] = -1, /) -> bytes:
        if size is not None and size > MOST_LISTED:
            raise zipfile.BadZipFile(f"its list of members is larger than {MOST_LISTED >> 20} MiB")
        return super().read(size)


class Zip:
    """A zip archive.

    Raises:
        TreeError: truncated, or no archive; or with a member that cannot be read, is larger than ``MOST_BYTES``, occurs
            twice or lies outside the archive's folder; or larger than ``MOST_UNPACKED`` when unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # a pipe would wait for a writer for ever
            raise TreeError(f"{path} is no file.")
        try:
            # Left open: members are read from several threads, which ZipFile allows.
            file = _Archive(io.FileIO(path))
            weakref.finalize(self, file.close)
            self._archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises several kinds of errors on damaged archives
            # The list of members is at the very end: an archive cut off anywhere has none.
            raise TreeError(f"{path} is truncated, or no zip archive ({error}).") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._archive.infolist():
            if not member.filename.endswith("/"):
                fault = "occurs twice" if member.filename in self._members else _fault(member)
                if fault:
                    raise TreeError(f"{path} is refused: its member {member.filename!r} {fault}.")
                self._members[member.filename] = member
        unpacked = sum(member.file_size for member in self._members.values())
        if unpacked > MOST_UNPACKED:
            raise TreeError(
                f"{path} is refused: unpacked it has {unpacked / 2**30:.1f} GiB, and {MOST_UNPACKED >> 30} GiB are the most."
            )

    @property
    def name(self) -> str:
        return str(self.path)

    def children(self, folder: str) -> Children:
        folders, found = set(), Children([], [], [])
        prefix = f"{folder}/" if folder else ""
        for file, member in self._members.items():
            if file.startswith(prefix):
                name, below, _ = file[len(prefix) :].partition("/")
                if _left_by_a_system(name):
                    continue
                if below:
                    folders.add(prefix + name)
                else:
                    # Archives made on Unix keep the kind of file; a link's content is where it leads.
                    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == 3 else 0
                    (found.files if kind in (0, stat.S_IFREG) else found.special).append(file)
        return Children(sorted(folders), sorted(found.files), sorted(found.special))

    def stamp(self, file: str) -> Stamp:
        member = self._members[file]
        return member.file_size, member.CRC

    def read(self, file: str) -> bytes:
        try:
            with self._archive.open(self._members[file]) as opened:
                # In pieces: in one, zipfile would unpack more than the size that the archive states.
                return b"".join(iter(lambda: opened.read(1 << 20), b""))
        except Exception as error:
            raise TreeError(f"The archive {self.path} is damaged at {file} ({error}).") from error


def _fault(member: zipfile.ZipInfo) -> Optional[str]:
    """What makes a member unreadable or unsafe to read."""
    if member.flag_bits & 1:
        return "is encrypted"
    # Others can unpack a few kilobytes to gigabytes before a limit takes effect.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}, which is not supported (stored and deflated are)"
    if member.file_size > MOST_BYTES:
        return f"has {member.file_size / 2**20:,.0f} MiB, and {MOST_BYTES >> 20} MiB are the most"
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts or member.filename.startswith(("/", "\\")):
        return "has a path that leads out of the archive"
    return None
