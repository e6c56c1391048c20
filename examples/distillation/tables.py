"""A run's numbers as tables: means over networks, pairs or folds with their spread, the published formula beside."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Callable, Iterable, Iterator, Optional, Sequence, Union

from distillation.outcomes import (
    RANDOM, SALIENT, SECOND, WHOLE, Record, SeedComparison, members_of, placebo_tests, score_rows, seed_comparisons,
)  # fmt: skip
from distillation.plan import BASE
from distillation.text import as_markdown, as_spreadsheet_text

__all__ = ["TABLES", "Table", "tables_of"]

Cell = Union[str, int, float, None]

SCORES = {
    "fss": "FSS",
    "rs_student": "RS Student",
    "rs_base": "RS Base",
    "rs_distilled": "RS distilled",
    "rs_residual": "RS residual",
}
"""The paper's scores."""

SHARES = {
    "teacher_distilled": "distilled",
    "teacher_residual": "residual",
    "teacher_only_distilled": "distilled, beyond the labels",
    "teacher_only_residual": "residual, beyond the labels",
    "fss_student_teacher": "FSS Student, Teacher",
    "fss_base_teacher": "FSS Base, Teacher",
    "teacher_distilled_over_placebos": "distilled, over placebos",
    "teacher_residual_over_placebos": "residual, over placebos",
    "teacher_only_distilled_over_placebos": "distilled, beyond the labels, over placebos",
    "teacher_only_residual_over_placebos": "residual, beyond the labels, over placebos",
}
"""What the paper has no formula for."""

VIEWS = {WHOLE: "whole {}", SALIENT: "the salient half of the {}"}

QUESTIONS = {
    "fss": "FSS",
    "rs_distilled": "RS distilled",
    "teacher_distilled": "Teacher's share",
    "teacher_only_distilled": "Teacher's share beyond the labels",
    "teacher_distilled_over_placebos": "Teacher's share over placebos",
    "teacher_only_distilled_over_placebos": "Teacher's share beyond the labels over placebos",
}

TABLES = (
    "accuracy", *(f"{kind}_{view}" for kind in ("scores", "teacher_share") for view in VIEWS), "seed_control", "placebos",
    "random_placebos", "second_teacher", "keep_curves", "localization",
)  # fmt: skip
"""Names of all tables that a run can have."""

ANSWERS = {True: "yes", False: "no evidence", None: "undecided"}


@dataclass(frozen=True)
class Table:
    """A table with its name as a file, its heading, a note on how to read it, and its cells."""

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def to_csv(self) -> str:
        """RFC 4180, numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(map(as_spreadsheet_text, self.columns))
        writer.writerows(["" if cell is None else as_spreadsheet_text(cell) for cell in row] for row in self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """Heading, note and table; numbers with three digits."""
        lines = [f"## {self.title}", "", self.note, ""]
        lines += ["| " + " | ".join(map(as_markdown, self.columns)) + " |"]
        lines += ["|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(map(as_markdown, row)) + " |" for row in self.shown()]
        return "\n".join(lines) + "\n"

    def shown(self) -> Iterator[list[str]]:
        """The rows as text."""
        for row in self.rows:
            yield ["–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in row]


def tables_of(record: Record) -> list[Table]:
    """All tables of a run, in the order of reading."""
    found = [_accuracy(record), *_paper_scores(record), *_teacher_shares(record)]
    every = (
        _seed_control(record), _placebos(record), _random_placebos(record), _second_teacher(record), _keep_curves(record),
        _localization(record),
    )  # fmt: skip
    for optional in every:
        if optional.rows:
            found.append(optional)
    return found


def _spread(values: Sequence[float]) -> tuple[Optional[float], Optional[float]]:
    """Mean and standard deviation; None where there are too few values."""
    return (mean(values) if values else None), (stdev(values) if len(values) > 1 else None)


def _accuracy(record: Record) -> Table:
    members = members_of(record["plan"])
    rows: list[list[Cell]] = []
    of_bases = _spread([fold["accuracy"][name] for fold in record["folds"] for name in members[BASE]])[0]
    for title, names in members.items():
        values = [fold["accuracy"][name] for fold in record["folds"] for name in names]
        middle, spread = _spread(values)
        gain = None if middle is None or of_bases is None or title == BASE else middle - of_bases
        rows.append([title, len(values), middle, spread, min(values), max(values), gain])
    return Table(
        "accuracy",
        "Accuracy",
        f"On held-out {record['unit']}; always naming the most frequent class would give "
        f"{mean(fold['chance'] for fold in record['folds']):.3f}. SD: over networks of different seeds"
        f"{' and folds' if len(record['folds']) > 1 else ''}.",
        ["network", "number", "mean", "SD", "lowest", "highest", "over Base"],
        rows,
    )


def _means(
    record: Record, view: str, formula: str
) -> Callable[[str, str, str], tuple[Optional[float], Optional[float]]]:
    """A function from group, layer and score to mean and spread of the values there are, over pairs and folds."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in score_rows(record):
        if (row["view"], row["formula"]) == (view, formula) and row["value"] is not None:
            values.setdefault((row["group"], row["layer"], row["score"]), []).append(row["value"])
    return lambda group, layer, score: _spread(values.get((group, layer, score), []))


