"""The report that :func:`captum_kd.metrics.compare_transfer` returns."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence, Union

from captum_kd._utils.data_frame import data_frame
from captum_kd._utils.files import write_whole
from captum_kd._utils.text import as_spreadsheet_text, encodable
from captum_kd._utils.validation import check_choice, check_mapping, check_texts, short_repr
from captum_kd.metrics.report.class_names import class_name, names_in
from captum_kd.metrics.report.notebook_html import notebook_html
from captum_kd.metrics.report.saved import COLUMNS, PARTS, read_report
from captum_kd.metrics.report.text import markdown, plain
from captum_kd.metrics.report.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_kd.attr import InputMaps
    from captum_kd.page import Section

TABLES = {
    "rows": "",
    "classes": "Pass by_class=True or groups_of_inputs= to compare_transfer.",
    "inputs": "Pass by_input=True to compare_transfer.",
    "similarities": "Models have one set of features for all pairs only without localize=\"unicam\".",
}
"""The tables of :meth:`TransferReport.to_csv`, and how to get them."""


class TransferReport:
    """Scores of Students and Bases over layers, one record each, with notes for the reader and the settings.

    ``print(report)`` shows the verdict and tables of at most 100 columns.

    Attributes:
        rows (list of dict): a record for each Student, Base, layer and score, with the keys ``student``, ``base``,
            ``layer``, ``score``, ``value`` (None if no mini-batch could be scored), ``low``, ``high``,
            ``p_value`` (None if not requested or undefined), ``n`` and ``unique_share`` (1 - FSS^2, on the rows of
            distilled and residual features). With several Bases there are also rows of each Student given all Bases at once:
            ``base`` is "all Bases", and the score's name ends in ``_all``.
        seed_control (dict or None): ``tests``, one for each question, group and layer (see
            :class:`captum_kd.metrics.inference.SeedVerdict`); ``groups``, the tested models with their
            ``shared_seeds``; and ``pairs``, the scores of all tested pairs of models: ``score`` of ``model`` after the
            features of ``given`` are removed. Pairs of two Bases are the null. With at least three Bases there are tests of
            Students given several Bases; ``left_out`` holds the scores of ``model`` given all Bases but ``left_out``, and those
            of the Base left out itself are the null. None with fewer than two Bases.
        notes (list of str): cautions first (``settings["cautions"]`` is their number), then how to read the scores.
        settings (dict): everything that the numbers depend on, with class counts and versions.
        placebos (dict or None): ``tests``, the t test of this Teacher against at least 4 placebo Teachers for each group, score
            and layer, with ``share`` (the Teacher's value, mean over pairs of models), ``mean`` and ``standard_deviation`` of the
            placebos' shares, ``statistic``, ``p_value``, ``adjusted_p_value`` (Holm, over layers), ``likeness``
            (mean FSS, or agreement, of Students and Teacher, and of Bases and Teacher), ``decision`` (yes needs the first of
            them to be larger) and ``sentence``; and ``shares``, the value of each placebo for each pair, score and layer. The
            scores are the Teacher's shares, ``agreement_over_base`` and ``explanation_over_base``. None without placebo
            Teachers.
        classes (dict or None): scores of classes or other groups of inputs, None without ``by_class`` and
            ``groups_of_inputs``: ``groups``, one record each with ``group`` and ``inputs`` (their number); ``rows``, records as
            above with ``group`` and ``adjusted_p_value`` (Holm, over the groups); and ``tests``, seed control of each group.
        inputs (dict or None): each input's part in the scores, None without ``by_input``: ``rows``, one record for each group of
            Students, layer and input, and ``reliability``, the agreement of these parts between seeds.
        similarities (dict or None): FSS of all models with each other: ``models`` (names), ``roles`` ("student", "base",
            "teacher" or "placebo") and ``layers``, a matrix for each layer with None where FSS is undefined.
            :func:`captum_kd.visualization.plot_models` draws them. None for ``localize="unicam"``, where a model has other
            features in each pair.

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
        placebos: Optional[Mapping[str, Any]] = None,
        classes: Optional[Mapping[str, Any]] = None,
        inputs: Optional[Mapping[str, Any]] = None,
        similarities: Optional[Mapping[str, Any]] = None,
    ) -> None:
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            raise TypeError(f"rows must be a list of records (dicts), got {short_repr(rows)}.")
        parts = {
            "seed_control": seed_control,
            "placebos": placebos,
            "classes": classes,
            "inputs": inputs,
            "similarities": similarities,
        }
        for name, part in parts.items():
            if part is not None:
                check_mapping(part, name, "a mapping or None")
        check_texts(notes, "notes")
        check_mapping(settings, "settings", "a mapping")
        self.rows = [dict(row) for row in rows]
        self.seed_control, self.placebos, self.classes, self.inputs, self.similarities = (
            None if part is None else dict(part) for part in parts.values()
        )
        self.notes = list(notes)
        self.settings = dict(settings)

    @classmethod
    def from_json(cls, source: Union[str, "os.PathLike[str]"]) -> "TransferReport":
        """The report that :meth:`to_json` saved.

        Args:
            source (str or PathLike): the file, or its text (which begins with ``{``).

        Raises:
            OSError: a file that cannot be read.
            ValueError: not JSON, or not a saved report.
            TypeError: neither a path nor a text.

        Example::

            >>> report.to_json("report.json")
            >>> print(TransferReport.from_json("report.json"))
        """
        return cls(**read_report(source))

    def to_dict(self) -> dict[str, Any]:
        """A copy of all attributes in plain Python types."""
        return copy.deepcopy({name: getattr(self, name) for name in PARTS})

    def to_json(self, path: Union[None, str, "os.PathLike[str]"] = None) -> str:
        """The report as JSON (RFC 8259). Also writes it to ``path`` if given.

        A file is written whole or not at all and keeps its permissions. Character devices, pipes and ``/dev/stdout`` are allowed.

        Raises:
            ValueError: ``path`` is a folder, a socket or a block device.
            OSError: no permission to write, or a full disk; an old file is then unchanged.
        """
        text = encodable(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        if path is not None:
            write_whole(path, text)
        return text

    def to_csv(self, path: Union[None, str, "os.PathLike[str]"] = None, *, table: str = "rows") -> str:
        """A table as CSV (RFC 4180). Also writes it to ``path`` if given, as :meth:`to_json` does.

        An apostrophe is put in front of names that a spreadsheet would read as a formula (they begin with ``=``, ``+``, ``-``,
        ``@``, a tab or a line break).

        Args:
            path (str or PathLike, optional): the file.
            table (str): "rows", "classes" (the rows of ``classes``), "inputs" (the rows of ``inputs``), both with a column
                ``class_name`` if the report has class names, or "similarities" (one record for each layer and pair of models).

        Raises:
            ValueError: a table that this report does not have, or that does not exist.
        """
        check_choice(table, "table", list(TABLES))
        columns, rows = self._table(table)
        lines = io.StringIO()
        writer = csv.DictWriter(lines, columns, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({key: as_spreadsheet_text(value) for key, value in row.items()} for row in rows)
        if path is not None:
            write_whole(path, lines.getvalue())
        return lines.getvalue()

    def _table(self, name: str) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
        """Columns and records of a table."""
        if name == "rows":
            return COLUMNS, self.rows
        part: Optional[Mapping[str, Any]] = getattr(self, name)
        if part is None:
            raise ValueError(f"This report has no table {name!r}. {TABLES[name]}")
        rows: list[dict[str, Any]]
        if name == "similarities":
            rows = [
                {"layer": layer, "model": first, "other": second, "fss": matrix[i][j]}
                for layer, matrix in part["layers"].items()
                for (i, first), (j, second) in combinations(enumerate(part["models"]), 2)
            ]
            return ("layer", "model", "other", "fss"), rows
        names, number = names_in(self.settings, part if name == "classes" else None), "group" if name == "classes" else "label"
        rows = part["rows"]
        if names is not None:
            rows = [{**row, "class_name": class_name(row[number], names)} for row in rows]
        return list(dict.fromkeys(key for row in rows for key in row)), rows

    def to_dataframe(self, table: str = "rows") -> Any:
        """A table of :meth:`to_csv` as a ``pandas.DataFrame``.

        Args:
            table (str): as for :meth:`to_csv`.

        Raises:
            ImportError: pandas is not installed.
            ValueError: a table that this report does not have, or that does not exist.

        Example::

            >>> report.to_dataframe().pivot_table("value", "layer", "score")
        """
        check_choice(table, "table", list(TABLES))
        columns, rows = self._table(table)
        return data_frame(rows, columns)

    def to_markdown(self) -> str:
        """The report as Markdown: tables of every pair of models, seed control and notes."""
        return markdown(self.to_dict())

    def plot(self, what: str = "layers", *, title: Optional[str] = None) -> "Figure":
        """A figure of the report.

        Args:
            what (str): "layers", scores over the layers with their intervals
                (:func:`captum_kd.visualization.plot_layer_scores`); "predictions"
                (:func:`~captum_kd.visualization.plot_predictions`); "seeds", what seed control compares
                (:func:`~captum_kd.visualization.plot_seed_control`); "classes", one score of each class
                (:func:`~captum_kd.visualization.plot_classes`, which has further options); or "models", all models as points
                (:func:`~captum_kd.visualization.plot_models`).
            title (str, optional): a heading over the figure.

        Raises:
            ValueError: an unknown figure, or a report without its scores.
        """
        from captum_kd import visualization

        figures: dict[str, Callable[..., "Figure"]] = {
            "layers": visualization.plot_layer_scores,
            "predictions": visualization.plot_predictions,
            "seeds": visualization.plot_seed_control,
            "classes": visualization.plot_classes,
            "models": visualization.plot_models,
        }
        check_choice(what, "what", list(figures))
        return figures[what](self, title=title)

    @property
    def verdict(self) -> list[str]:
        """The verdict in at most five points of a few sentences each.

        They are about cautions, accuracy, agreement with the Teacher, what the Students gained and at which layers, whether it is
        the Teacher's, and what stays undecided. They rest on the report's tests (docs/report.md).
        """
        return verdict(self.to_dict())

    def to_html(
        self,
        path: Union[None, str, "os.PathLike[str]"] = None,
        *,
        maps: Optional["InputMaps"] = None,
        curves: Optional[Mapping[str, Any]] = None,
        sections: Sequence["Section"] = (),
        title: Optional[str] = None,
    ) -> str:
        """The report as one self-contained page of HTML. Also writes it to ``path`` if given, as :meth:`to_json` does.

        The page loads nothing, so that it can be sent to others, and needs jinja2 to be made (``pip install "captum_kd[page]"``).
        The verdict comes first, then maps, figures, tables, settings, downloads and a glossary. Without JavaScript everything can
        be read, but not sorted. Downloads that would make the page larger than 5 MB are left out, and the page names them.

        Args:
            path (str or PathLike, optional): the file.
            maps (InputMaps, optional): maps, from which a reader chooses input, layer, Student and Base.
            curves (mapping of str to KeepCurve, optional): keep curves by the names of their maps.
            sections (list of Section): further parts, after those of the report. See :mod:`captum_kd.page`.
            title (str, optional): the heading.
                    Default: "Transfer report"

        Returns:
            *str*: the page. Equal reports give equal pages.

        Raises:
            ImportError: jinja2 is not installed.
            TypeError, ValueError: maps, curves or sections that cannot be shown.
            OSError: the file cannot be written.

        Example::

            >>> from captum_kd.page import Paragraphs, Section
            >>> report.to_html("report.html", sections=[Section("Training", [Paragraphs(["50 epochs of SGD."])], "settings")])
        """
        from captum_kd.page.report_page import report_page

        text = report_page(self, maps=maps, curves=curves, sections=sections, title=title)
        if path is not None:
            write_whole(path, text)
        return text

    def _repr_html_(self) -> str:
        return notebook_html(self.to_dict())

    def __str__(self) -> str:
        return plain(self.to_dict())

    def __repr__(self) -> str:
        in_pairs = [row for row in self.rows if not str(row.get("score")).endswith("_all")]
        students, bases, layers = (len({row.get(key) for row in in_pairs}) for key in ("student", "base", "layer"))
        return (
            f"TransferReport({students} Student(s), {bases} Base(s), {layers} layer(s), {self.settings.get('n')} inputs; "
            f"{len(self.rows)} rows)"
        )
