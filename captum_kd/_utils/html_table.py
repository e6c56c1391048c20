"""A small table for the output of a notebook, without scripts."""

from __future__ import annotations

from html import escape
from typing import NamedTuple, Optional, Sequence, Union

from captum_kd._utils.text import one_line

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


class Shaded(NamedTuple):
    """A cell whose background shows a value: from white at 0 to blue at 1, or to orange at -1."""

    text: str
    value: Optional[float]

    @property
    def style(self) -> str:
        if self.value is None:
            return ""
        strength = min(abs(self.value), 1.0)
        red, green, blue = (round(255 + strength * (end - 255)) for end in (ORANGE if self.value < 0 else BLUE))
        # The color of the text too: notebooks have light and dark themes.
        return f";background:rgb({red},{green},{blue});color:{'#fff' if strength > 0.6 else '#000'}"


def html_table(head: Sequence[str], rows: Sequence[Sequence[Union[str, Shaded]]], caption: str) -> str:
    """A table whose first column names the rows; names are escaped. A wide one gets a scroll bar."""
    lines = [f'<div style="overflow-x:auto"><p>{_text(caption)}</p><table><thead><tr>']
    lines += [f'<th scope="col">{_text(each)}</th>' for each in head]
    lines += ["</tr></thead><tbody>"]
    for name, *cells in rows:
        lines.append(f'<tr><th scope="row">{_text(name if isinstance(name, str) else name.text)}</th>')
        for cell in cells:
            text, style = (cell, "") if isinstance(cell, str) else (cell.text, cell.style)
            lines.append(f'<td style="text-align:right{style}">{_text(text)}</td>')
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _text(text: str) -> str:
    return escape(one_line(text))