def _places(record: Record) -> Iterator[tuple[str, str]]:
    for group in record["plan"]["groups"]:
        for layer in record["plan"]["layers"]:
            yield group["name"], layer


def _paper_scores(record: Record) -> Iterator[Table]:
    has_published = any(scores["published"] for fold in record["folds"] for scores in fold["scores"])
    kinds = 3 if has_published else 2
    for view, words in VIEWS.items():
        ours, published = _means(record, view, "unbiased"), _means(record, view, "published")
        rows: list[list[Cell]] = []
        for group, layer in _places(record):
            row: list[Cell] = [group, layer]
            for score in SCORES:
                row += ours(group, layer, score)
                row += [published(group, layer, score)[0]][: kinds - 2]
            rows.append(row)
        maps = "" if view == WHOLE else (
            " Ours localize by Grad-CAM of each network's own prediction; published: by HiResCAM of the true label, which "
            "tells the label."
        )
        yield Table(
            f"scores_{view}",
            f"FSS and RS on {words.format(record['unit'])}",
            "Means over pairs of Student and Base, their SD over these pairs, and the mean by the authors' estimator "
            f"(biased FSS of unit-length features), averaged over mini-batches of five images of two classes.{maps}"
            if has_published
            else "Means over pairs of Student and Base, and their SD over these pairs."
            + " The half is chosen by Grad-CAM of each network's own prediction; other tokens are masked." * (view == SALIENT),
            ["group", "layer", *(f"{title}{kind}" for title in SCORES.values() for kind in ("", " SD", " published")[:kinds])],
            rows,
        )


def _teacher_shares(record: Record) -> Iterator[Table]:
    for view, words in VIEWS.items():
        ours = _means(record, view, "unbiased")
        has_placebos = any(guide["is_placebo"] and not guide.get("from_random") for guide in record["plan"]["guides"])
        scores = {score: title for score, title in SHARES.items() if has_placebos or "placebos" not in score}
        rows: list[list[Cell]] = []
        for group, layer in _places(record):
            row: list[Cell] = [group, layer]
            for score in scores:
                row += ours(group, layer, score)
            rows.append(row)
        yield Table(
            f"teacher_share_{view}",
            f"The Teacher's share on {words.format(record['unit'])}",
            "How closely the part that the Student has and the Base lacks (distilled), and the reverse (residual), follow the "
            "Teacher, and how similar each network is to the Teacher. Means and SD over pairs."
            + " Over placebos: minus the mean share of the placebo Teachers." * has_placebos,
            ["group", "layer", *(part for title in scores.values() for part in (title, f"{title} SD"))],
            rows,
        )


def _seed_control(record: Record) -> Table:
    has_random = any(each.view == RANDOM for each in seed_comparisons(record))
    return Table(
        "seed_control",
        "Seed control: is it more than another seed shows?",
        "Means and SD over pairs of Student and Base, and over pairs of Bases, the null; their difference (for FSS the null "
        "less the Students); p: exact, over all relabelings; corrected: by Holm over the layers. "
        + "View random_placebos: over placebo Teachers from random weights. " * has_random
        + " ".join(_caveats(each.test for each in seed_comparisons(record) if each.view != SECOND)),
        *_seed_comparisons(record, "Bases", lambda each: each.view != SECOND),
    )


def _placebos(record: Record) -> Table:
    return _placebo_table(
        record, "placebos", "Placebo Teachers: is it more than another Teacher of this recipe would have?", (WHOLE, SALIENT)
    )


def _random_placebos(record: Record) -> Table:
    return _placebo_table(
        record,
        RANDOM,
        "Placebo Teachers from random weights: is it more than a Teacher without pretraining would have?",
        (RANDOM,),
    )


