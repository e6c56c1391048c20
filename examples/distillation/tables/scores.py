"""Tables of accuracy, of the paper's scores with the published formula beside, and of the Teacher's share."""

from __future__ import annotations

from statistics import mean
from typing import Callable, Iterator, Optional

from distillation.outcomes import SALIENT, WHOLE, Record, members_of, score_rows
from distillation.plan import BASE
from distillation.tables.table import Cell, Table, spread

__all__ = ["VIEWS", "accuracy", "paper_scores", "teacher_shares"]

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


def accuracy(record: Record) -> Table:
    members = members_of(record["plan"])
    rows: list[list[Cell]] = []
    of_bases = spread([fold["accuracy"][name] for fold in record["folds"] for name in members[BASE]])[0]
    for title, names in members.items():
        values = [fold["accuracy"][name] for fold in record["folds"] for name in names]
        middle, deviation = spread(values)
        gain = None if middle is None or of_bases is None or title == BASE else middle - of_bases
        rows.append([title, len(values), middle, deviation, min(values), max(values), gain])
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
    return lambda group, layer, score: spread(values.get((group, layer, score), []))


def _places(record: Record) -> Iterator[tuple[str, str]]:
    for group in record["plan"]["groups"]:
        for layer in record["plan"]["layers"]:
            yield group["name"], layer


def paper_scores(record: Record) -> Iterator[Table]:
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


def teacher_shares(record: Record) -> Iterator[Table]:
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
