"""The answers of a report's tests as tables of ``print(report)``: one row for each question, one column for each layer."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd._utils.text import one_line, with_middle_cut
from captum_kd.metrics.report.class_names import numbered
from captum_kd.metrics.scores_table import PREDICTIONS_LAYER

Test = Mapping[str, Any]

WIDTH, FIRST, CELL = 100, 45, 11
COLUMNS = (WIDTH - FIRST) // CELL
"""Columns beside each other; further ones follow below."""
YES, UNDECIDED, ONLY_SHARE = "*", "?", "!"
LEVEL = 0.05

SHORT = {
    "fss": "lower FSS than two Bases",
    "rs_distilled": "RS of distilled features",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share beyond the labels",
    "teacher_distilled_over_placebos": "share over placebo Teachers",
    "teacher_only_distilled_over_placebos": "share beyond the labels over placebos",
    "rs_distilled_all": "RS given all Bases but one",
    "teacher_distilled_all": "share given all Bases but one",
    "teacher_only_distilled_all": "share beyond the labels, given all but one",
    "accuracy_over_base": "accuracy",
    "agreement_over_base": "agreement with the Teacher",
    "agreement_over_placebos": "agreement over placebo Teachers",
    "shared_errors": "errors shared with the Teacher",
    "shared_right_answers": "right answers shared with the Teacher",
    "kl_over_base": "lower KL from the Teacher",
    "js_over_base": "lower JS from the Teacher",
    "explanation_over_base": "maps like the Teacher's",
    "explanation_over_placebos": "maps like this Teacher's, over placebos",
}
"""Questions of seed control in a few words; larger differences are evidence for yes."""
INPUT_SCORES = {"distilled": "parts in RS of distilled features", "teacher_distilled": "parts in the Teacher's share"}
SEED_CONTROL = (
    "Seed control: would another training run give the same result? Differences of Students from Bases, minus those of two Bases "
    "(exact test, Holm over layers; sentences and p-values: report.seed_control)"
)
PLACEBOS = (
    "Placebo Teachers: are shares and gains larger than another Teacher of this recipe would have? This Teacher minus the "
    "placebos' mean (t test, Holm over layers; sentences and p-values: report.placebos)"
)


def answers(tests: Sequence[Test]) -> list[str]:
    """Tables of tests: for each group of Students one of the layers, then one of predictions for all groups; and their legend."""
    of_layers = [test for test in tests if test["layer"] != PREDICTIONS_LAYER]
    lines: list[str] = []
    for group in dict.fromkeys(test["group"] for test in of_layers):
        own = [test for test in of_layers if test["group"] == group]
        lines += _table(group or "", own, "layer")
    lines += _table(PREDICTIONS_LAYER, [test for test in tests if test["layer"] == PREDICTIONS_LAYER], "group")
    return lines + _legend(tests)


def _table(title: str, tests: Sequence[Test], by: str) -> list[str]:
    """A table of tests with the columns' names in ``by``, in parts if there are many columns."""
    names = list(dict.fromkeys(test[by] for test in tests))
    scores = list(dict.fromkeys(test["score"] for test in tests))
    cells = {(test["score"], test[by]): _cell(test) for test in tests}
    lines: list[str] = []
    for start in range(0, len(names), COLUMNS):
        part = names[start : start + COLUMNS]
        lines.append(_row(one_line(title), _heads(part)))
        lines += [_row(f"  {SHORT[score]}", [cells.get((score, name), "-") for name in part]) for score in scores]
    return lines


def _heads(names: Sequence[Optional[str]]) -> list[str]:
    return [with_middle_cut(one_line(name or ""), CELL - 1) for name in names]


def _row(title: str, cells: Sequence[str]) -> str:
    return (with_middle_cut(title, FIRST - 1).ljust(FIRST) + "".join(cell.rjust(CELL) for cell in cells)).rstrip()


def _cell(test: Test) -> str:
    value = test["statistic"]
    if "share" in test:  # against placebo Teachers, where the statistic is one of Student's t
        value = None if test["share"] is None or test["mean"] is None else test["share"] - test["mean"]
    return "-" if value is None else f"{value:+.3f}{mark(test)}"


