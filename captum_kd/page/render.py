"""Sections as one HTML file that loads nothing."""

from __future__ import annotations

import csv
import gzip
import io
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence, Union

from captum_kd._utils.text import as_spreadsheet_text, encodable, printable
from captum_kd.page.content import PLACES, Download, Folded, PageTable, Paragraphs, Picture, Section
from captum_kd.page.explorer import SCRIPTS, STYLES, explorer
from captum_kd.page.figures import drawing, image_source, photograph
from captum_kd.page.glossary import GLOSSARY, with_links

if TYPE_CHECKING:
    from captum_kd.attr import InputMaps

try:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup
except ImportError as error:  # pragma: no cover - tested in a process of its own
    raise ImportError("Pages need jinja2, which is not installed. Install it with: pip install 'captum_kd[page]'") from error

__all__ = ["PAGE_LIMIT", "render"]

FOLDER = Path(__file__).parent
PAGE_LIMIT = 5_000_000
"""Bytes of a page, above which downloads are left out; other parts of a page are always shown."""
HEADINGS = {"verdict": "Verdict", "maps": "Maps", "curves": "Figures", "tables": "Tables", "settings": "Settings and cautions"}
MARGIN = 20_000
"""Bytes of the list of downloads without their content."""


def render(
    *,
    title: str,
    subtitle: str,
    verdict: Sequence[str],
    cautions: Sequence[str],
    explorer_of: Optional[tuple["InputMaps", Optional[Mapping[str, Any]]]],
    sections: Sequence[Section],
    downloads: Sequence[Download],
) -> str:
    """The HTML of a page.

    Args:
        title (str): heading and title of the page.
        subtitle (str): what was compared.
        verdict (list of str): sentences, first on the page.
        cautions (list of str): what a reader must know with the verdict.
        explorer_of (tuple, optional): maps, and ``report.inputs`` or None.
        sections (list of Section): sections of each place keep their order.
        downloads (list of Download): files of the whole report, the most useful first. Those that would make the page larger than
            5 MB are named, but left out.
    """
    drawer = _Drawer()
    static, data = explorer(*explorer_of) if explorer_of is not None else ("", "")
    scripts = ["page.js", *(SCRIPTS if explorer_of is not None else ())]
    styles = ["page.css", *(STYLES if explorer_of is not None else ())]
    texts = {name: FOLDER.joinpath(name).read_text(encoding="utf-8") for name in (*scripts, *styles)}
    anchors, always = _Anchors(), ["verdict"] if explorer_of is None else ["verdict", "maps"]
    places = [
        {
            "name": place,
            "title": HEADINGS[place],
            "sections": [
                {"title": each.title, "anchor": anchors.of(each.title), "blocks": [drawer.block(block) for block in each.blocks]}
                for each in sections
                if each.place == place
            ],
        }
        for place in PLACES
    ]
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )
    environment.filters.update({"linked": _linked, "cell": _cell})
    template = environment.get_template("page.html.j2")
    parts = {
        "title": title,
        "subtitle": subtitle,
        "verdict": verdict,
        "cautions": cautions,
        "places": [each for each in places if each["sections"] or each["name"] in always],
        "static": Markup(static),
        "data": Markup(data),
        "glossary": GLOSSARY,
        "styles": Markup("\n".join(texts[name] for name in styles)),
        "scripts": [Markup(texts[name]) for name in scripts],
        "hashes": [b64encode(sha256(texts[name].encode()).digest()).decode() for name in scripts],
    }
    rest = len(template.render(**parts, downloads=[]).encode("utf-8", "backslashreplace"))
    return encodable(template.render(**parts, downloads=_within(downloads, PAGE_LIMIT - MARGIN - rest)))


def _finalized(value: Any) -> Any:
    """Every text on the page, with escapes for control and formatting characters, which could turn the page's order."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _linked(text: str) -> Markup:
    return Markup(with_links(printable(text)))


class _Anchors:
    """Ids of sections, each once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, title: str) -> str:
        start = "section-" + (re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part")
        found, number = start, 1
        while found in self.taken:
            number += 1
            found = f"{start}-{number}"
        self.taken.add(found)
        return found


class _Drawer:
    """Blocks as what the template needs."""

    def __init__(self) -> None:
        self.drawings = 0

    def block(self, block: Union[Paragraphs, PageTable, Picture, Download, Folded]) -> dict[str, Any]:
        if isinstance(block, Paragraphs):
            return {"kind": "paragraphs", "texts": block.texts}
        if isinstance(block, PageTable):
            return self._table(block)
        if isinstance(block, Picture):
            return self._picture(block)
        if isinstance(block, Download):
            return {"kind": "download", **_download(block)}
        blocks = [self.block(each) for each in block.blocks]
        if len(blocks) == 1 and blocks[0].get("title") == block.title:
            blocks[0]["is_named"] = True  # by the summary above it
        return {"kind": "folded", "title": block.title, "blocks": blocks}

    def _table(self, table: PageTable) -> dict[str, Any]:
        name = re.sub(r"\W+", "_", (table.title or "table").lower()).strip("_")
        return {
            "kind": "table",
            "title": table.title,
            "note": table.note,
            "columns": table.columns,
            "rows": table.rows,
            "numeric": [_is_numeric([row[place] for row in table.rows]) for place in range(len(table.columns))],
            "thumbnails": [image_source(each, f"A thumbnail of table {table.title!r}") for each in table.thumbnails],
            "csv": _download(Download(f"{name}.csv", _csv(table))),
        }

    def _picture(self, picture: Picture) -> dict[str, Any]:
        alt = picture.alt or picture.caption
        found = {"kind": "picture", "caption": picture.caption, "alt": alt}
        if picture.is_photographic:
            return {**found, "source": image_source(photograph(picture.picture), "The picture")}
        if isinstance(picture.picture, Path):
            return {**found, "source": image_source(picture.picture.read_bytes(), str(picture.picture))}
        self.drawings += 1
        return {**found, "drawing": Markup(drawing(picture.picture, f"d{self.drawings}", printable(alt)))}


def _cell(value: Union[str, int, float, None]) -> str:
    if value is None:
        return "\u2013"
    if not isinstance(value, float):
        return printable(str(value))
    text = f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1e6 else f"{value:.2g}"
    return "0.000" if text == "-0.000" else text


def _is_numeric(cells: Sequence[Union[str, int, float, None]]) -> bool:
    known = [str(cell) for cell in cells if cell not in (None, "-", "")]
    return bool(known) and all(re.match(r"[-+]?[\d.]", cell) for cell in known)


# ----------------------------------------------------------------------------- downloads


def _csv(table: PageTable) -> str:
    """RFC 4180, numbers in full."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(map(as_spreadsheet_text, table.columns))
    writer.writerows(["" if cell is None else as_spreadsheet_text(cell) for cell in row] for row in table.rows)
    return lines.getvalue()


def _download(download: Download) -> dict[str, Any]:
    """A link to the compressed file. A script of the page saves it uncompressed."""
    content = encodable(download.text).encode("utf-8")
    packed = b64encode(gzip.compress(content, mtime=0)).decode()
    return {"name": download.name, "size": _size(len(content)), "source": f"data:application/gzip;base64,{packed}"}


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(1, round(size / 1e3))} kB"


def _within(downloads: Sequence[Download], room: int) -> list[dict[str, Any]]:
    """Downloads with their content as long as the room lasts, and without it else."""
    found = []
    for each in map(_download, downloads):
        if len(each["source"]) > room:
            each["source"] = None
        else:
            room -= len(each["source"])
        found.append(each)
    return found
