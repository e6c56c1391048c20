"""Escaping of names and sentences for terminals, Markdown, CSV and UTF-8."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Callable

# Not escaped: line breaks, and the joiners that several scripts and emoji need.
_KEPT = "\n\u200c\u200d"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """The text with escapes (``\\x1b``, ``\\u202e``) for control and formatting characters and lone surrogates."""
    return "".join(
        letter.encode("unicode_escape").decode() if letter not in _KEPT and unicodedata.category(letter) in _HIDDEN else letter
        for letter in text
    )


def one_line(text: str) -> str:
    """The printable text with each run of white space as one space."""
    return printable(" ".join(text.split()))


def encodable(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 cannot encode; JSON reads them as surrogates again."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def with_middle_cut(text: str, width: int) -> str:
    """The text if it fits a width, else its beginning and its end."""
    end = (width - 1) // 2
    return text if len(text) <= width else text[: width - 1 - end] + "~" + text[len(text) - end :]


def as_markdown(text: str) -> str:
    """One line of Markdown without markup, which is shown as the text itself, also in a table cell."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)
    text = re.sub(r"(?i)\b(?:(?:https?|ftp)(?=://)|www(?=\.))", r"\g<0>\\", text)  # many viewers turn addresses into links
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # between letters it begins no emphasis
    return re.sub(r"^(?:[-+](?=[\s-]|$)|\d+[.)](?=\s|$))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


def as_spreadsheet_text(value: object) -> object:
    """A CSV cell. An apostrophe keeps a spreadsheet from taking a text for a formula; numbers do not change."""
    if not isinstance(value, str):
        return value
    text = encodable(value).replace("\0", "\\x00")
    is_formula = text.lstrip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or text[:1] in tuple("\t\r\n")
    return f"'{text}" if is_formula else text


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, or of the class of a callable object."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))
