"""A report as text: a table of at most 100 columns for the terminal, and one in Markdown."""

from __future__ import annotations

import textwrap
from typing import Any, Iterable, Mapping, Optional, Sequence

from captum_kd._utils.text import as_markdown, one_line, with_middle_cut
from captum_kd.metrics.report.answers import PLACEBOS, SEED_CONTROL, WIDTH, answers, input_answers
from captum_kd.metrics.report.class_names import names_in, numbered
from captum_kd.metrics.report.nulls import BUT_ONE, Nulls, mean_nulls
from captum_kd.metrics.report.notes import distilled_scores, of_positions, of_sample, percent
from captum_kd.metrics.report.part_text import INPUTS, class_title, last_layer, markdown_parts, plain_classes
from captum_kd.metrics.report.verdict import verdict
from captum_kd.metrics.report.verification import foot
from captum_kd.metrics.scores_table import EXPLANATIONS, OF_PREDICTIONS, OVER_PLACEBOS, PROGRESSION, SCORES, scores_of_pair

MOST_MODELS = 12
"""Models in a table with a column for each."""
GIVEN_ALL_BASES = scores_of_pair(has_teacher=True, all_bases=True)
Row = Mapping[str, Any]


def _columns(*starts: str) -> dict[str, str]:
    return {each.name: each.heading for each in SCORES if each.kind in OF_PREDICTIONS and each.name.startswith(starts)}


# Title of each table; its scores with their column headings.
TABLES: dict[str, dict[str, str]] = {
    "Similarity and relevance": {each.name: each.heading for each in scores_of_pair(has_teacher=False)},
    "The Teacher": {each.name: each.heading for each in scores_of_pair(has_teacher=True) if each.needs_teacher},
    "The Teacher's share over placebo Teachers": {each.name: each.heading for each in SCORES if each.kind == OVER_PLACEBOS},
    "Students given all Bases": {each.name: each.heading for each in GIVEN_ALL_BASES},
    "Predictions: accuracy and calibration": _columns("accuracy_", "ece_"),
    "Predictions: agreement with the Teacher": _columns("agreement", "shared_"),
    "Predictions: divergence from the Teacher, in nats": _columns("kl_", "js_"),
    "Explanations: agreement with the Teacher's maps": {each.name: each.heading for each in SCORES if each.kind == EXPLANATIONS},
    "Progression: similarity with the model's own last layer": {
        each.name: each.heading for each in SCORES if each.kind == PROGRESSION
    },
}
# Subtitles; the second part belongs to reports with labels.
SUBTITLES = {
    "The Teacher": (
        "FSS with the Teacher; its share of distilled and residual features", "; beyond: with the labels removed from the Teacher"
    ),
    "The Teacher's share over placebo Teachers": ("minus the mean share of the placebos", ""),
    "Predictions: accuracy and calibration": ("over Base: Student minus Base; ECE: calibration error", ""),
    "Predictions: agreement with the Teacher": (
        "over Base: Student minus Base", "; same errors, same right: answers shared with the Teacher, not with the Base"
    ),
    "Predictions: divergence from the Teacher, in nats": ("over Base: negative if the Student is closer", ""),
    "Explanations: agreement with the Teacher's maps": ("over Base: Student minus Base", ""),
    "Students given all Bases": (
        "the part that no combination of Bases has", "; distilled: its RS"
    ),
}  # fmt: skip
UNIQUE = "unique"
NULL_ROW = 'Rows "null": the same score of a Base given another Base, mean over the Bases: compare with it, not with 0.'
BUT_ONE_ROW = (
    'Rows "but one": Students given all Bases but one. Compare these, not the row above them, with their "null": the Base '
    "left out, given the others."
)
FSS = "FSS: similarity of two representations, which are the distances between all inputs."
RS = "RS: how closely a representation follows the labels."
HOW_TO_READ = (
    "Distilled: the part that the Student has and the Base lacks; residual: the reverse.",
    'Compare scores with their "null" and read the tests; a score above 0 is no evidence of transfer by itself.',
    "docs/reading.md explains these tables, docs/scores.md each score, docs/inference.md the tests. Notes on this report's "
    "numbers: report.notes.",
)
PLACEBO_TESTS = "Placebo Teachers: are shares and gains larger than another Teacher of this recipe would have?"


