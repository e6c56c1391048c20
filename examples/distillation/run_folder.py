"""The output folder of a run: its lock, its list of files, and the checks before a run writes into it."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

from distillation import locks
from distillation.files import UNFINISHED, write_text
from distillation.settings import Settings
from distillation.tables import TABLES
from distillation.text import printable
from distillation.training import is_main_process

__all__ = ["RunFolderError", "begin", "claimed", "is_begun", "plain"]

RUN, LOCK = "run.json", ".captum_kd.lock"
"""What a run is, written before anything is trained; and the lock of the process that writes into the folder."""

VERSION = 2
"""Of run.json; to be raised when another version of these examples could not go on with the run."""

FOLDERS = ("checkpoints", "tables", "figures")

MOST_BYTES = 1 << 26
"""Size of run.json, 64 MiB; it takes some hundred bytes a network."""

OWN = re.compile(
    r"report\.json|scores\.csv|index\.html|"
    r"checkpoints/(fold_\d+_)?((untrained_|other_|placebo_)?teacher|assistant|base|student|response|attention|feature|"
    r"hidden|control|from)(_[a-z0-9_]+)?\.(ckpt|json)|"
    rf"tables/({'|'.join(TABLES)})\.(csv|md)|"
    r"figures/(accuracy|gradcam|seed_control|process|"
    r"(predictions|seed_control|classes|models|layer_similarity|embeddings|maps|kept|keep_curve|layers_whole|layers_salient)_"
    r"[a-z0-9_]+)\.png"
)
"""Names that a run gives to its files. Nothing else is ever removed, whatever run.json says."""

FREE_TO_CHANGE = {
    "output", "rows", "test_images", "map_images", "map_pairs", "threads", "accelerator", "devices", "strategy",
    "seeds", "techniques", "controls", "placebos", "random_placebos",
}  # fmt: skip
"""Settings that a resumed run may have anew: none of them says how a network is trained on what. So a finished run can
be given further seeds, techniques, controls and placebo Teachers."""


LATER = {
    "hidden_weight": 10.0, "teacher_learning_rate": 0.0, "teacher_weights": "same", "momentum": 0.9, "response_loss": "kl",
}  # fmt: skip
"""Settings that runs of earlier versions do not name, with the values that these runs have."""
ANY_BEFORE = {"monitor_images"}
"""Settings that runs of earlier versions do not name and that fit them with any value."""


class RunFolderError(RuntimeError):
    """An output folder that cannot be used, or a run that cannot be resumed; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """What run.json holds.

    Attributes:
        settings: of the run, as JSON gives them back.
        data: fingerprint of who gets which images.
        files: names of everything that the run writes beside run.json, relative to its folder.
    """

    settings: dict[str, Any]
    data: str
    files: list[str]


def is_begun(settings: Settings) -> bool:
    """Whether the output folder holds a run that can be resumed."""
    # Unlike Path's, it raises nothing where the folder's name is too long.
    return os.path.isfile(settings.output / RUN)


