"""Pictures of a page: figures as SVG with words for each point, photographs as WebP."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from PIL import Image

from captum_kd._utils.text import one_line

__all__ = ["drawing", "image_source", "photograph"]

MOST_POINTS = 2_000
"""Points with words in a figure. Each needs about 200 bytes."""
PHOTOGRAPH_WIDTH, QUALITY = 1_400, 70
"""The most pixels of a photograph's width, and WebP's quality."""
CSS_INCH = 96
NUMBERS = ("d", "x", "y", "transform")
"""Attributes with coordinates, of which hundredths are enough."""
REFERENCE = re.compile(r"#([\w-]+)(?=\)|$)")
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"<svg": "svg+xml", b"<?xm": "svg+xml"}
"""First bytes of files, and what a browser calls them."""


def drawing(figure: Figure, name: str, alt: str) -> str:
    """A figure as an SVG element in which text is text, and the points of lines with a label have words.

    It has no date and no program's name, so that equal figures give equal texts.

    Args:
        figure (Figure): the figure; it does not change.
        name (str): a prefix that no other drawing on the page has, for the ids inside.
        alt (str): the label for readers who do not see it.
    """
    lines = {f"points-{i}": line for i, line in enumerate(_named_points(figure))}
    before: list[tuple[Line2D, Any]] = [(line, line.get_gid()) for line in lines.values()]
    file = StringIO()
    try:
        for gid, line in lines.items():
            line.set_gid(gid)
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "captum_kd"}):
            metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(file, format="svg", metadata=metadata, transparent=True)
    finally:
        for line, old in before:
            line.set_gid(old)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)  # styles would hold for the whole page
    groups = [(group, lines[group.get("id", "")]) for group in root.iter(f"{{{SVG}}}g") if group.get("id") in lines]
    if sum(np.size(line.get_xdata()) for line in lines.values()) <= MOST_POINTS:
        for group, line in groups:
            _put_words(group, line)
    _shorten(root, name)
    width = figure.get_size_inches()[0] * CSS_INCH
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib.update({"class": "drawing", "role": "img", "aria-label": alt, "style": f"--width: {width:.0f}px"})
    return _as_html(root)


def photograph(picture: Figure | Path) -> bytes:
    """A figure or file with images as a WebP file of at most 1,400 pixels in width."""
    source = BytesIO()
    if isinstance(picture, Path):
        source.write(picture.read_bytes())
    else:
        picture.savefig(source, format="png", dpi=min(130.0, PHOTOGRAPH_WIDTH / picture.get_size_inches()[0]))
    with Image.open(source) as image:
        image = image.convert("RGBA" if image.mode in ("P", "LA", "RGBA") else "RGB")
        image.thumbnail((PHOTOGRAPH_WIDTH, 16_383), Image.Resampling.LANCZOS)  # the largest height in WebP
        file = BytesIO()
        image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def image_source(content: bytes, where: str) -> str:
    """The bytes of a PNG, JPEG, WebP or SVG file as the source of an image.

    Raises:
        ValueError: another kind of file.
    """
    kind = next((kind for start, kind in KINDS.items() if content.lstrip().startswith(start)), None)
    if kind is None:
        raise ValueError(f"{where} is no PNG, JPEG, WebP or SVG file. Save the picture as one of these.")
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


# ----------------------------------------------------------------------------- points


def _named_points(figure: Figure) -> list[Line2D]:
    """The lines with markers and a label. Without its label, a value says little."""
    lines = [line for axis in figure.axes for line in axis.lines if not str(line.get_label()).startswith("_")]
    return [line for line in lines if line.get_marker() not in ("", " ", "None", "none", None)]


def _put_words(group: ElementTree.Element, line: Line2D) -> None:
    """Puts a title into each marker of a line. Drawings leave out points outside their axes, so places tell which is which."""
    axis = line.axes
    if not isinstance(axis, Axes):
        return
    points = np.column_stack([np.asarray(each, float) for each in (line.get_xdata(), line.get_ydata())])
    scale = axis.figure.dpi / 72.0
    places = line.get_transform().transform(points) / scale
    places[:, 1] = axis.figure.bbox.height / scale - places[:, 1]
    for parent in list(group.iter(f"{{{SVG}}}g")):
        for number, mark in enumerate(list(parent)):
            if mark.tag != f"{{{SVG}}}use" or mark.get("x") is None:
                continue
            away = np.abs(places - (float(mark.get("x", 0)), float(mark.get("y", 0)))).sum(1)
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = _words(axis, line, *points[int(np.nanargmin(away))])
            point = ElementTree.Element(f"{{{SVG}}}g", {"class": "point"})
            point.extend([title, mark])
            parent[number] = point


def _words(axis: Axes, line: Line2D, x: float, y: float) -> str:
    """Panel, series, category and value of a point. Axes with ticks at fixed places hold categories."""
    parts = [axis.get_title() or axis.get_title("left"), str(line.get_label())]
    numbers = []
    for side, value in ((axis.xaxis, x), (axis.yaxis, y)):
        if not isinstance(side.get_major_locator(), FixedLocator):
            numbers.append((side, value))
        elif len(ticks := side.get_majorticklocs()):
            parts.append(side.get_ticklabels()[int(np.argmin(np.abs(ticks - value)))].get_text())
    if len(numbers) == 2:
        parts.append(f"{axis.get_xlabel()} {axis.xaxis.get_major_formatter()(x)}")
    words = ", ".join(dict.fromkeys(one_line(part.replace(r"\$", "$")) for part in parts if part))
    return f"{words}: {numbers[-1][1]:.3f}" if numbers else words


def _shorten(root: ElementTree.Element, name: str) -> None:
    """Half of the size: styles become classes, ids that nothing refers to go, numbers keep two digits. All names get a prefix."""
    used = {found for element in root.iter() for value in element.attrib.values() for found in REFERENCE.findall(value)}
    ids = {old: f"{name}-{number}" for number, old in enumerate(sorted(used))}
    classes: dict[str, str] = {}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in ids:
                del element.attrib[key]
            elif key == "id":
                element.set(key, ids[value])
            elif key == "style":
                del element.attrib[key]
                element.set("class", classes.setdefault(value, f"{name}s{len(classes)}"))
            elif key in NUMBERS:
                element.set(key, re.sub(r"(\.\d\d)\d+", r"\1", value))
            elif REFERENCE.search(value) and (key == "clip-path" or key == f"{{{LINK}}}href"):
                element.set(key, REFERENCE.sub(lambda found: f"#{ids[found[1]]}", value))
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = "".join(f".{short}{{{text}}}" for text, short in classes.items())
    root.insert(0, style)


def _as_html(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text)
