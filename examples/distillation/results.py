"""What a run writes and prints. It states what came out and draws no conclusion that the numbers do not."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from pathlib import Path
from typing import Sequence

from distillation.cautions import cautions
from distillation.figures import picture_names, pictures_of
from distillation.files import whole_file, write_text
from distillation.measuring import Measurements
from distillation.outcomes import WHOLE, Record, score_rows
from distillation.page import page
from distillation.plan import Plan
from distillation.tables import TABLES, Table
from distillation.task import Task
from distillation.text import as_spreadsheet_text, printable

__all__ = ["print_results", "result_files", "write_results"]

DPI = 150

WIDTH = 100
"""Columns of sentences, in terminals that are as wide."""

COLUMNS = (
    "fold", "group", "student", "base", "teacher", "view", "formula", "layer", "score", "value", "low", "high", "p_value",
    "n", "unique_share",
)  # fmt: skip


def result_files(plan: Plan) -> list[str]:
    """Names of all files that ``write_results`` can write, relative to the output folder."""
    tables = [f"tables/{name}.{suffix}" for name in TABLES for suffix in ("csv", "md")]
    return ["report.json", "scores.csv", *tables, *(f"figures/{name}.png" for name in picture_names(plan)), "index.html"]


def write_results(
    folder: Path, task: Task, record: Record, tables: Sequence[Table], measured: Sequence[Measurements], rows: int
) -> None:
    """Writes ``report.json``, ``scores.csv``, tables as CSV and Markdown, figures, and ``index.html`` with all of it.

    Each is written whole or not at all, the page last.
    """
    write_text(folder / "report.json", json.dumps(record) + "\n")
    write_text(folder / "scores.csv", _scores_csv(record))
    for table in tables:
        write_text(folder / "tables" / f"{table.name}.csv", table.to_csv())
        write_text(folder / "tables" / f"{table.name}.md", table.to_markdown())
    pictures = []
    for name, caption, figure in pictures_of(task, record, measured, rows):
        path = folder / "figures" / f"{name}.png"
        with whole_file(path) as file:
            figure.savefig(file, dpi=DPI, format="png")
        pictures.append((name, caption, figure))
    write_text(folder / "index.html", page(task, record, tables, pictures, measured))


def _scores_csv(record: Record) -> str:
    """Every score of every pair, layer, view and formula, one per line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: as_spreadsheet_text(value) for key, value in row.items()} for row in score_rows(record))
    return text.getvalue()


def print_results(record: Record, tables: Sequence[Table], measured: Sequence[Measurements]) -> None:
    """Cautions, accuracy, the verdict on the scores of each Teacher and fold, and where the rest is."""
    print(f"\n{printable(record['task'])}")
    for caution in cautions(record):
        print(_filled(f"CAUTION. {caution}"))
    for table in tables:
        if table.name == "accuracy":
            print(f"\n{table.title}\n{_filled(table.note)}")
            _print(table)
    reports = [(number, scores) for number, found in enumerate(measured, start=1) for scores in found.scores]
    for number, scores in reports:
        fold = f"fold {number}, " if len(measured) > 1 else ""
        print(f"\nVerdict ({fold}{printable(scores.teacher)})" if len(reports) > 1 else "\nVerdict")
        report = scores.reports[WHOLE]
        for sentence in [] if report is None else report.verdict:
            print(_filled(f"- {sentence}"))
    seconds = record["seconds"]
    print(f"\n{seconds['training']:.0f} s of training, {seconds['measuring']:.0f} s of measuring.")
    print(f"Maps, figures and all tables are on one page: {printable(str(Path(record['settings']['output']) / 'index.html'))}")


def _filled(text: str) -> str:
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 1)).columns)
    return textwrap.fill(printable(text), width, subsequent_indent="  ")


def _print(table: Table) -> None:
    lines = [[printable(cell) for cell in line] for line in (table.columns, *table.shown())]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.columns))]
    numbers = [any(isinstance(row[place], (int, float)) for row in table.rows) for place in range(len(table.columns))]
    for line in lines:
        cells = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, numbers)]
        print("  " + "  ".join(cells).rstrip())
