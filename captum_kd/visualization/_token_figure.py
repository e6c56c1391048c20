"""Drawing of sentences in rows, words wrapped into lines."""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any, Callable, NamedTuple, Optional, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from captum_kd.visualization._panels import SIGNS, draw_bar
from captum_kd.visualization._sentences import Sentences
from captum_kd.visualization._style import LABEL_SIZE, LINE_HEIGHT, PAGE_WIDTH, TEXT_SIZE, TITLE_SIZE, wrapped
from captum_kd.visualization._words import Word

# Inches.
_MARGIN, _PAD, _SPACE, _LINE, _BOX = 0.06, 0.02, 0.035, 0.19, 0.16
_NAMES, _BAR = 1.35, 2.05
# Text is measured as in print. On screens it is up to 5 % wider, since its letters begin at whole pixels.
_DPI, _WIDER = 600, 1.05

COLORS = colormaps[SIGNS["all"]]
"""The colors of values from -1 (0.0) to 1 (1.0)."""


class _Box(NamedTuple):
    """A word, or a part of a very long one, at its place in a paragraph."""

    word: int
    text: str
    x: float
    line: int
    width: float


def draw_sentences(figure: Figure, sentences: Sentences, titles: Optional[Sequence[str]], title: Optional[str]) -> None:
    """Draws into an empty figure from top to bottom, and gives it its height."""
    figure.set_size_inches(PAGE_WIDTH, 1.0)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # in inches from the upper left corner
    axis.set_axis_off()
    y = _MARGIN
    if title is not None:
        y = _draw_text(axis, y, wrapped(title, PAGE_WIDTH, TITLE_SIZE), TITLE_SIZE) + 0.06
    for i, words in enumerate(sentences.words):
        if titles is not None:
            y = _draw_text(axis, y, wrapped(titles[i], 0.9 * PAGE_WIDTH, LABEL_SIZE), LABEL_SIZE, fontweight="bold") + 0.03
        boxes = _laid_out(words, PAGE_WIDTH - _NAMES - 2 * _MARGIN)
        for name in sentences.maps:
            below = _draw_text(axis, y + 0.02, wrapped(name, _NAMES - 0.1, LABEL_SIZE), LABEL_SIZE)
            note = sentences.sums(name, i)
            if note is not None:
                below = _draw_text(axis, below, note.replace(", ", ",\n"), TEXT_SIZE, color="0.35")
            y = max(_draw_words(axis, sentences, boxes, i, name, y), below) + 0.05
        y += 0.1
    scales = [(wrapped(text, _BAR, TEXT_SIZE), top) for text, top in sentences.scales()]
    columns = min(3, len(scales))
    row_height = 0.3 + LINE_HEIGHT * max(1 + text.count("\n") for text, _ in scales)
    height = y + row_height * ceil(len(scales) / columns) + _MARGIN
    figure.set_size_inches(PAGE_WIDTH, height)
    axis.set(xlim=(0.0, PAGE_WIDTH), ylim=(height, 0.0))
    for place, (text, top) in enumerate(scales):
        row, column = divmod(place, columns)
        left, bottom = _MARGIN + column * (_BAR + 0.25), height - y - row_height * row - 0.1
        bar = figure.add_axes((left / PAGE_WIDTH, bottom / height, _BAR / PAGE_WIDTH, 0.08 / height))
        draw_bar(figure, bar, top, "all", SIGNS["all"])
        bar.set_xlabel(text, fontsize=TEXT_SIZE, labelpad=2.0)


def _draw_text(axis: Axes, y: float, text: str, size: float, **style: Any) -> float:
    """Draws lines at the left margin; returns the height below them."""
    axis.text(_MARGIN, y, text, fontsize=size, va="top", **style)
    return y + LINE_HEIGHT * size / TEXT_SIZE * (1 + text.count("\n"))


def _draw_words(axis: Axes, sentences: Sentences, boxes: Sequence[_Box], i: int, name: str, top: float) -> float:
    """Draws the lines of a paragraph; returns the height below them."""
    values, words = sentences.values(name, i), sentences.words[i]
    for box in boxes:
        color = COLORS(0.5 + 0.5 * values[box.word] / sentences.tops[name][i])
        x, y = _NAMES + box.x, top + box.line * _LINE
        axis.add_artist(Rectangle((x, y), box.width, _BOX, facecolor=color, edgecolor="0.85", linewidth=0.4))
        axis.text(
            x + box.width / 2, y + 0.115, box.text, ha="center", va="baseline", parse_math=False,
            color="white" if is_dark(to_rgb(color)) else "black", fontproperties=_font(words[box.word]),
        )  # fmt: skip
    return top + (1 + max((box.line for box in boxes), default=0)) * _LINE


def _font(word: Word) -> FontProperties:
    """Special tokens are small and slanted; gray letters would not be legible on all colors."""
    return FontProperties(size=TEXT_SIZE, style="italic") if word.is_special else FontProperties(size=LABEL_SIZE)


def is_dark(color: tuple[float, float, float]) -> bool:
    """Whether white text has more contrast on the color than black text, by the relative luminance of WCAG."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.179


# ----------------------------------------------------------------------------- lines


def _laid_out(words: Sequence[Word], room: float) -> list[_Box]:
    """The words in lines of at most ``room`` inches. Words without a space between them stay in one line if they fit."""
    renderer: Any = RendererAgg(1, 1, _DPI)  # type: ignore[no-untyped-call]

    def width(text: str, font: FontProperties) -> float:
        return float(renderer.get_text_width_height_descent(text, font, False)[0]) / _DPI * _WIDER + 2 * _PAD

    boxes: list[_Box] = []
    x, line = 0.0, 0
    for group in _glued_groups(words):
        parts = [
            (i, text, wide) for i in group for text, wide in _split(words[i].text, room, partial(width, font=_font(words[i])))
        ]
        space = 0.0 if x == 0.0 else _SPACE
        if x > 0.0 and x + space + sum(part[2] for part in parts) > room:
            x, line, space = 0.0, line + 1, 0.0
        x += space
        for i, text, wide in parts:
            if x > 0.0 and x + wide > room:
                x, line = 0.0, line + 1
            boxes.append(_Box(i, text, x, line, wide))
            x += wide
    return boxes


def _glued_groups(words: Sequence[Word]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, word in enumerate(words):
        if groups and word.is_glued:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _split(text: str, room: float, width: Callable[[str], float]) -> list[tuple[str, float]]:
    """The text in parts of at most ``room`` inches, and their widths."""
    parts = []
    while (whole := width(text)) > room and len(text) > 1:
        most = max(1, int(len(text) * room / whole))
        while most > 1 and width(text[:most]) > room:
            most -= 1
        parts.append((text[:most], width(text[:most])))
        text = text[most:]
    return [*parts, (text, whole)]
