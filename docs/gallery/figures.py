"""The figures of the gallery's examples: whatever ``Figure`` a block of code makes or is given a name in it.

This package's figures are not registered with pyplot, where sphinx-gallery looks for them by itself.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def of_block(block: Any, variables: dict[str, Any], configuration: dict[str, Any]) -> str:
    """Writes the figures that are new among an example's names since the block before, and gives the text that shows them."""
    paths = variables["image_path_iterator"]
    seen = variables.setdefault("figures_seen", [])
    written = []
    for value in list(variables["example_globals"].values()):
        if isinstance(value, Figure) and not any(value is figure for figure in seen):
            seen.append(value)
            path = next(paths)
            value.savefig(path, dpi=150)
            written.append(path)
    text: str = figure_rst(written, configuration["src_dir"])
    return text
