"""Escaping of names and sentences for terminals, Markdown, CSV and UTF-8."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["as_markdown", "as_spreadsheet_text", "encodable", "one_line", "printable"]

# Beside line breaks, which terminals may have, and the joiners of several scripts and of emoji.
_KEPT = "\n\u200c\u200d"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Control and formatting characters and lone surrogates as their escapes (``\\x1b``, ``\\u202e``); lines stay lines."""
    return "".join(
        letter.encode("unicode_escape").decode() if letter not in _KEPT and unicodedata.category(letter) in _HIDDEN else letter
        for letter in text
    )


def one_line(text: str) -> str:
    """Printable, and any white space as one space."""
    return printable(" ".join(text.split()))


def encodable(text: str) -> str:
    """Lone surrogates, which UTF-8 does not have, as escapes; in JSON these are read as the surrogates again."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_markdown(text: str) -> str:
    """One line that is shown as it is: no table cell ends in it, no emphasis, link, list, formula or HTML begins in it."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)
    text = re.sub(r"(?i)\b(?:(?:https?|ftp)(?=://)|www(?=\.))", r"\g<0>\\", text)  # many viewers make links of addresses
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # between letters it begins no emphasis
    return re.sub(r"^(?:[-+](?=[\s-]|$)|\d+[.)](?=\s|$))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


def as_spreadsheet_text(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would take for a formula begins with an apostrophe; numbers stay."""
    if not isinstance(value, str):
        return value
    text = encodable(value).replace("\0", "\\x00")
    is_formula = text.lstrip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or text[:1] in tuple("\t\r\n")
    return f"'{text}" if is_formula else text
