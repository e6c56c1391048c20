"""The tables of a report on its page."""

from __future__ import annotations

from statistics import mean
from typing import Any, Iterable, Mapping, Optional, Sequence

from captum_kd.metrics.report.answers import LEVEL, ONLY_SHARE, SHORT, UNDECIDED, YES, class_answers, mark
from captum_kd.metrics.report.class_names import names_in, numbered
from captum_kd.metrics.report.notes import distilled_scores
from captum_kd.metrics.report.nulls import BUT_ONE, NULL, mean_nulls
from captum_kd.metrics.report.part_text import LEGEND, class_table, layers_with_features, plural
from captum_kd.metrics.report.text import SUBTITLES, TABLES
from captum_kd.metrics.scores_table import PREDICTIONS_LAYER
from captum_kd.page.content import PageTable

__all__ = ["answer_tables", "caveats_of", "groups_of", "main_tests", "part_tables", "score_tables"]

MOST_STUDENTS = 12
"""Students with rows of their own. More of them, without groups, share rows."""
MOST_MODELS = 40
"""Models in a table with a column for each."""
MOST_INPUTS = 10
"""Inputs in the table of the largest parts, for each group and layer."""
SHARE = "teacher_distilled"
MAIN_QUESTIONS = (("accuracy_over_base", "agreement_over_base"), ("rs_distilled", "fss"), (f"{SHARE}_over_placebos", SHARE))
"""Of each, the first that the report has."""
ANSWERS = {
    YES: "yes",
    UNDECIDED: "undecided",
    ONLY_SHARE: "no: Students are no more similar to the Teacher than Bases",
    " ": "no evidence",
}
NULL_WORDS = {NULL: "null: a Base given another Base", BUT_ONE: "given all Bases but one"}
HEADINGS = {
    "T. dist.": "Teacher's share, distilled", "T. resid.": "Teacher's share, residual", "null": "null", "inputs": "inputs",
}  # fmt: skip
Row = Mapping[str, Any]


def groups_of(content: Mapping[str, Any], most: int = MOST_STUDENTS) -> dict[str, list[str]]:
    """The Students behind each row of a table: a named group, one Student, or all Students if there are more than ``most``."""
    students = list(dict.fromkeys(row["student"] for row in content["rows"]))
    named = (content["seed_control"] or {}).get("groups", ())
    if named and named[0]["group"] is not None:
        return {group["group"]: group["students"] for group in named}
    return {name: [name] for name in students} if len(students) <= most else {"all Students": students}


# ----------------------------------------------------------------------------- answers


def answer_tables(content: Mapping[str, Any]) -> list[PageTable]:
    """The verdict's questions, answered for each group of Students: of predictions, and at each layer."""
    tests = main_tests(content)
    of_predictions = [test for test in tests if test["layer"] == PREDICTIONS_LAYER]
    of_layers = [test for test in tests if test["layer"] != PREDICTIONS_LAYER]
    found: list[PageTable] = []
    if of_layers:
        layers = list(dict.fromkeys(test["layer"] for test in of_layers))
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for test in of_layers:
            cells.setdefault((_question(test), test["group"] or "all"), {})[test["layer"]] = _answer_cell(test)
        note = (
            "Difference of Students from the null (the same score of a Base given another Base), or of this Teacher from the "
            "mean of placebo Teachers, and the answer. The verdict needs more than one yes: Students that follow the labels more "
            "closely than Bases, and with placebo Teachers both tests."
        )
        by_layer = [(*row, *(of_row.get(layer) for layer in layers)) for row, of_row in cells.items()]
        found.append(PageTable(("question", "Students", *layers), by_layer, "Answers at each layer", note))
    if of_predictions:
        rows = [
            (_question(test), test["group"] or "all", _difference(test), test["adjusted_p_value"], _answer(test))
            for test in of_predictions
        ]
        columns = ("question", "Students", "Students minus Bases", "corrected p", "answer")
        found.append(PageTable(columns, rows, "Answers on predictions"))
    return found


def main_tests(content: Mapping[str, Any]) -> list[Row]:
    """The tests of the verdict's questions: accuracy, gain, and the Teacher's share, over Bases and over placebo Teachers."""
    by_score: dict[str, list[Row]] = {}
    for test in (content["seed_control"] or {"tests": ()})["tests"]:
        by_score.setdefault(test["score"], []).append(test)
    of_placebos = [test for test in (content["placebos"] or {"tests": ()})["tests"] if test["score"] == SHARE]
    first = [next((score for score in scores if score in by_score), "") for scores in MAIN_QUESTIONS]
    return [test for score in first for test in by_score.get(score, ())] + of_placebos


