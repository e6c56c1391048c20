"""The site: ``python -m sphinx -W -n --keep-going docs build/site`` builds it, without a network."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
sys.path.insert(0, str(DOCS / "gallery"))

import captum_kd  # noqa: E402

project = "captum_kd"
author = "the captum_kd authors"
copyright = "the captum_kd authors"
release = version = captum_kd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["scripts", "gallery", "auto_gallery/*.ipynb"]  # the gallery offers its notebooks for download
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings say types and shapes in words; signatures stay readable without them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 60  # beyond it each parameter has a line of its own, on telephones too
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# "Tensor or tuple[Tensor, ...], optional" is prose, not a name to look up.
napoleon_use_param = False
napoleon_use_rtype = False

nitpicky = True
# Names outside this package: without a network there is no inventory to look them up in.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|captum|matplotlib|collections|typing|pathlib)\..*"),
    ("py:exc", r"(Value|Type|Memory|Runtime|Attribute)Error"),
    ("py:class", r"(Tensor|Geometry|LayerReference|Mapping|Any|Figure|[a-z]+)"),
]

# What an example shows depends on the package, not only on its own text, and one that is gone leaves its page behind:
# every build starts from an empty folder and runs all of them.
shutil.rmtree(DOCS / "auto_gallery", ignore_errors=True)
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "ignore_pattern": "figures\\.py",
    "filename_pattern": "/(plot_|small_networks)",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "image_scrapers": ("figures.of_block",),
    "capture_repr": (),  # examples print what they have to say
    "reset_modules": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e6,
    "write_computation_times": False,
    "backreferences_dir": None,
}

html_theme = "furo"
html_title = "captum_kd"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"


class NotebookParser(MystParser):
    """Shows a stored notebook: its text, its code, and the outputs that it was stored with. Nothing is run."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        name = Path(document.settings.env.docname).name
        parts = [self._cell(cell) for cell in json.loads(inputstring)["cells"]]
        parts.insert(1, f"{{download}}`Download this notebook <{name}.ipynb>`, which was stored with its outputs.")
        super().parse("\n\n".join(parts), document)

    def _cell(self, cell: dict[str, Any]) -> str:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            return source
        # Lines with % are IPython's.
        return "\n\n".join([f"````ipython3\n{source}\n````", *map(self._output, cell["outputs"])])

    def _output(self, output: dict[str, Any]) -> str:
        data = output.get("data", {})
        if "image/png" in data:
            return f'<img alt="The figure that this code draws" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
        return f"````text\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n````"


def setup(app: Sphinx) -> None:
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline_math, None), block_renderers=(_block_math, None))
    app.connect("source-read", _as_page)


def _inline_math(translator: Any, node: nodes.Element) -> None:
    """Formulas as MathML, which browsers draw themselves: no script, in the color of the text."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block_math(translator: Any, node: nodes.Element) -> None:
    formulas = ("<wbr>".join(map(_displayed, _breakable(each))) for each in node.astext().split(r"\qquad"))
    translator.body.append('<div class="math">' + " ".join(f"<span>{each}</span>" for each in formulas) + "</div>\n")
    raise nodes.SkipNode


def _displayed(formula: str) -> str:
    """With sums and fractions of full size, on a line that may have others."""
    return str(tex2mathml(formula)).strip().replace("<math ", '<math displaystyle="true" ', 1)


def _breakable(formula: str) -> list[str]:
    """The parts between which a narrow page may break it, before its equals signs: browsers break no formula themselves."""
    parts, depth = [""], 0
    for token in re.findall(r"\\[a-zA-Z]+|\\.|[^\\]", formula, re.DOTALL):
        depth += {"{": 1, "\\left": 1, "}": -1, "\\right": -1}.get(token, 0)
        if depth == 0 and token == "=" and parts[-1].strip():
            parts.append("")
        parts[-1] += token
    return parts


def _as_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Tables are written by scripts, without a page's title, and reached from the page that shows a part of them."""
    if docname.startswith("tables/"):
        title = "" if re.match("# ", source[0]) else f"# All numbers: {Path(docname).name}\n\n"
        source[0] = f"---\norphan: true\n---\n{title}{source[0]}"
