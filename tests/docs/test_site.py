"""The site builds without a warning, and everything in it that points somewhere inside points at something."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Iterator, Optional
from urllib.parse import unquote, urlsplit

import pytest
from pages import DOCS, ROOT

pytest.importorskip("sphinx_gallery")

POINTERS = {"a": ("href",), "link": ("href",), "img": ("src",), "script": ("src",), "source": ("src", "srcset")}


class Html(HTMLParser):
    """What a page of HTML can be pointed at by, and what it points at itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.names.update(found[key] for key in ("id", "name") if key in found)
        self.targets.extend(found[key] for key in POINTERS.get(tag, ()) if key in found)


def broken_pointers(site: Path) -> Iterator[str]:
    """Links, pictures and scripts of a site that lead to no file of it, or to no place in that file."""
    pages = {path: Html(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:  # elsewhere, or data in the page
                continue
            leads_to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not leads_to.is_file() or (place and leads_to in pages and place not in pages[leads_to].names):
                yield f"{path.relative_to(site)}: {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as docs/contributing.md says."""
    output = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-E", "-q", str(DOCS), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_every_page_is_built(site: Path) -> None:
    sources = {path.relative_to(DOCS).with_suffix(".html") for folder in (".", "api") for path in (DOCS / folder).glob("*.md")}
    assert sources <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_links_and_pictures_lead_somewhere(site: Path) -> None:
    assert list(broken_pointers(site)) == []


def test_a_formula_can_be_broken_before_its_equals_signs(site: Path) -> None:
    """Browsers break no formula; one that is wider than a telephone would be cut off."""
    formulas = re.findall(r'<div class="math">(.*?)</div>', (site / "what_it_measures.html").read_text(), re.DOTALL)
    fss = next(each for each in formulas if "0.5" in each)
    assert [part.count("<mo>=</mo>") for part in fss.split("</math>")] == [0, 1, 1, 1, 0]


def test_broken_pointers_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="here"></p><a href="#here"></a><a href="#nowhere"></a><a href="sub/other.html#there"></a>'
        '<a href="sub/other.html#gone"></a><img src="sub/a%20b.png"><img src="sub/none.png"><a href="https://else.where/x"></a>'
    )
    (tmp_path / "sub" / "other.html").write_text('<h1 id="there"></h1><a href="../index.html#here"></a><a href="../no.html"></a>')
    (tmp_path / "sub" / "a b.png").write_bytes(b"")
    assert sorted(broken_pointers(tmp_path)) == [
        "index.html: #nowhere",
        "index.html: sub/none.png",
        "index.html: sub/other.html#gone",
        "sub/other.html: ../no.html",
    ]
