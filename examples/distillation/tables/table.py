"""A table of a run as CSV, Markdown and text."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Iterator, Optional, Sequence, Union

from distillation.text import as_markdown, as_spreadsheet_text

__all__ = ["ANSWERS", "Cell", "Table", "spread"]

Cell = Union[str, int, float, None]

ANSWERS = {True: "yes", False: "no evidence", None: "undecided"}


@dataclass(frozen=True)
class Table:
    """A table with its name as a file, its heading, a note on how to read it, and its cells.

    Attributes:
        is_detail: whether the page shows it folded, and the console not at all.
        thumbnails: for each row a small PNG file, which only the page shows.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_detail: bool = False
    thumbnails: Sequence[bytes] = ()

    def to_csv(self) -> str:
        """RFC 4180, numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(map(as_spreadsheet_text, self.columns))
        writer.writerows(["" if cell is None else as_spreadsheet_text(cell) for cell in row] for row in self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """Heading, note and table; numbers with three digits."""
        lines = [f"## {self.title}", "", self.note, ""]
        lines += ["| " + " | ".join(map(as_markdown, self.columns)) + " |"]
        lines += ["|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(map(as_markdown, row)) + " |" for row in self.shown()]
        return "\n".join(lines) + "\n"

    def shown(self) -> Iterator[list[str]]:
        """The rows as text."""
        for row in self.rows:
            yield ["–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in row]


def spread(values: Sequence[float]) -> tuple[Optional[float], Optional[float]]:
    """Mean and standard deviation; None where there are too few values."""
    return (mean(values) if values else None), (stdev(values) if len(values) > 1 else None)
