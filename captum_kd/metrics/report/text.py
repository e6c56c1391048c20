"""A report as text: a table of at most 100 columns for the terminal, and one in Markdown."""

from __future__ import annotations

import textwrap
from typing import Any, Iterable, Mapping, Optional, Sequence

from captum_kd._utils.text import as_markdown, one_line
from captum_kd.metrics.report.notes import percent
from captum_kd.metrics.scores_table import PROGRESSION, SCORES, scores_of_pair

WIDTH = 100
GIVEN_ALL_BASES = scores_of_pair(has_teacher=True, all_bases=True)
Row = Mapping[str, Any]

# Title of each table; its scores with their column headings.
TABLES: dict[str, dict[str, str]] = {
    "Similarity and relevance": {each.name: each.heading for each in scores_of_pair(has_teacher=False)},
    "The Teacher": {each.name: each.heading for each in scores_of_pair(has_teacher=True) if each.needs_teacher},
    "Students given all Bases": {each.name: each.heading for each in GIVEN_ALL_BASES},
    "Progression: similarity with the model's own last layer": {
        each.name: each.heading for each in SCORES if each.kind == PROGRESSION
    },
}
SUBTITLES = {
    "The Teacher": "the Teacher's share of distilled and residual features; beyond: with the labels removed from the Teacher",
    "Students given all Bases": "the part that no combination of Bases has: its RS, the Teacher's share, and beyond the labels",
}
UNIQUE = "unique"
HAVE_UNIQUE = ("rs_distilled", "rs_distilled_all")


def plain(report: Mapping[str, Any]) -> str:
    """The text of ``print(report)``. It shows the mean and range over several pairs of models."""
    rows: Sequence[Row] = report["rows"]
    given_all = {each.name for each in GIVEN_ALL_BASES}
    pairs = list(dict.fromkeys((row["student"], row["base"]) for row in rows if row["score"] not in given_all))
    lines = _heading(report, pairs)
    for title, columns in TABLES.items():
        shown = [score for score in columns if any(row["score"] == score for row in rows)]
        if shown:
            lines += ["", title + (f" ({SUBTITLES[title]})" if title in SUBTITLES else "")]
            lines[-1:] = textwrap.wrap(lines[-1], WIDTH)
            in_table = {(row["student"], row["base"]) for row in rows if row["score"] in shown}
            lines += _table(rows, {score: columns[score] for score in shown}, len(in_table))
    if report["seed_control"] is not None:
        lines += ["", "Seed control: would another training run give the same result?"]
        lines += _wrapped(_verdicts(report["seed_control"]["tests"]))
    lines += ["", "How to read this"]
    lines += _wrapped(report["notes"])
    return "\n".join(lines)


