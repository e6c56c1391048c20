"""The parts of a report on classes and on single inputs as text."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Optional, Sequence

from captum_kd._utils.text import as_markdown, one_line, with_middle_cut
from captum_kd.metrics.report.answers import class_answers
from captum_kd.metrics.report.class_names import names_in, numbered
from captum_kd.metrics.scores_table import PREDICTIONS_LAYER

COLUMNS = {
    "rs_distilled": "distilled",
    "rs_residual": "residual",
    "teacher_distilled": "T. dist.",
    "teacher_residual": "T. resid.",
    "accuracy_over_base": "accuracy",
    "agreement_over_base": "agreement",
}
"""Scores in the tables of classes, with their headings."""
OF_FEATURES = ("rs_distilled", "rs_residual")
LEGEND = (
    "distilled, residual: relevance of the {word}, one against the rest; T.: the Teacher's share of these features within the "
    "rows of the {word}; null: the score before it of a Base given another Base; accuracy, agreement with the Teacher: Student's "
    "minus Base's"
)
INPUTS = "Inputs: does another seed have the same inputs on top?"
MOST_CLASSES = 12
"""Classes in the table of ``print(report)``."""
MOST_INPUTS = 10
"""Inputs in a table in Markdown."""


def class_title(classes: Mapping[str, Any], where: str = "") -> str:
    word = str(classes["of"])
    title = f"{'Classes' if word == 'class' else 'Groups of inputs'}{where}"
    return f"{title}: means over the pairs of models ({LEGEND.format(word=word)})"


def last_layer(classes: Mapping[str, Any]) -> str:
    """The layer in the table of ``print(report)``."""
    return layers_with_features(classes["rows"])[-1]


def plain_classes(classes: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """A table of the last layer, of at most 12 classes."""
    layer, names = last_layer(classes), names_in(settings, classes)
    heads, table = class_table(classes, layer, names)
    lines = [
        with_middle_cut(one_line(name), 19 - len(size)).ljust(20 - len(size)) + size + "".join(cell.rjust(10) for cell in cells)
        for name, (size, *cells) in [(str(classes["of"]), heads), *table[:MOST_CLASSES]]
    ]
    if len(table) > MOST_CLASSES:
        lines.append(f"... and {len(table) - MOST_CLASSES} more in report.classes, as well as intervals and the other layers")
    answers = class_answers(classes, layer, plural(classes["of"]), names)
    where = f"Seed control at {layer} and of predictions (exact test, Holm over the {plural(classes['of'])}):"
    return [*lines, *[f"- {where}"] * bool(answers), *answers]


def input_sentences(inputs: Mapping[str, Any]) -> list[str]:
    return [each["sentence"] for each in inputs["reliability"]]


def markdown_parts(report: Mapping[str, Any]) -> list[str]:
    """Tables of classes at all layers and of the inputs with the largest parts, with their tests."""
    lines: list[str] = []
    classes, inputs = report.get("classes"), report.get("inputs")
    if classes is not None:
        class_names = names_in(report["settings"], classes)
        lines += [f"**{class_title(classes)}**", ""]
        for layer in layers_with_features(classes["rows"]):
            heads, table = class_table(classes, layer, class_names)
            first = f"{classes['of']} ({as_markdown(str(layer))})"
            lines += _markdown_table([first, *heads], [[as_markdown(name), *cells] for name, cells in table])
        for layer in layers_with_features(classes["rows"]):
            answers = class_answers(classes, layer, plural(classes["of"]), class_names)
            lines += [f"- {as_markdown(f'At {layer}: ' + each[2:])}" for each in answers] + [""] * bool(answers)
    if inputs is not None:
        lines += [f"**{INPUTS}**", "", *(f"- {as_markdown(each)}" for each in input_sentences(inputs)), ""]
        score = inputs["reliability"][-1]["score"] if inputs["reliability"] else ""
        for each in (each for each in inputs["reliability"] if each["score"] == score):
            key = {name: each[name] for name in ("group_of_students", "layer")}
            own = [row for row in inputs["rows"] if key.items() <= row.items() and row[score] is not None]
            top = sorted(own, key=lambda row: -row[score])[:MOST_INPUTS]
            names = [name for name in own[0] if name not in key] if own else []
            title = ", ".join(as_markdown(str(part)) for part in (*key.values(), score) if part is not None)
            doubt = "" if each["is_repeated"] else " (not shown to be repeated by another seed)"
            lines += [f"Largest parts of inputs{doubt}: {title}", ""] * bool(top)
            known = names_in(report["settings"])
            top = [{**row, "label": None if row["label"] is None else numbered(row["label"], known)} for row in top]
            lines += _markdown_table(names, [[_cell(row[name]) for name in names] for row in top]) if top else []
    return lines


def layers_with_features(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Layers with features; predictions and maps at the inputs have none."""
    return list(dict.fromkeys(row["layer"] for row in rows if row["score"] in OF_FEATURES))


def class_table(
    classes: Mapping[str, Any], layer: str, names: Optional[Sequence[str]]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and for each class its name and cells: its size, mean scores over the pairs, and nulls, at a layer."""
    values: dict[tuple[str, int], list[float]] = {}
    for row in classes["rows"]:
        if row["layer"] in (layer, PREDICTIONS_LAYER) and row["score"] in COLUMNS:
            values.setdefault((row["score"], row["group"]), []).extend([row["value"]] * (row["value"] is not None))
    nulls = {(null["score"], null["group"]): [null["value"]] for null in classes["nulls"] if null["layer"] == layer}
    columns = []
    for score, heading in COLUMNS.items():
        for head, of_score in ((heading, values), ("null", nulls)):
            if any(known == score for known, _ in of_score):
                columns.append((head, {group: each for (known, group), each in of_score.items() if known == score}))
    table = []
    for each in classes["groups"]:
        own = [of_groups.get(each["group"]) for _, of_groups in columns]
        cells = [f"{sum(of_group) / len(of_group):.3f}".replace("-0.000", "0.000") if of_group else "-" for of_group in own]
        table.append((numbered(each["group"], names), [str(each["inputs"]), *cells]))
    return ["inputs", *(head for head, _ in columns)], table


def _cell(value: Any) -> str:
    """An entry of the table of inputs."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return as_markdown(str(value))
    # Parts of single inputs are small.
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def plural(word: str) -> str:
    return "classes" if word == "class" else "groups"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    start = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return [*start, *("| " + " | ".join(cells) + " |" for cells in rows), ""]
