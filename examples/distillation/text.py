"""Escaping of names for terminals, pages, Markdown and CSV."""

from __future__ import annotations

import html
import re
from typing import Union

__all__ = ["as_markdown", "as_spreadsheet_text", "encodable", "printable"]

JOINERS = "\u200c\u200d"
"""Several scripts and emoji need these two formatting characters."""


def printable(text: str) -> str:
    """The text with escapes for line breaks, control characters and bytes of file names that are not UTF-8."""
    return "".join(letter if letter.isprintable() or letter in JOINERS else ascii(letter)[1:-1] for letter in text)


def encodable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_markdown(text: str) -> str:
    """A table cell of Markdown that shows the text as it is."""
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html.escape(printable(text), quote=False))


def as_spreadsheet_text(value: Union[str, int, float, None]) -> Union[str, int, float, None]:
    """A CSV cell. An apostrophe keeps a spreadsheet from taking a text for a formula; numbers do not change."""
    if not isinstance(value, str):
        return value
    is_formula = value.lstrip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or value[:1] in tuple("\t\r\n")
    return encodable(f"'{value}" if is_formula else value).replace("\0", "\\x00")