def plain(report: Mapping[str, Any]) -> str:
    """The text of ``print(report)``. It shows the mean and range over several pairs of models."""
    rows: Sequence[Row] = report["rows"]
    given_all = {each.name for each in GIVEN_ALL_BASES}
    pairs = list(dict.fromkeys((row["student"], row["base"]) for row in rows if row["score"] not in given_all))
    sentences, warned, check = verdict(report), _cautions(report), report["settings"].get("verification")
    lines = [*["Verdict"] * bool(sentences), *_wrapped(sentences), *[""] * bool(sentences)]
    lines += [*["Cautions"] * bool(warned), *_wrapped(warned), *[""] * bool(warned), *_heading(report, pairs)]
    nulls = mean_nulls(report["seed_control"])
    if nulls:
        lines += textwrap.wrap(f"{NULL_ROW} {BUT_ONE_ROW}" if BUT_ONE in nulls else NULL_ROW, WIDTH)
    for title, columns in TABLES.items():
        shown = [score for score in columns if any(row["score"] == score for row in rows)]
        if shown:
            lines += ["", *textwrap.wrap("".join(_title(title, report)), WIDTH)]
            in_table = {(row["student"], row["base"]) for row in rows if row["score"] in shown}
            lines += _table(rows, {score: columns[score] for score in shown}, len(in_table), nulls)
    if report["seed_control"] is not None:
        lines += ["", *textwrap.wrap(SEED_CONTROL, WIDTH), *_folded(answers(report["seed_control"]["tests"]))]
    if report["placebos"] is not None:
        lines += ["", *textwrap.wrap(PLACEBOS, WIDTH), *_folded(answers(report["placebos"]["tests"]))]
    if (classes := report.get("classes")) is not None:
        title = class_title(classes, f" at {last_layer(classes)}")
        lines += ["", *textwrap.wrap(one_line(title), WIDTH), *_folded(plain_classes(classes, report["settings"]))]
    if (inputs := report.get("inputs")) is not None:
        lines += ["", INPUTS, *_folded(input_answers(inputs))]
    positions = of_positions(report["settings"].get("positions"), any(row["low"] is not None for row in rows))
    last = "" if check is None else foot(check, report["settings"]["n"])
    words = f"{FSS} {RS}" if report["settings"]["class_counts"] else FSS
    lines += ["", "How to read this", *_wrapped([words, *HOW_TO_READ, *filter(None, (positions, last))])]
    return "\n".join(lines)


def _cautions(report: Mapping[str, Any]) -> Sequence[str]:
    """The notes that are cautions. Reports of earlier versions do not say how many are, so all are shown."""
    notes: Sequence[str] = report["notes"]
    return notes[: report["settings"].get("cautions", len(notes))]


def _heading(report: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[str]:
    settings = report["settings"]
    counts = settings["class_counts"]
    several = ", ".join(f"{numbered(int(label), names_in(settings))}: {count}" for label, count in counts.items())
    inputs = "whole inputs"
    if settings["localize"] is not None:
        inputs = f"{percent(settings['keep'])} kept by {settings['localize']} of the {settings['localize_target']} class"
    population = "all at once"
    if settings["population"] == "batch":
        used = settings["batches"]["used"]
        population = f"mean of {used} mini-batches" if used > 1 else "one mini-batch"
    positions = settings.get("positions")
    counted = f"{settings['n']} inputs, {inputs}" if positions is None else of_sample(positions)
    about = f"{counted}, {population}, {settings['estimator']}"
    if settings.get("feature_transform") not in (None, "flatten"):
        about += f", features: {settings['feature_transform']}"
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
    classes = f"Classes: {several}" if counts else "No labels: there are no relevance scores."
    return [
        *textwrap.wrap(one_line(about), WIDTH),
        *textwrap.wrap(one_line(models), WIDTH),
        *textwrap.wrap(one_line(classes), WIDTH, max_lines=2, placeholder=", ..."),
    ]


def _title(title: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """A table's title and its subtitle in parentheses."""
    has_labels = bool(report["settings"]["class_counts"])
    title = title if has_labels else title.replace("Similarity and relevance", "Similarity")
    start, beyond = SUBTITLES.get(title, ("", ""))
    return title, f" ({start}{beyond * has_labels})" if start else ""


def _null_rows(nulls: Nulls, columns: Iterable[str], layer: str) -> dict[str, list[str]]:
    """By the row's name, its cells at a layer; without the rows that are empty."""
    found = {
        name: [_number(means[score, layer]) if (score, layer) in means else "" for score in columns]
        for name, means in nulls.items()
    }
    return {name: cells for name, cells in found.items() if any(cells)}


def _table(rows: Sequence[Row], columns: Mapping[str, str], pairs: int, nulls: Nulls) -> list[str]:
    with_unique = [score for score in distilled_scores(rows) if score in columns]
    heads = [*columns.values(), *(UNIQUE for _ in with_unique)]
    width = 12
    first = WIDTH - width * len(heads)
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["score"] in columns))
    starts = ["layer", *layers, *(name for layer in layers for name in _null_rows(nulls, columns, layer))]
    first = min(first, max(len(one_line(start)) for start in starts) + 1)
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
        for name, parts in _null_rows(nulls, columns, layer).items():
            lines.append((name.ljust(first) + "".join(part.rjust(width) for part in parts)).rstrip())
    return lines


