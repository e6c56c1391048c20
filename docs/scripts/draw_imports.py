"""The map of the code: which part of the package imports which, read from the sources themselves.

Reads the import statements of every module without running any, and writes ``docs/images/architecture.svg``::

    python docs/scripts/draw_imports.py

A box is a module or a folder of the package. An arrow says "imports"; one that others imply is left out, so that the
picture shows the shortest way down. Imports inside functions, for what is needed rarely, are not drawn.
"""

from __future__ import annotations

import argparse
import ast
from html import escape
from pathlib import Path
from typing import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2]
PACKAGE = "captum_kd"

BOX_HEIGHT, ROW_HEIGHT, GAP, MARGIN, LETTER = 30, 78, 16, 14, 8.2

Graph = Mapping[str, set[str]]


def imports(package: Path) -> dict[str, set[str]]:
    """For each module or folder of a package, the others that it imports; the package's own ``__init__`` is left out."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        targets = found.setdefault(parts[0], set())
        targets.update(name for name in _imported(ast.parse(path.read_text()).body, package.name) if name != parts[0])
    unknown = set().union(*found.values()) - set(found)
    if unknown:
        raise ValueError(f"Imports of parts that {package.name} does not have: {', '.join(sorted(unknown))}.")
    return found


def _imported(statements: Sequence[ast.stmt], package: str) -> Iterator[str]:
    """First names below the package in absolute imports on module level."""
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            head, *rest = statement.module.split(".")
            if head == package:
                yield from rest[:1] or (alias.name for alias in statement.names)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                head, *rest = alias.name.split(".")
                if head == package:
                    yield from rest[:1]


def levels(graph: Graph) -> dict[str, int]:
    """How many imports the longest way down from each part has.

    Raises:
        ValueError: parts that import each other, in whatever number of steps.
    """
    found: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"Parts import each other: {' -> '.join((*above[above.index(name):], name))}.")
        if name not in found:
            found[name] = 1 + max((level(target, (*above, name)) for target in sorted(graph[name])), default=-1)
        return found[name]

    for name in sorted(graph):
        level(name, ())
    return found


def shortest(graph: Graph) -> dict[str, set[str]]:
    """The graph without the imports that others imply."""
    below: dict[str, set[str]] = {}
    for name in sorted(graph, key=levels(graph).__getitem__):
        below[name] = set(graph[name]).union(*(below[target] for target in graph[name]))
    return {
        name: {target for target in targets if not any(target in below[other] for other in targets)}
        for name, targets in graph.items()
    }


def threaded(arrows: Graph) -> tuple[dict[str, set[str]], dict[tuple[str, str], list[str]]]:
    """The graph with a thread through every row that an arrow passes, so that arrows get places between the boxes.

    Returns:
        arrows from row to row; and for each arrow the parts and threads on its way, both ends included.
    """
    level = levels(arrows)
    steps: dict[str, set[str]] = {name: set() for name in arrows}
    ways: dict[tuple[str, str], list[str]] = {}
    for name in sorted(arrows):
        for target in sorted(arrows[name]):
            passed = [f"{name}>{target}@{at}" for at in range(level[name] - 1, level[target], -1)]
            ways[name, target] = way = [name, *passed, target]
            for one, other in zip(way, way[1:]):
                steps.setdefault(one, set()).add(other)
    return steps, ways


def rows(steps: Graph) -> list[list[str]]:
    """Parts and threads from the highest level to the lowest, neighbors near each other."""
    level = levels(steps)
    arranged = [sorted(name for name in steps if level[name] == at) for at in range(max(level.values()) + 1)]
    users = {name: [user for user in sorted(steps) if name in steps[user]] for name in steps}
    for upward in (True, False) * 6:
        for row in arranged if upward else arranged[::-1]:
            place = {name: (index + 0.5) / len(other) for other in arranged for index, name in enumerate(other)}
            near = steps if upward else users
            row.sort(key=lambda name: (_mean([place[each] for each in near[name]], place[name]), name))
    return arranged[::-1]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def svg(graph: Graph, folders: set[str]) -> str:
    """The graph as a picture; its description lists every arrow."""
    arrows = shortest(graph)
    steps, ways = threaded(arrows)
    arranged = rows(steps)
    widths = {name: round(LETTER * len(_label(name, folders)) + 18) if name in graph else 0 for name in steps}
    across = max(sum(widths[name] + GAP for name in row) + GAP for row in arranged) + 2 * MARGIN
    height = ROW_HEIGHT * (len(arranged) - 1) + BOX_HEIGHT + 2 * MARGIN
    left: dict[str, float] = {}
    top: dict[str, float] = {}
    for number, row in enumerate(arranged):
        step = (across - 2 * MARGIN - sum(widths[name] for name in row)) / (len(row) + 1)
        start = MARGIN + step
        for name in row:
            left[name], top[name] = start, MARGIN + number * ROW_HEIGHT
            start += widths[name] + step
    middle = {name: left[name] + widths[name] / 2 for name in steps}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {height}" role="img" '
        'font-family="Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13">',
        f"<title>Which part of {PACKAGE} imports which</title>",
        "<desc>" + "; ".join(f"{a} imports {', '.join(sorted(arrows[a]))}" for a in sorted(arrows) if arrows[a]) + "</desc>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#667"/></marker></defs>',
        f'<rect width="{across}" height="{height}" rx="8" fill="#fcfcfd"/>',
    ]
    for way in ways.values():
        path = ""
        for one, other in zip(way, way[1:]):
            x0, y0 = middle[one], top[one] + BOX_HEIGHT
            x1, y1 = middle[other], top[other] - (other in graph)
            bend = (y1 - y0) / 2
            # Past a box a thread goes straight down.
            path += f" L{x0:.0f} {y0:.0f}" if path else f"M{x0:.0f} {y0:.0f}"
            path += f" C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
        lines.append(f'<path d="{path}" fill="none" stroke="#889" stroke-width="1.2" marker-end="url(#head)"/>')
    for name in sorted(graph):
        fill, edge = ("#dbe9f6", "#2b6cb0") if name in folders else ("#ffffff", "#778")
        lines.append(
            f'<rect x="{left[name]:.0f}" y="{top[name]:.0f}" width="{widths[name]}" height="{BOX_HEIGHT}" rx="5" '
            f'fill="{fill}" stroke="{edge}"/>'
        )
        lines.append(
            f'<text x="{middle[name]:.0f}" y="{top[name] + 20:.0f}" text-anchor="middle" '
            f'fill="#123">{escape(_label(name, folders))}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _label(name: str, folders: set[str]) -> str:
    return f"{name}/" if name in folders else name


def picture() -> str:
    package = ROOT / PACKAGE
    return svg(imports(package), {path.parent.name for path in package.glob("*/__init__.py")})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "architecture.svg")
    options = parser.parse_args()
    options.output.write_text(picture())


if __name__ == "__main__":
    main()