@contextmanager
def claimed(settings: Settings, resume: bool, overwrite: bool) -> Iterator[None]:
    """Makes the output folder and keeps other runs out of it. Checks all that can be known before the data are read.

    Raises:
        RunFolderError: the folder cannot be used, another run is writing there, there is nothing to resume, the run to
            be resumed had other settings, or there is a run and neither ``resume`` nor ``overwrite``.
        OSError: the folder cannot be written.
    """
    folder = settings.output
    if not is_main_process():
        yield
        return
    is_new = not folder.exists()
    if resume and is_new:
        raise _nothing_to_resume(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locks.exclusive(folder / LOCK) as locked:
            if not locked:
                shown = printable(str(folder))
                print(f"{shown} is on a file system without locks. Make sure that no other run writes there.", file=sys.stderr)
            _check_before(folder, settings, resume, overwrite)
            yield
    except locks.Held as error:
        raise RunFolderError(
            f"Another run is writing into {folder}. Wait until it has ended, or choose another --output."
        ) from error
    finally:
        if is_new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _check_before(folder: Path, settings: Settings, resume: bool, overwrite: bool) -> None:
    for name in FOLDERS:
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise RunFolderError(
                f"{path} is {'a symbolic link' if path.is_symlink() else 'no folder'}, and a run writes into a folder of "
                "that name. Move it away, or choose another --output."
            )
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise RunFolderError(f"{path} cannot be written into. Change its permissions, or choose another --output.")
    before = _read(folder)
    if before is None:
        if resume:
            raise _nothing_to_resume(folder)
        return
    for name in _names(before.files):
        path = folder / name
        # A pipe would be waited for, a folder cannot be replaced.
        if _is_there(path) and not path.is_file():
            raise RunFolderError(f"{path} should be a file, and is something else. Move it away and start again.")
    if resume:
        now = plain(settings)
        changed = [
            f"{name} was {before.settings.get(name)!r}, is {value!r}"
            for name, value in now.items()
            if name not in FREE_TO_CHANGE and before.settings.get(name, value if name in ANY_BEFORE else LATER.get(name)) != value
        ]
        if changed:
            raise _other_run(folder, changed)
    elif not overwrite and any(_is_there(folder / name) for name in before.files):
        is_finished = (folder / "index.html").exists()
        raise RunFolderError(
            f"{folder} holds a {'finished run' if is_finished else 'run that was not finished'}. Go on with it by --resume, "
            "replace it by --overwrite, or choose another --output."
        )


def begin(settings: Settings, data: str, files: Sequence[str], resume: bool) -> None:
    """Writes down what the run is; removes what an earlier run left, or checks that the one to be resumed is the same.

    To be called inside ``claimed``.

    Args:
        settings: of the run.
        data: fingerprint of who gets which images.
        files: names of everything that the run writes, relative to the output folder.
        resume: whether to go on with the run that is there.

    Raises:
        RunFolderError: the run to be resumed had other data, or files that no run wrote have the names of this run's.
    """
    if not is_main_process():
        return
    folder = settings.output
    before = _read(folder)
    if resume and before is None:
        raise _nothing_to_resume(folder)
    if resume and before is not None and before.data != data:
        raise _other_run(folder, ["the images are others"])
    own = [] if before is None else [RUN, *before.files]
    foreign = [name for name in _names([RUN, *files]) if name not in _names(own) and _is_there(folder / name)]
    if foreign:
        raise RunFolderError(
            f"{folder} holds files that no run of these examples wrote and that this one would replace: "
            f"{', '.join(foreign)}. Move them away, or choose another --output."
        )
    _tell_of_others(folder, _names([RUN, LOCK, *own, *files]))
    # What is unfinished is a killed run's; what is finished stays only for --resume.
    for name in _names(own):
        if name.endswith(UNFINISHED) or (name != RUN and not resume):
            (folder / name).unlink(missing_ok=True)
    listed = sorted({*files, *(own if resume else ())} - {RUN})
    content = {"version": VERSION, "settings": plain(settings), "data": data, "files": listed}
    write_text(folder / RUN, json.dumps(content, indent=2) + "\n")


def plain(settings: Settings) -> dict[str, Any]:
    """As JSON gives them back: tuples are lists, paths text."""
    return {
        entry.name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for entry in fields(settings)
        for value in [getattr(settings, entry.name)]
    }


def _read(folder: Path) -> Optional[Run]:
    """What run.json holds; None where there is none."""
    path = folder / RUN
    if not _is_there(path):
        return None
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("version"), int) and content["version"] > VERSION:
            raise RunFolderError(
                f"{path} is of a later version of these examples. Use that version, or choose another --output."
            )
        run = Run(content["settings"], content["data"], content["files"])
        is_right = isinstance(run.settings, dict) and isinstance(run.data, str) and isinstance(run.files, list)
        if not is_right or not all(isinstance(name, str) and OWN.fullmatch(name) for name in run.files):
            raise ValueError("its entries are not those of a run")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} is damaged, or of another program ({type(error).__name__}: {error}). Without it nothing tells which "
            f"files in {folder} are the run's. Choose another --output, or delete what you do not need there."
        ) from error
    return run


def _nothing_to_resume(folder: Path) -> RunFolderError:
    return RunFolderError(f"There is no run to resume in {folder}. Leave out --resume to begin one.")


def _other_run(folder: Path, changed: Sequence[str]) -> RunFolderError:
    return RunFolderError(
        f"The run in {folder} cannot be resumed: {'; '.join(changed)}. Give the options of the first run, or begin a new "
        "one without --resume in another --output."
    )


def _names(files: Sequence[str]) -> list[str]:
    """The files, and what they are called while they are written."""
    return [name + suffix for name in files for suffix in ("", UNFINISHED)]


def _is_there(path: Path) -> bool:
    """Also a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _tell_of_others(folder: Path, own: Sequence[str]) -> None:
    """Names what is not the run's, hidden files aside, which file managers leave everywhere."""
    inside = [path for place in (folder, *(folder / name for name in FOLDERS)) if place.is_dir() for path in place.iterdir()]
    found = {path.relative_to(folder).as_posix() for path in inside if not path.name.startswith(".")}
    others = sorted(found - {*own, *FOLDERS})
    if others:
        print(printable(f"These are not of this run and stay as they are: {', '.join(others)} in {folder}."), flush=True)