def _heading(report: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[str]:
    settings = report["settings"]
    counts = settings["class_counts"]
    several = ", ".join(f"{label}: {count}" for label, count in counts.items())
    inputs = "whole inputs"
    if settings["localize"] is not None:
        inputs = f"{percent(settings['keep'])} kept by {settings['localize']} of the {settings['localize_target']} class"
    population = "pooled"
    if settings["population"] == "batch":
        used = settings["batches"]["used"]
        population = f"mean of {used} mini-batches" if used > 1 else "one mini-batch"
    about = f"{settings['n']} inputs, {inputs}, {population}, {settings['estimator']}"
    if any(row["low"] is not None for row in report["rows"]):
        about += f", {percent(settings['confidence'])} intervals"
    if len(pairs) == 1:
        models = f"Student: {pairs[0][0]}. Base: {pairs[0][1]}."
    else:
        students, bases = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
        models = (
            f"Students: {', '.join(students)}. Bases: {', '.join(bases)}. The tables show the mean over their {len(pairs)} pairs "
            "(given all Bases: over the Students) and, below it, the range. The report's rows have the scores and intervals of "
            "each pair."
        )
    return [
        *textwrap.wrap(one_line(about), WIDTH),
        *textwrap.wrap(one_line(models), WIDTH),
        *textwrap.wrap(one_line(f"Classes: {several}"), WIDTH, max_lines=2, placeholder=", ..."),
    ]


def _table(rows: Sequence[Row], columns: Mapping[str, str], pairs: int) -> list[str]:
    with_unique = [score for score in columns if score in HAVE_UNIQUE]
    heads = [*columns.values(), *(UNIQUE for _ in with_unique)]
    width = 12
    first = WIDTH - width * len(heads)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    first = min(first, max(len("layer"), *(len(one_line(layer)) for layer in layers)) + 1)
    shown = _shortened([one_line(layer) for layer in layers], first - 1)
    lines = ["layer".ljust(first) + "".join(head.rjust(width) for head in heads)]
    for layer in layers:
        cells = [_cell([row for row in rows if row["layer"] == layer and row["score"] == score], pairs) for score in columns]
        for score in with_unique:
            shares = [row["unique_share"] for row in rows if row["layer"] == layer and row["score"] == score]
            cells.append(_cell([{"value": share} for share in shares], pairs))
        for number in range(max(len(cell) for cell in cells)):
            start = shown[layers.index(layer)] if number == 0 else ""
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append((start.ljust(first) + "".join(part.rjust(width) for part in parts)).rstrip())
    return lines


def _cell(rows: Sequence[Row], pairs: int) -> list[str]:
    """A score's value and, below it, its interval and p-value or the range over pairs."""
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values:
        return ["-"]
    if pairs > 1:
        return [_number(sum(values) / len(values)), _range(min(values), max(values))]
    row = rows[0]
    lines = [_number(row["value"])]
    if row.get("low") is not None:
        lines.append(_range(row["low"], row["high"]))
    if row.get("p_value") is not None:
        lines.append(_p_value(row["p_value"]))
    return lines


def _number(value: float) -> str:
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def _short(value: float) -> str:
    """Two digits without the leading zero, so that an interval takes 11 characters at most."""
    text = f"{value:.2f}"
    if text.endswith("1.00"):
        return text.removesuffix(".00")
    return text.replace("0.", ".", 1).replace("-.00", ".00")


def _range(low: float, high: float) -> str:
    return f"[{_short(low)},{_short(high)}]"


def _p_value(p: float) -> str:
    return f"p={_short_p(p)}" if p >= 0.001 else "p<.001"


def _short_p(p: float) -> str:
    return f"{p:.3f}".replace("0.", ".", 1) if p < 0.9995 else "1"


def _shortened(labels: Sequence[str], width: int) -> list[str]:
    """Labels that fit the width, with their middle left out; numbered if two would look alike."""

    def cut(text: str, room: int) -> str:
        end = (room - 1) // 2
        return text if len(text) <= room else text[: room - 1 - end] + "~" + text[len(text) - end :]

    found = [cut(label, width) for label in labels]
    if len(set(found)) == len(found):
        return found
    return [f"{number + 1}:{cut(label, width - len(str(len(labels))) - 1)}" for number, label in enumerate(labels)]


def _verdicts(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per test, or one for all layers if no layer decides a question."""
    families: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for test in tests:
        families.setdefault((test["group"], test["score"]), []).append(test)
    sentences = []
    for family in families.values():
        if len(family) == 1 or any(test["decision"] is not None or test["statistic"] is None for test in family):
            sentences += [test["sentence"] for test in family]
            continue
        first = family[0]
        names = ", ".join(test["layer"] for test in family)
        differences = ", ".join(f"{test['statistic']:+.3f}" for test in family)
        sentence = first["sentence"].replace(f"{first['layer']}:", f"{names}:", 1)
        sentences.append(sentence.replace(f"(difference {first['statistic']:+.3f})", f"(differences {differences})"))
    return sentences


def _wrapped(sentences: Iterable[str]) -> list[str]:
    return [
        line
        for each in sentences
        for line in textwrap.wrap(one_line(each), WIDTH, initial_indent="- ", subsequent_indent="  ")
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report in Markdown: a table of every pair, seed control, notes."""
    rows: Sequence[Row] = report["rows"]
    lines = []
    for title, columns in TABLES.items():
        shown = {score: head for score, head in columns.items() if any(row["score"] == score for row in rows)}
        if not shown:
            continue
        unique = [score for score in shown if score in HAVE_UNIQUE]
        heads = ["Student", "Base", "layer", *shown.values(), *(UNIQUE for _ in unique)]
        lines += [f"**{title}**" + (f" ({SUBTITLES[title]})" if title in SUBTITLES else ""), ""]
        lines += ["| " + " | ".join(heads) + " |", "|---|---|---" + "|--:" * (len(heads) - 3) + "|"]
        in_table = [row for row in rows if row["score"] in shown]
        for student, base, layer in dict.fromkeys((row["student"], row["base"], row["layer"]) for row in in_table):
            own = {
                row["score"]: row
                for row in in_table
                if (row["student"], row["base"], row["layer"]) == (student, base, layer)
            }
            cells = [" ".join(_cell([own[score]] if score in own else [], 1)) for score in shown]
            cells += [_optional(own[score]["unique_share"]) for score in unique]
            lines.append("| " + " | ".join([*map(as_markdown, (student, base, layer)), *cells]) + " |")
        lines.append("")
    if report["seed_control"] is not None:
        lines += ["**Seed control**", "", *(f"- {as_markdown(test['sentence'])}" for test in report["seed_control"]["tests"]), ""]
    lines += ["**Notes**", "", *(f"- {as_markdown(note)}" for note in report["notes"]), ""]
    return "\n".join(lines)


def _optional(value: Optional[float]) -> str:
    return "-" if value is None else _number(value)
