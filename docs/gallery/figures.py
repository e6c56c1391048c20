"""An image scraper for the gallery: saves each ``Figure`` that an example's block of code assigns to a name.

This package's figures are not registered with pyplot, so sphinx-gallery does not find them by itself.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def of_block(block: Any, variables: dict[str, Any], configuration: dict[str, Any]) -> str:
    """Saves the figures that are new among an example's names since the previous block. Returns the text that shows them."""
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
