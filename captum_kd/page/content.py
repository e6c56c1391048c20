"""The parts of a page."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence, Union

from captum_kd._utils.validation import check_bool, check_choice, check_str, check_texts, short_repr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLACES", "Download", "Folded", "PageTable", "Paragraphs", "Picture", "Section"]

PLACES = ("verdict", "maps", "curves", "tables", "settings")
"""The parts of a page from top to bottom."""


@dataclass(frozen=True)
class Paragraphs:
    """Plain text, one paragraph each; shown as it is, never as markup."""

    texts: Sequence[str]

    def __post_init__(self) -> None:
        check_texts(self.texts, "texts")


@dataclass(frozen=True)
class PageTable:
    """A table that a reader can sort by column.

    Attributes:
        columns (list of str): the headings.
        rows (list of list): cells: texts, numbers or None (shown as a dash).
        title (str, optional): a heading.
        note (str, optional): how to read it.
        thumbnails (list of bytes): a small PNG, JPEG or WebP file for each row, or none.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Union[str, int, float, None]]]
    title: Optional[str] = None
    note: Optional[str] = None
    thumbnails: Sequence[bytes] = ()

    def __post_init__(self) -> None:
        check_str(self.title, "title")
        check_str(self.note, "note")
        check_texts(self.columns, "columns")
        name = "" if self.title is None else f" {self.title!r}"
        if not isinstance(self.rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in self.rows):
            raise TypeError(f"rows must be a list of rows, each a list of cells, got {short_repr(self.rows)}.")
        if not isinstance(self.thumbnails, (list, tuple)) or not all(isinstance(file, bytes) for file in self.thumbnails):
            raise TypeError(f"thumbnails must be a list of files' contents (bytes), got {short_repr(self.thumbnails)}.")
        for place, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"Table{name} has {len(self.columns)} columns, but row {place} has {len(row)} cells.")
            for cell in row:
                if not isinstance(cell, (str, Real, type(None))):
                    raise TypeError(f"rows must hold texts, numbers or None, got {short_repr(cell)} in row {place}.")
        if self.thumbnails and len(self.thumbnails) != len(self.rows):
            raise ValueError(f"Table{name} has {len(self.rows)} rows, but {len(self.thumbnails)} thumbnails.")


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes:
        picture (Figure or path): a figure, which the page draws; or a file (PNG, JPEG, WebP or SVG).
        caption (str): what it shows and how to read it.
        alt (str, optional): what a reader who does not see it needs to know. Default: the caption
        is_photographic (bool): True if it has images, which are compressed as such; lines stay lines otherwise.
    """

    picture: Union["Figure", Path]
    caption: str
    alt: Optional[str] = None
    is_photographic: bool = False

    def __post_init__(self) -> None:
        from matplotlib.figure import Figure

        if not isinstance(self.picture, (Figure, Path)):
            raise TypeError(f"picture must be a matplotlib Figure or a file's pathlib.Path, got {short_repr(self.picture)}.")
        check_str(self.caption, "caption", or_none=False)
        check_str(self.alt, "alt")
        check_bool(self.is_photographic, "is_photographic")


@dataclass(frozen=True)
class Download:
    """A text that a reader can save as a file, such as CSV or JSON."""

    name: str
    text: str

    def __post_init__(self) -> None:
        check_str(self.name, "name", or_none=False)
        check_str(self.text, "text", or_none=False)


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown after a click on their title."""

    title: str
    blocks: Sequence[Union[Paragraphs, PageTable, Picture, Download]]

    def __post_init__(self) -> None:
        check_str(self.title, "title", or_none=False)
        _check_blocks(self.blocks, (Paragraphs, PageTable, Picture, Download))


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading and an entry in its contents.

    Attributes:
        title (str): the heading.
        blocks (list): what is in it.
        place (str): one of "verdict", "maps", "curves", "tables" and "settings": where on the page it is, after the page's own
            sections; with "verdict" directly below the verdict.
    """

    title: str
    blocks: Sequence[Union[Paragraphs, PageTable, Picture, Download, Folded]]
    place: str = "tables"

    def __post_init__(self) -> None:
        check_str(self.title, "title", or_none=False)
        _check_blocks(self.blocks, (Paragraphs, PageTable, Picture, Download, Folded))
        check_choice(self.place, "place", list(PLACES))


def _check_blocks(blocks: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(blocks, (list, tuple)) or not all(isinstance(block, kinds) for block in blocks):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"blocks must be a list of {names}, got {short_repr(blocks)}.")