def _question(test: Row) -> str:
    return SHORT[f"{SHARE}_over_placebos"] + ", t test" if "share" in test else SHORT[test["score"]]


def _answer_cell(test: Row) -> str:
    value = _difference(test)
    return "no score" if value is None else f"{value:+.3f} {_answer(test)}"


def _difference(test: Row) -> Optional[float]:
    if "share" not in test:
        return None if test["statistic"] is None else float(test["statistic"])
    return None if test["share"] is None or test["mean"] is None else float(test["share"] - test["mean"])


def _answer(test: Row) -> str:
    return ANSWERS[mark(test)]


# ----------------------------------------------------------------------------- scores


def score_tables(content: Mapping[str, Any]) -> list[PageTable]:
    """Scores by layer: of one pair of models with interval and p-value, of several their mean and range; then the nulls."""
    rows, nulls, groups = content["rows"], mean_nulls(content["seed_control"]), groups_of(content)
    by_key: dict[tuple[str, str, str], list[Row]] = {}
    of_student = {name: group for group, names in groups.items() for name in names}
    for row in rows:
        if row["student"] in of_student:
            by_key.setdefault((of_student[row["student"]], row["layer"], row["score"]), []).append(row)
    has_labels = bool(content["settings"]["class_counts"])
    tables = []
    for title, heads in TABLES.items():
        columns = {score: head for score, head in heads.items() if any(key[2] == score for key in by_key)}
        if not columns:
            continue
        unique = [score for score in distilled_scores(rows) if score in columns]
        layers = list(dict.fromkeys(layer for _, layer, score in by_key if score in columns))
        lines: list[list[Optional[str]]] = []
        for layer in layers:
            for group in groups:
                own = {score: by_key.get((group, layer, score), []) for score in columns}
                if any(own.values()):
                    shares = [_mean_and_range(row["unique_share"] for row in own[score]) for score in unique]
                    lines.append([group, layer, *map(_cell, own.values()), *shares])
            for name, words in NULL_WORDS.items():
                means = [nulls.get(name, {}).get((score, layer)) for score in columns]
                if any(each is not None for each in means):
                    lines.append([words, layer, *(_mean_and_range([each]) for each in means), *[None] * len(unique)])
        subtitle, beyond = SUBTITLES.get(title, ("", ""))
        is_one = max(map(len, by_key.values())) == 1
        pairs = "Mean over pairs of models [smallest, largest]."
        pairs = "Value [interval] p-value, as far as the report has them." if is_one else pairs
        note = " ".join(filter(None, [f"{subtitle}{beyond * has_labels}.".capitalize() if subtitle else "", pairs]))
        shown = title if has_labels else title.replace("Similarity and relevance", "Similarity")
        tables.append(PageTable(("Students", "layer", *columns.values(), *("unique" for _ in unique)), lines, shown, note))
    return tables


def _cell(rows: Sequence[Row]) -> Optional[str]:
    if len(rows) != 1 or rows[0]["low"] is None or rows[0]["value"] is None:
        p_value = rows[0]["p_value"] if len(rows) == 1 else None
        text = _mean_and_range(row["value"] for row in rows)
    else:
        row = rows[0]
        p_value, text = row["p_value"], f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return text if p_value is None or text is None else f"{text} p = {p_value:.2g}"


def _mean_and_range(values: Iterable[Optional[float]]) -> Optional[str]:
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = f"{mean(known):.3f}"
    return found if min(known) == max(known) else f"{found} [{min(known):.3f}, {max(known):.3f}]"


# ----------------------------------------------------------------------------- parts


def part_tables(content: Mapping[str, Any]) -> list[PageTable]:
    """Seed control, placebo Teachers, classes, inputs and similarities, as far as the report has them."""
    return [
        *_seed_control(content["seed_control"]),
        *_placebos(content["placebos"]),
        *_classes(content["classes"], names_in(content["settings"], content["classes"])),
        *_inputs(content["inputs"], names_in(content["settings"])),
        *_similarities(content["similarities"]),
    ]


