"""The Markdown that readers see, and the code in it."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^(\w+=\S+\s+)+")
COMMAND_IN_TEXT = re.compile(r"`(python3? [^`]+)`")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    found = [Block(m[1], m[2], text[: m.start(2)].count("\n") + 1) for m in FENCE.finditer(text)]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[str]:
    """Shell commands of a page, one each: lines of its bash blocks, parts of ``a && b``, and code spans in its text.

    Lines that go on after a backslash are one; variables set in front of a command are left out.
    """
    lines = [line for block in blocks(page, "bash") for line in block.text.replace("\\\n", " ").splitlines()]
    spans = COMMAND_IN_TEXT.findall(FENCE.sub("", page.read_text()).replace("\n", " "))
    parts = [SETTING.sub("", part.strip()) for line in [*lines, *spans] for part in line.split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def tables(page: Path) -> list[list[list[str]]]:
    """The tables of a page, as rows of cells, heads included and rules left out."""
    found: list[list[list[str]]] = [[]]
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]
