"""The result of :func:`captum_kd.metrics.layer_similarity`."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import textwrap
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Optional, Union

from captum_kd._utils.data_frame import data_frame
from captum_kd._utils.files import write_whole
from captum_kd._utils.html_table import Shaded, html_table
from captum_kd._utils.text import as_markdown, as_spreadsheet_text, encodable, one_line
from captum_kd._utils.validation import check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("fss", "cka")
READING = (
    "Features of the same inputs are never independent: compare a similarity with that of another seed or of random weights, "
    "not with 0. A best match that hardly exceeds its runner-up may change with the seed."
)
_WIDTH = 100
_COLUMNS = ("measure", "layer_a", "layer_b", "value")
_SIDES = ("model_a", "model_b")


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """Similarities of all layers of one model (rows) with all layers of another one (columns).

    ``print(result)`` shows the best matches; notebooks show the matrices.

    Attributes:
        layers_a (tuple of str): labels of the layers of ``model_a``.
        layers_b (tuple of str): labels of the layers of ``model_b``.
        matrices (dict): a list of rows for each measure: ``matrices["fss"][i][j]`` is the similarity of layer i of ``model_a``
            and layer j of ``model_b``, in [-1, 1]; None if one of the two has no geometry.
        notes (list of str): cautions first, then how to read the values.
        settings (dict): the number of inputs and everything else that the values depend on.

    Example::

        >>> found = layer_similarity(student, teacher, ["layer1", "layer2"], ["layer1", "layer2", "layer3"], loader)
        >>> found.matrices["cka"][0][2]  # layer1 of the Student, layer3 of the Teacher
        0.412
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    matrices: dict[str, list[list[Optional[float]]]] = field(repr=False)
    notes: list[str] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return int(self.settings["n"])

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures, in the order in which they were asked for."""
        return tuple(self.matrices)

    def best_match(self, measure: Optional[str] = None) -> list[dict[str, Any]]:
        """The most similar layer of the other model, for each layer of ``model_a`` and then for each layer of ``model_b``.

        If one model was given twice, no layer is matched with itself.

        Args:
            measure (str, optional): "fss" or "cka".
                        Default: the first of ``measures``

        Returns:
            list of dict: records with ``model`` ("model_a" or "model_b"), ``layer``, ``match`` and ``value``, the best layer and
            its similarity; ``runner_up`` and ``runner_up_value``, the second best; ``is_mutual``, True if ``layer`` is also
            the best one for ``match``. ``match`` or ``runner_up`` are None where no value is left.

        Raises:
            ValueError: a measure that was not computed.

        Example::

            >>> found.best_match("fss")[0]
            {'model': 'model_a', 'layer': 'layer1', 'match': 'layer1', 'value': 0.871, 'runner_up': 'layer2',
             'runner_up_value': 0.604, 'is_mutual': True}
        """
        measure = self._checked_measure(measure)
        ranked_a, ranked_b = self._ranked(measure), self._ranked(measure, of_columns=True)
        records = []
        for model, layers, others, ranked, back in (
            ("model_a", self.layers_a, self.layers_b, ranked_a, ranked_b),
            ("model_b", self.layers_b, self.layers_a, ranked_b, ranked_a),
        ):
            for place, layer in enumerate(layers):
                first, second = [*ranked[place][:2], (None, None), (None, None)][:2]
                records.append(
                    {
                        "model": model,
                        "layer": layer,
                        "match": None if first[0] is None else others[first[0]],
                        "value": first[1],
                        "runner_up": None if second[0] is None else others[second[0]],
                        "runner_up_value": second[1],
                        "is_mutual": first[0] is not None and back[first[0]][0][0] == place,
                    }
                )
        return records

    def _checked_measure(self, measure: Optional[str]) -> str:
        """The measure, or the first one for None; a ValueError for a measure that was not computed."""
        if measure is None:
            return self.measures[0]
        check_choice(measure, "measure", self.measures)
        return measure

    def _is_same_layer(self, row: int, column: int) -> bool:
        """Whether a layer of ``model_a`` and a layer of ``model_b`` are one layer of one model."""
        layers = self.settings["layers"]
        return bool(self.settings["is_one_model"]) and layers["model_a"][row] == layers["model_b"][column]

    def _ranked(self, measure: str, of_columns: bool = False) -> list[list[tuple[int, float]]]:
        """For each layer of one model, the defined layers of the other one and their values, the best one first."""
        matrix = self.matrices[measure]
        found = []
        for place in range(len(self.layers_b if of_columns else self.layers_a)):
            others = range(len(self.layers_a if of_columns else self.layers_b))
            pairs = [(other, place) if of_columns else (place, other) for other in others]
            values = [(other, matrix[i][j]) for other, (i, j) in zip(others, pairs) if not self._is_same_layer(i, j)]
            found.append(sorted(((other, value) for other, value in values if value is not None), key=lambda each: -each[1]))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Layers, matrices, best matches by measure, notes and settings in plain Python types."""
        return copy.deepcopy(
            {
                "layers_a": list(self.layers_a),
                "layers_b": list(self.layers_b),
                "matrices": self.matrices,
                "best_match": {measure: self.best_match(measure) for measure in self.measures},
                "notes": self.notes,
                "settings": self.settings,
            }
        )

    def to_json(self, path: Union[None, str, "os.PathLike[str]"] = None) -> str:
        """:meth:`to_dict` as JSON (RFC 8259). Also writes it to ``path`` if given, whole or not at all.

        Raises:
            ValueError: ``path`` is a folder, a socket or a block device.
            OSError: no permission to write, or a full disk; an old file is then unchanged.
        """
        return _written(encodable(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"), path)

    def to_csv(self, path: Union[None, str, "os.PathLike[str]"] = None) -> str:
        """All values as CSV (RFC 4180), a line for each measure and pair of layers. Also writes them to ``path`` if given.

        The value is empty where it is None. Names that a spreadsheet would read as a formula begin with an apostrophe.
        """
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(_COLUMNS)
        writer.writerows([as_spreadsheet_text(cell) for cell in record.values()] for record in self._records())
        return _written(lines.getvalue(), path)

    def to_dataframe(self) -> Any:
        """All values as a ``pandas.DataFrame``, one row for each measure and pair of layers; NaN where the value is None.

        Raises:
            ImportError: pandas is not installed.

        Example::

            >>> found.to_dataframe().query("measure == 'cka'").pivot(index="layer_a", columns="layer_b", values="value")
        """
        return data_frame(self._records(), _COLUMNS)

    def _records(self) -> list[dict[str, Any]]:
        return [
            dict(zip(_COLUMNS, (measure, layer_a, layer_b, value)))
            for measure, matrix in self.matrices.items()
            for layer_a, row in zip(self.layers_a, matrix)
            for layer_b, value in zip(self.layers_b, row)
        ]

    def to_markdown(self) -> str:
        """For each measure a table of all values and one of the best matches, then the notes."""
        lines = [f"# {as_markdown(self._heading())}"]
        for measure, matrix in self.matrices.items():
            lines += ["", f"## {measure.upper()}", "", *_markdown_table(["", *self.layers_b], (
                [layer, *map(_number, row)] for layer, row in zip(self.layers_a, matrix)
            ))]  # fmt: skip
            for side in _SIDES:
                lines += ["", f"Best matches of the layers of {side}", "", *_markdown_table(*self._matches(measure, side))]
        return "\n".join([*lines, "", *(f"- {as_markdown(note)}" for note in self.notes)]) + "\n"

    def plot(self, measure: Optional[str] = None, *, title: Optional[str] = None) -> "Figure":
        """Heat maps of all measures, or of one, see :func:`captum_kd.visualization.plot_layer_similarity`."""
        from captum_kd.visualization import plot_layer_similarity

        return plot_layer_similarity(self, measure, title=title)

    def __str__(self) -> str:
        measure = self.measures[0]
        lines = textwrap.wrap(one_line(self._heading()), _WIDTH)
        for side in _SIDES:
            header, rows = self._matches(measure, side)
            table = [[one_line(cell) for cell in row] for row in (header, *rows)]
            widths = [min(max(map(len, column)), (_WIDTH - 24) // 3) for column in zip(*table)]
            lines += ["", *("  ".join(_fitted(cell, width) for cell, width in zip(row, widths)).rstrip() for row in table)]
        lines.append("")
        for other in self.measures[1:]:
            pairs = list(zip(self.best_match(measure), self.best_match(other)))
            differing = sum(first["match"] != second["match"] for first, second in pairs)
            lines.append(f"{other.upper()} chooses another best match for {differing} of the {len(pairs)} layers.")
        for note in ["<-> marks two layers that choose each other.", *self.notes]:
            lines += textwrap.wrap(one_line(note), _WIDTH)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"LayerSimilarity({len(self.layers_a)} layers of model_a, {len(self.layers_b)} layers of model_b; "
            f"{', '.join(self.measures)}; {self.n} inputs)"
        )

    def _repr_html_(self) -> str:
        tables = [
            html_table(
                ["", *self.layers_b],
                [[layer, *(Shaded(_number(value), value) for value in row)] for layer, row in zip(self.layers_a, matrix)],
                f"{measure.upper()} of the layers of model_a (rows) and of model_b (columns), {self.n} inputs",
            )
            for measure, matrix in self.matrices.items()
        ]
        return "\n".join([*tables, *(f"<p>{escape(one_line(note))}</p>" for note in self.notes)])

    def _heading(self) -> str:
        models = self.settings["models"]
        return (
            f"Similarity of {len(self.layers_a)} layers of model_a ({models['model_a']}) with {len(self.layers_b)} layers of "
            f"model_b ({models['model_b']}); {self.n} inputs, features: {self.settings['feature_transform']}"
        )

    def _matches(self, measure: str, side: str) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of best matches."""
        other = _SIDES[1 - _SIDES.index(side)]
        header = [f"layer of {side}", "", f"best of {other}", measure.upper(), "runner-up", measure.upper()]
        records = [each for each in self.best_match(measure) if each["model"] == side]
        rows = [
            [
                each["layer"],
                "<->" if each["is_mutual"] else "->",
                each["match"] or "none",
                _number(each["value"]),
                each["runner_up"] or "none",
                _number(each["runner_up_value"]),
            ]
            for each in records
        ]
        return header, rows


def _number(value: Optional[float]) -> str:
    return "none" if value is None else f"{value:.3f}".replace("-0.000", "0.000")


def _fitted(cell: str, width: int) -> str:
    """A cell of a width; the end of a longer layer's name tells more than its beginning."""
    return cell.ljust(width) if len(cell) <= width else "..." + cell[3 - width :]


def _markdown_table(header: list[str], rows: Any) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell if cell == '---' else as_markdown(cell) for cell in line)} |" for line in lines]


def _written(text: str, path: Union[None, str, "os.PathLike[str]"]) -> str:
    if path is not None:
        write_whole(path, text)
    return text