def _placebo_table(record: Record, name: str, title: str, views: Sequence[str]) -> Table:
    tests = [each for each in placebo_tests(record) if each[2] in views]
    fold = ["fold"] if len(record["folds"]) > 1 else []
    rows: list[list[Cell]] = [
        [
            *([number] if fold else []), group, WHOLE if view == RANDOM else view, QUESTIONS[test["score"]], test["layer"],
            test["share"], test["mean"], test["standard_deviation"], test["statistic"], test["p_value"],
            test["adjusted_p_value"], ANSWERS[test["decision"]],
        ]
        for number, group, view, test in tests
    ]  # fmt: skip
    return Table(
        name,
        title,
        "The Teacher's share, the mean and SD of the placebo Teachers' shares (each a mean over pairs of Student and Base), "
        "and a t test of the Teacher as one draw of Teachers, corrected by Holm over the layers. "
        + " ".join(_caveats(test for *_, test in tests)),
        [
            *fold, "group", "view", "score", "layer", "Teacher", "placebos", "placebos SD", "t", "p", "p corrected", "answer",
        ],
        rows,
    )  # fmt: skip


def _second_teacher(record: Record) -> Table:
    return Table(
        "second_teacher",
        "Second Teacher: is it more than Students of another Teacher show?",
        f"The Teacher's share with Students of a second Teacher in the Bases' place, on whole {record['unit']}: means and SD "
        "over pairs of a Student and a Student of the second Teacher, and over pairs of the latter, the null. All of them had a "
        "Teacher. The second Teacher's Students learned by responses, so for other techniques the technique is another "
        "explanation. p: exact, over all relabelings; corrected: by Holm over the layers.",
        *_seed_comparisons(
            record, "second Teacher's", lambda each: each.view == SECOND and each.test["score"].startswith("teacher")
        ),
    )


def _caveats(tests: Iterable[Record]) -> list[str]:
    """The caveats of some tests, each once."""
    return list(dict.fromkeys(caveat for test in tests for caveat in test["caveats"]))


def _seed_comparisons(
    record: Record, null: str, is_shown: Callable[[SeedComparison], bool]
) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of a table of seed comparisons, whose null has the heading ``null``."""
    fold = ["fold"] if len(record["folds"]) > 1 else []
    columns = [
        *fold, "group", "view", "score", "layer", "Students", "Students SD", null, f"{null} SD", "difference", "p", "p corrected",
        "answer",
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            *([each.fold] if fold else []), each.group, WHOLE if each.view == SECOND else each.view,
            QUESTIONS[each.test["score"]], each.test["layer"], *_spread(each.students), *_spread(each.null),
            each.test["statistic"], each.test["p_value"], each.test["adjusted_p_value"], ANSWERS[each.test["decision"]],
        ]
        for each in seed_comparisons(record)
        if is_shown(each)
    ]  # fmt: skip
    return columns, rows


def _keep_curves(record: Record) -> Table:
    rows: list[list[Cell]] = []
    for group in record["plan"]["groups"]:
        found = [each for fold in record["folds"] for each in fold["maps"] if each["group"] == group["name"]]
        for name in found[0]["keep_curves"]:
            areas = [each["keep_curves"][name]["area"] for each in found]
            chance = [each["keep_curves"]["random"]["area"] for each in found]
            rows.append([group["name"], name, len(areas), *_spread(areas), mean(areas) - mean(chance)])
    return Table(
        "keep_curves",
        f"Accuracy with 10 to 90 % of the {'pixels' if record['unit'] == 'images' else 'tokens'} kept",
        f"Mean accuracy of the Students on {record['unit']} of which only what a map ranks highest is kept. SD: over Students.",
        ["group", "map", "number", "mean", "SD", "over random"],
        rows,
    )


def _localization(record: Record) -> Table:
    rows: list[list[Cell]] = []
    area, number = 0.0, 0
    for group in record["plan"]["groups"]:
        every = [each["localization"] for fold in record["folds"] for each in fold["maps"] if each["group"] == group["name"]]
        found = [each for each in every if each is not None]
        if not found:
            continue
        area, number = found[0]["mask_area"], found[0]["number"]
        for name in found[0]["maps"]:
            energy, hit = ([each["maps"][name][score][0] for each in found] for score in ("energy_share", "pointing_game"))
            empty = sum(each["maps"][name]["empty_maps"] for each in found)
            rows.append([group["name"], name, len(found), *_spread(energy), *_spread(hit), empty])
        for name in found[0]["differences"]:
            rows.append(
                [group["name"], name, len(found), *_spread([each["differences"][name][0] for each in found]), None, None, None]
            )
    return Table(
        "localization",
        f"Maps on {record['evidence']}",
        f"Share of a map's positive values there, and how often its maximum is there, over {number} {record['unit']}. There "
        f"is {area:.1%} of an input on average. Means and SD over pairs of a Student and a Base; report.json has the standard "
        f"errors over {record['unit']}.",
        ["group", "map", "pairs", "energy", "energy SD", "maximum", "maximum SD", "maps without positive values"],
        rows,
    )
