"""``index.html``: everything of a run on one page that needs no other file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Sequence

from jinja2 import Environment, FileSystemLoader

from distillation.cautions import cautions
from distillation.outcomes import SALIENT, WHOLE, Record
from distillation.tables import Table
from distillation.text import printable

__all__ = ["page"]

TEMPLATE = "page.html.j2"


def page(record: Record, tables: Sequence[Table], pictures: Sequence[tuple[str, str, Path]]) -> str:
    """The page.

    Args:
        record: what came out.
        tables: shown as they are.
        pictures: name, caption and file of each figure; the files are put into the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value,
    )
    shown = [
        {"name": name, "caption": caption, "data": base64.b64encode(path.read_bytes()).decode("ascii")}
        for name, caption, path in pictures
    ]
    notes = list(
        dict.fromkeys(
            note
            for fold in record["folds"]
            for scores in fold["scores"]
            for view in (WHOLE, SALIENT)
            for note in scores[view]["notes"]
        )
    )
    return environment.get_template(TEMPLATE).render(
        record=record,
        tables=[{"title": table.title, "note": table.note, "columns": table.columns, "rows": list(table.shown()),
                 "is_detail": table.is_detail,
                 "thumbnails": [base64.b64encode(image).decode("ascii") for image in table.thumbnails]}
                for table in tables],
        pictures=shown,
        first_cautions=cautions(record),
        notes=notes,
        settings=json.dumps({key: record[key] for key in ("settings", "plan", "versions", "machine", "seconds")}, indent=2),
    )  # fmt: skip
