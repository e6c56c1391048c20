"""A report in a notebook: the verdict and one table, without scripts."""

from __future__ import annotations

from html import escape
from statistics import mean
from typing import Any, Mapping, Optional, Sequence

from captum_kd._utils.text import one_line
from captum_kd.metrics.report.nulls import NULL, mean_nulls
from captum_kd.metrics.report.verdict import verdict

HEADINGS = {
    "fss": "FSS",
    "rs_student": "RS Student",
    "rs_base": "RS Base",
    "rs_distilled": "RS of the distilled part",
    "teacher_distilled": "Teacher's share of it",
    "teacher_distilled_over_placebos": "share over placebo Teachers",
}
LEGEND = "Means over pairs of models; in parentheses the same of a Base given another Base."
STAR = "* p <= 0.05 over seeds of the Base, corrected over layers."
STAR_OF_PLACEBOS = "* p <= 0.05, corrected over layers: over seeds of the Base; for shares over placebo Teachers, by a t test."


def notebook_html(report: Mapping[str, Any]) -> str:
    """The report as HTML for a notebook's output; names are escaped."""
    rows, control, placebos = report["rows"], report["seed_control"], report["placebos"]
    nulls = mean_nulls(control).get(NULL, {})
    columns = {score: head for score, head in HEADINGS.items() if any(row["score"] == score for row in rows)}
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["score"] in columns))
    groups = {each["group"]: each["students"] for each in (control or {}).get("groups", ())} or {None: None}
    tests = [] if control is None else control["tests"]
    if placebos is not None:  # the share alone may be any Teacher's, and its test over seeds says yes too often
        tests = [test for test in tests if not test["score"].startswith("teacher_")]
        tests += [{**test, "score": f"{test['score']}_over_placebos"} for test in placebos["tests"]]
    yes = {(test["group"], test["score"], test["layer"]) for test in tests if test["decision"]}
    has_groups = list(groups) != [None]
    lines = ["<div>", *["<ul>"] * bool(found := verdict(report)), *(f"<li>{_text(each)}</li>" for each in found)]
    lines += [*["</ul>"] * bool(found), "<table><thead><tr>"]
    lines += [f"<th>{_text(head)}</th>" for head in (*["Students"] * has_groups, "layer", *columns.values())]
    lines += ["</tr></thead><tbody>"]
    for group, students in groups.items():
        for layer in layers:
            cells = [f"<td>{_text(str(group))}</td>"] * has_groups + [f"<td>{_text(layer)}</td>"]
            for score in columns:
                value = _mean(rows, score, layer, students)
                star, null = "*" * ((group, score, layer) in yes), nulls.get((score, layer))
                shown = "-" if value is None else f"{value:.3f}{star}" + ("" if null is None else f" ({null:.3f})")
                cells.append(f'<td style="text-align:right;white-space:nowrap">{shown}</td>')
            lines.append(f"<tr>{''.join(cells)}</tr>")
    legend = f"{LEGEND} {STAR if placebos is None else STAR_OF_PLACEBOS}" if nulls else "Means over pairs of models."
    return "\n".join([*lines, "</tbody></table>", f"<p>{_text(legend)} More: print(report), report.to_html(path).</p>", "</div>"])


def _text(text: str) -> str:
    return escape(one_line(text))


def _mean(
    rows: Sequence[Mapping[str, Any]], score: str, layer: str, students: Optional[Sequence[str]]
) -> Optional[float]:
    values = [
        row["value"]
        for row in rows
        if (row["score"], row["layer"]) == (score, layer)
        and row["value"] is not None
        and (students is None or row["student"] in students)
    ]
    return mean(values) if values else None
