"""A self-contained page of sentences in rows."""

from __future__ import annotations

from html import escape
from typing import Optional, Sequence

from matplotlib.colors import to_hex, to_rgb

from captum_kd._utils.text import printable
from captum_kd.visualization._sentences import Sentences, signed
from captum_kd.visualization._token_figure import COLORS, is_dark
from captum_kd.visualization._words import Word

# The dark scheme's color of 0, and its ends for values below and above 0: white text is legible on all of them.
_DARK, _DARK_ENDS = "#1c1c1e", ("#2166ac", "#b2182b")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; background: #fff; color: #000; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
section { margin-top: 1.2rem; }
h1, h2, .name { overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: 9.5rem 1fr; gap: 0 .8rem; margin: .35rem 0; }
.row p { margin: 0; line-height: 1.75; overflow-wrap: anywhere; }
.name small { display: block; opacity: .75; }
.w, .bar { background: var(--light); }
.w { padding: .1em .15em; border-radius: .15em; color: var(--ink); }
.w { -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.special { font-size: .85em; font-style: italic; }
.scales { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; font-size: .85rem; }
.scale { width: 15rem; max-width: 100%; }
.bar { height: .7rem; border: 1px solid #8888; }
.ends { display: flex; justify-content: space-between; }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr; } .name small { display: inline; margin-left: .5em; } }
@media (prefers-color-scheme: dark) {
  body { background: #1c1c1e; color: #eee; }
  .w, .bar { background: var(--dark); }
  .w { color: #fff; }
}
"""


def page(sentences: Sentences, titles: Optional[Sequence[str]], title: Optional[str]) -> str:
    """The page as one text."""
    heading = _text(title or "Token maps")
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>",
        sentence_rows(sentences, titles),
    ]
    return "\n".join([*parts, "</body>\n</html>\n"])


def sentence_rows(sentences: Sentences, titles: Optional[Sequence[str]], heading: str = "h2") -> str:
    """The legend and the sentences, without the page around them."""
    parts = [_legend(sentences)]
    for i, words in enumerate(sentences.words):
        parts.append("<section>" if titles is None else f'<section>\n<{heading} dir="auto">{_text(titles[i])}</{heading}>')
        for name in sentences.maps:
            note = sentences.sums(name, i)
            small = "" if note is None else f"<small>{_text(note)}</small>"
            spans = [
                ("" if word.is_glued else " ") + _span(sentences, i, name, word, value)
                for word, value in zip(words, sentences.values(name, i))
            ]
            parts.append(f'<div class="row"><div class="name">{_text(name)}{small}</div><p dir="auto">{"".join(spans)}</p></div>')
        parts.append("</section>")
    return "\n".join(parts)


def _span(sentences: Sentences, i: int, name: str, word: Word, value: float) -> str:
    tokens = [sentences.tokens[i][position] for position in word.positions]
    values = [sentences.maps[name][i][position] for position in word.positions]
    hover = f"{' '.join(tokens)}: {signed(value)}"
    if len(tokens) > 1:
        hover += f" ({' '.join(map(signed, values))})"
    light, dark = shades(value / sentences.tops[name][i])
    ink = "#fff" if is_dark(to_rgb(light)) else "#000"
    return (
        f'<span class="w{" special" * word.is_special}" style="--light:{light};--dark:{dark};--ink:{ink}" '
        f'title="{_text(hover)}">{_text(word.text)}</span>'
    )


def _legend(sentences: Sentences) -> str:
    stops = [shades(step / 4) for step in range(-4, 5)]
    light, dark = (f"linear-gradient(to right,{','.join(colors)})" for colors in zip(*stops))
    bar = f'<div class="bar" style="--light:{light};--dark:{dark}"></div>'
    scales = []
    for text, top in sentences.scales():
        low, high = ("-own max.", "own max.") if top is None else (signed(-top), signed(top))
        ends = f'<div class="ends"><span>{low}</span><span>0</span><span>{high}</span></div>'
        scales.append(f'<div class="scale">{bar}{ends}{_text(text)}</div>')
    return f'<div class="scales">{"".join(scales)}</div>'


def shades(share: float) -> tuple[str, str]:
    """The colors of a value between -1 and 1 in the light and in the dark scheme."""
    zero, end = to_rgb(_DARK), to_rgb(_DARK_ENDS[share > 0])
    red, green, blue = (start + abs(share) * (stop - start) for start, stop in zip(zero, end))
    return to_hex(COLORS(0.5 + 0.5 * share)), to_hex((red, green, blue))


def _text(text: str) -> str:
    return escape(printable(text).replace("\n", "\\n"))