def _cell(rows: Sequence[Row], pairs: int) -> list[str]:
    """A score's value and, below it, its interval and p-value or the range over pairs."""
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values:
        return ["-"]
    if pairs > 1:
        # The Teacher's own scores are the same in all pairs.
        return [_number(sum(values) / len(values)), *([_range(min(values), max(values))] * (min(values) < max(values)))]
    row = rows[0]
    lines = [_number(row["value"])]
    if row.get("low") is not None:
        lines.append(_range(row["low"], row["high"]))
    if row.get("p_value") is not None:
        lines.append(_p_value(row["p_value"]))
    return lines


def _number(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 9999.9995 else f"{value:.3g}"  # divergences have no bound
    return "0.000" if text == "-0.000" else text


def _short(value: float) -> str:
    """Two digits without the leading zero, so that an interval takes 11 characters at most; fewer of large divergences."""
    if abs(value) >= 9.995:
        return f"{value:.0f}" if abs(value) < 999.5 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
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
    found = [with_middle_cut(label, width) for label in labels]
    if len(set(found)) == len(found):
        return found
    room = width - len(str(len(labels))) - 1
    return [f"{number + 1}:{with_middle_cut(label, room)}" for number, label in enumerate(labels)]


def _folded(lines: Iterable[str]) -> list[str]:
    """Lines of tables as they are, and sentences, which begin with a dash, wrapped."""
    return [
        part
        for line in lines
        for part in (textwrap.wrap(one_line(line), WIDTH, subsequent_indent="  ") if line.startswith("- ") else [line])
    ]


def _wrapped(sentences: Iterable[str]) -> list[str]:
    return [
        line
        for each in sentences
        for line in textwrap.wrap(one_line(each), WIDTH, initial_indent="- ", subsequent_indent="  ")
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report in Markdown: verdict, a table of every pair, seed control, notes."""
    rows: Sequence[Row] = report["rows"]
    sentences, nulls = verdict(report), mean_nulls(report["seed_control"])
    lines = [*["**Verdict**", ""] * bool(sentences), *_items(sentences), *[""] * bool(sentences)]
    for title, columns in TABLES.items():
        shown = {score: head for score, head in columns.items() if any(row["score"] == score for row in rows)}
        if not shown:
            continue
        unique = [score for score in distilled_scores(rows) if score in shown]
        heads = ["Student", "Base", "layer", *shown.values(), *(UNIQUE for _ in unique)]
        name, subtitle = _title(title, report)
        lines += [f"**{name}**{subtitle}", ""]
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
        for layer in dict.fromkeys(row["layer"] for row in in_table):
            for name, cells in _null_rows(nulls, shown, layer).items():
                cells = [f"*{name}*", "", as_markdown(layer), *cells, *("" for _ in unique)]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += _similarity_tables(report["similarities"])
    for title, part in (("Seed control", "seed_control"), (PLACEBO_TESTS, "placebos")):
        if report[part] is not None:
            tests = report[part]["tests"]
            caveats = dict.fromkeys(caveat for test in tests for caveat in test["caveats"])
            answered = [str(test["sentence"]).removesuffix(" " + " ".join(test["caveats"])) for test in tests]
            lines += [f"**{title}**", "", *_items(answered), ""]
            lines += [*["About these answers:", ""] * bool(caveats), *_items(caveats), *[""] * bool(caveats)]
    lines += markdown_parts(report)
    lines += ["**Notes**", "", *_items(report["notes"]), ""]
    return "\n".join(lines)


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"- {as_markdown(sentence)}" for sentence in sentences]


def _similarity_tables(similarities: Optional[Mapping[str, Any]]) -> list[str]:
    """A table of FSS for each layer. Two models are in the other tables; many do not fit a page."""
    if similarities is None or not 2 < len(similarities["models"]) <= MOST_MODELS:
        return []
    names = [as_markdown(name) for name in similarities["models"]]
    lines = []
    for layer, matrix in similarities["layers"].items():
        lines += [f"**Similarity (FSS) of all models at {as_markdown(layer)}**", "", f"| | {' | '.join(names)} |"]
        lines += ["|---" + "|--:" * len(names) + "|"]
        lines += [f"| {name} | {' | '.join(map(_optional, row))} |" for name, row in zip(names, matrix)] + [""]
    return lines


def _optional(value: Optional[float]) -> str:
    return "-" if value is None else _number(value)