def mark(test: Test) -> str:
    """A star for yes; one character for each answer, so that numbers stay in line."""
    if test["decision"] is None:
        return UNDECIDED
    if test["decision"]:
        return YES
    is_small = test["adjusted_p_value"] is not None and test["adjusted_p_value"] <= LEVEL
    return ONLY_SHARE if is_small else " "


def _legend(tests: Sequence[Test]) -> list[str]:
    """The meaning of the marks in use, and the caveats of the tests, each once."""
    marks = {mark(test) for test in tests}
    meanings = {
        YES: f"yes (p <= {LEVEL:g})",
        ONLY_SHARE: f"no: p <= {LEVEL:g}, but Students are not more similar to the Teacher than Bases are",
        UNDECIDED: "cannot be decided",
    }
    shown = "; ".join(f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks)
    unmarked = "no mark: no evidence" if " " in marks else ""
    text = "; ".join(part for part in (shown, unmarked) if part)
    caveats = dict.fromkeys(caveat for test in tests for caveat in test["caveats"])
    return [f"- {text}."] * bool(text) + [f"- {caveat}" for caveat in caveats]


def class_answers(
    classes: Mapping[str, Any], layer: str, plural: str, names: Optional[Sequence[str]] = None
) -> list[str]:
    """For each group of Students, the classes with a yes at a layer and of predictions, by question."""
    tests = [test for test in classes["tests"] if test["layer"] in (layer, PREDICTIONS_LAYER)]
    lines: list[str] = []
    for students in dict.fromkeys(test["group_of_students"] for test in tests):
        own = [test for test in tests if test["group_of_students"] == students]
        parts: list[str] = []
        without: list[str] = []
        undecided: list[str] = []
        for score in dict.fromkeys(test["score"] for test in own):
            of_score = [test for test in own if test["score"] == score]
            yes = [numbered(test["group"], names) for test in of_score if test["decision"]]
            if yes:
                parts.append(f"{SHORT[score]}: {'all' if len(yes) == len(of_score) else ', '.join(yes)}")
            else:
                (undecided if any(test["decision"] is None for test in of_score) else without).append(SHORT[score])
        found = f"- {'' if students is None else f'{students}. '}Yes for {plural} in {'; '.join(parts)}." if parts else ""
        found = found or f"- {'' if students is None else f'{students}. '}No yes for any of the {plural}."
        found += f" None in {', '.join(without)}." * bool(without and parts)
        if not parts and not without:
            found = f"- {'' if students is None else f'{students}. '}Undecided for all {plural} and questions."
        elif undecided:
            found += f" Undecided: {', '.join(undecided)}."
        lines.append(found)
    caveats = dict.fromkeys(caveat for test in tests if test["decision"] is None for caveat in test["caveats"])
    return lines + [f"- {caveat}" for caveat in caveats]


def input_answers(inputs: Mapping[str, Any]) -> list[str]:
    """A table of the reliability of the parts, or a sentence if it is not known."""
    known = [each for each in inputs["reliability"] if each["correlation"] is not None]
    if not known:
        return ["- It is unknown, since that needs two Students and two Bases of different seeds."]
    layers = list(dict.fromkeys(each["layer"] for each in known))
    cells = {(each["group_of_students"], each["score"], each["layer"]): _reliabilities(each) for each in known}
    rows = dict.fromkeys((group, score) for group, score, _ in cells)
    lines: list[str] = []
    for start in range(0, len(layers), COLUMNS):
        part = layers[start : start + COLUMNS]
        lines.append(_row("reliability (of Bases given other Bases)", _heads(part)))
        for group, score in rows:
            name = f"  {'' if group is None else f'{one_line(group)}, '}{INPUT_SCORES.get(score, score)}"
            lines.append(_row(name, [cells.get((group, score, layer), "-") for layer in part]))
    return [
        *lines,
        "- About the correlation of these means over pairs with those of other seeds. Below .5, most of the differences between "
        "inputs come from the seeds.",
    ]


def _reliabilities(record: Mapping[str, Any]) -> str:
    null = record["null_reliability"]
    return f"{record['reliability']:.2f} ({'-' if null is None else f'{null:.2f}'})".replace("0.", ".")
