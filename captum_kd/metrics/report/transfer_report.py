"""The report that :func:`captum_kd.metrics.compare_transfer` returns."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

from captum_kd._interrupts import changed_state
from captum_kd._values import check_mapping, described
from captum_kd.metrics.report.table import markdown, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "TransferReport"]

COLUMNS = ("student", "base", "layer", "score", "value", "low", "high", "p_value", "n", "unique_share")


class TransferReport:
    """Scores of Students and Bases over layers, tidy, with what a reader must know to judge them.

    ``print(report)`` shows it as a table of at most 100 columns.

    Attributes:
        rows (list of dict): a record for each Student, Base, layer and score, with the keys ``student``, ``base``,
            ``layer``, ``score``, ``value`` (None where no mini-batch could give one), ``low``, ``high``,
            ``p_value`` (None where not asked for or not defined), ``n`` and ``unique_share`` (1 - FSS^2, on the rows of
            distilled and residual features).
        seed_control (dict or None): ``tests``, one for each question, group and layer (see
            :class:`captum_kd.metrics.inference.SeedVerdict`), the ``groups`` and ``shared_seeds`` they rest on, and
            ``pairs``, the scores of single pairs of models, one of them a Base: ``score`` of ``model`` after
            ``given``'s features are removed, between Bases the null. None without at least two Bases.
        notes (list of str): cautions first, then how to read the scores.
        settings (dict): all that the numbers depend on, class counts and versions included.

    Example::

        >>> report = compare_transfer(student, base, ["layer3", "layer4"], loader, confidence=0.95)
        >>> print(report)
        >>> report.to_csv("transfer.csv")
        >>> frame = pandas.DataFrame(report.to_dict()["rows"])
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        seed_control: Optional[Mapping[str, Any]],
        notes: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            raise TypeError(f"rows must be a list of records (dicts), got {described(rows)}.")
        if seed_control is not None:
            check_mapping(seed_control, "seed_control", "a mapping or None")
        if not isinstance(notes, (list, tuple)) or not all(isinstance(note, str) for note in notes):
            raise TypeError(f"notes must be a list of sentences (str), got {described(notes)}.")
        check_mapping(settings, "settings", "a mapping")
        self.rows = [dict(row) for row in rows]
        self.seed_control = None if seed_control is None else dict(seed_control)
        self.notes = list(notes)
        self.settings = dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """A copy of everything, of plain Python types: ``rows``, ``seed_control``, ``notes``, ``settings``."""
        return copy.deepcopy(
            {"rows": self.rows, "seed_control": self.seed_control, "notes": self.notes, "settings": self.settings}
        )

    def to_json(self, path: Union[None, str, "os.PathLike[str]"] = None) -> str:
        """As JSON (RFC 8259); also written to ``path``, whole or not at all, where one is given."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if path is not None:
            _write(path, text)
        return text

    def to_csv(self, path: Union[None, str, "os.PathLike[str]"] = None) -> str:
        """The rows as CSV (RFC 4180); also written to ``path``, whole or not at all, where one is given."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            _write(path, lines.getvalue())
        return lines.getvalue()

    def to_markdown(self) -> str:
        """Tables of every pair of models, seed control and notes."""
        return markdown(self.to_dict())

    def plot(self, *, title: Optional[str] = None) -> "Figure":
        """Scores over the layers with their intervals, see :func:`captum_kd.visualization.plot_layer_scores`."""
        from captum_kd.visualization import plot_layer_scores

        return plot_layer_scores(self.rows, title=title)

    def __str__(self) -> str:
        return plain(self.to_dict())

    def __repr__(self) -> str:
        students, bases, layers = (len({row.get(key) for row in self.rows}) for key in ("student", "base", "layer"))
        return (
            f"TransferReport({students} Student(s), {bases} Base(s), {layers} layer(s), {self.settings.get('n')} inputs; "
            f"{len(self.rows)} rows)"
        )


def _mode(target: Path) -> int:
    """The permissions that a file has or, where there is none yet, would get: mkstemp's are for its owner alone."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _write(path: Union[str, "os.PathLike[str]"], text: str) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a file's path (str or os.PathLike) or None, got {described(path)}.")
    # What a link points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    if not target.name or target.is_dir():
        raise ValueError(f"path must name a file, got {described(path)}.")
    with changed_state():  # a Ctrl-C finds whole files only, and the umask as it was
        _replace(target, text)


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