def _seed_control(control: Optional[Mapping[str, Any]]) -> list[PageTable]:
    if control is None:
        return []
    columns = ("Students", "question", "layer", "difference", "p", "corrected p", "answer")
    rows = [
        (test["group"], SHORT[test["score"]], test["layer"], _difference(test), test["p_value"], test["adjusted_p_value"],
         _answer(test))
        for test in control["tests"]
    ]  # fmt: skip
    note = (
        "Would another training run give the same result? Students minus the null: the same score of two Bases. Exact test; p is "
        f"corrected over the layers; yes needs a corrected p of at most {LEVEL:g}."
    )
    return [PageTable(columns, rows, "Seed control", " ".join([note, *caveats_of(control["tests"])]))]


def _placebos(placebos: Optional[Mapping[str, Any]]) -> list[PageTable]:
    if placebos is None:
        return []
    columns = ("Students", "score", "layer", "Teacher", "placebos' mean", "SD", "p", "corrected p", "answer")
    rows = [
        (test["group"], SHORT[test["score"]], test["layer"], test["share"], test["mean"], test["standard_deviation"],
         test["p_value"], test["adjusted_p_value"], _answer(test))
        for test in placebos["tests"]
    ]  # fmt: skip
    note = "Is this Teacher's value larger than that of another Teacher of its recipe would be? t test over placebo Teachers."
    return [PageTable(columns, rows, "Placebo Teachers", " ".join([note, *caveats_of(placebos["tests"])]))]


def caveats_of(tests: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(caveat for test in tests for caveat in test["caveats"]))


def _classes(classes: Optional[Mapping[str, Any]], names: Optional[Sequence[str]]) -> list[PageTable]:
    """A table for each layer: means over the pairs of models."""
    if classes is None:
        return []
    found = []
    for layer in layers_with_features(classes["rows"]):
        heads, rows = class_table(classes, layer, names)
        word = str(classes["of"])
        answers = [each.removeprefix("- ") for each in class_answers(classes, layer, plural(word), names)]
        note = " ".join([f"Means over pairs of models. {LEGEND.format(word=word)}.", *answers])
        columns = (word, *(HEADINGS.get(head, head) for head in heads))
        title = f"{'Classes' if word == 'class' else 'Groups of inputs'} at {layer}"
        found.append(PageTable(columns, [(name, *cells) for name, cells in rows], title, note))
    return found


def _inputs(inputs: Optional[Mapping[str, Any]], class_names: Optional[Sequence[str]]) -> list[PageTable]:
    if inputs is None:
        return []
    found = []
    known = [each for each in inputs["reliability"] if each["correlation"] is not None]
    if known:
        columns = ("Students", "layer", "parts in", "reliability", "of Bases given other Bases", "conclusion")
        rows = [
            (each["group_of_students"], each["layer"], each["score"].replace("_", " "), each["reliability"],
             each["null_reliability"], each["sentence"])
            for each in known
        ]  # fmt: skip
        found.append(PageTable(columns, rows, "Inputs: does another seed have the same inputs on top?"))
    keys = ("group_of_students", "layer")
    parts = [name for name in (inputs["rows"] or [{}])[0] if name not in (*keys, "input", "label")]
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in inputs["rows"]:
        by_key.setdefault((row["group_of_students"], row["layer"]), []).append(row)
    best = parts[0] if parts else ""
    top = [
        row
        for own in by_key.values()
        for row in sorted((row for row in own if row[best] is not None), key=lambda row: -row[best])[:MOST_INPUTS]
    ]
    names = ["input", *(["label"] if top and "label" in top[0] else []), *parts]
    columns = ("Students", "layer", *(name.replace("_", " ") for name in names))
    note = (
        f"The {MOST_INPUTS} inputs with the largest part in {best.replace('_', ' ')}, for each layer and group. Parts add up to "
        "the score; inputs count from 0. Read this order only if another seed repeats it: see the reliability."
    )
    lines = [
        [
            numbered(row[name], class_names) if name == "label" and row[name] is not None else row[name]
            for name in (*keys, *names)
        ]
        for row in top
    ]
    return found + ([PageTable(columns, lines, "Inputs with the largest parts", note)] if lines else [])


def _similarities(similarities: Optional[Mapping[str, Any]]) -> list[PageTable]:
    if similarities is None or not 2 < len(similarities["models"]) <= MOST_MODELS:
        return []
    models = similarities["models"]
    return [
        PageTable(
            ("model", *models), [(name, *row) for name, row in zip(models, matrix)], f"Similarity (FSS) of all models at {layer}"
        )
        for layer, matrix in similarities["layers"].items()
    ]
