"""Pictures of accuracy and scores."""

from __future__ import annotations

from statistics import mean
from typing import Any, Iterator, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_kd.visualization import (
    plot_classes, plot_embeddings, plot_layer_scores, plot_layer_similarity, plot_models, plot_predictions,
    plot_seed_control,
)  # fmt: skip
from distillation.drawing import COLORS, SMALL, WIDTH, Picture, prepare_axis, slug
from distillation.measuring import Measurements
from distillation.outcomes import SALIENT, WHOLE, Record, members_of
from distillation.task import Task

__all__ = ["classes", "curves", "layers", "likeness", "predictions", "seeds"]

DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def curves(record: Record) -> Figure:
    """Accuracy over the epochs: the Teacher and other guides thin, Bases and groups of Students with bands."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axis = figure.subplots()
    untrained = [guide["name"] for guide in record["plan"]["guides"] if not guide["trained"]]
    members = {title: names for title, names in members_of(record["plan"]).items() if title not in untrained}
    for i, (title, names) in enumerate(members.items()):
        runs = torch.tensor(
            [
                [epoch["validation_accuracy"] for epoch in fold["history"][name]]
                for fold in record["folds"]
                for name in names
            ],
            dtype=torch.float64,
        )
        middle = runs.mean(0)
        epochs = torch.arange(1, runs.shape[1] + 1)
        color, dash = COLORS[i % len(COLORS)], DASHES[i % len(DASHES)]
        axis.plot(epochs, middle, color=color, linestyle=dash, marker=MARKERS[i % len(MARKERS)], markersize=3, label=title)
        if len(runs) > 1:
            spread = runs.std(0)
            axis.fill_between(epochs, middle - spread, middle + spread, color=color, alpha=0.15, linewidth=0)
    axis.axhline(mean(fold["chance"] for fold in record["folds"]), color="0.5", linewidth=0.8, linestyle=(0, (1, 2)))
    axis.set_xlabel("epoch", fontsize=SMALL)
    axis.set_ylabel("accuracy, held out", fontsize=SMALL)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    prepare_axis(axis)
    figure.legend(loc="outside right upper", fontsize=SMALL - 1, frameon=False)
    return figure


def predictions(record: Record) -> Iterator[Picture]:
    """Predictions of all networks, one picture for each Teacher."""
    for scores in record["folds"][0]["scores"]:
        yield (
            f"predictions_{slug(scores['teacher'])}",
            f"Predictions of Students, Bases and {scores['teacher']}. One dot is one network, a bar the mean. In the last two "
            "panels the dots of Bases compare a Base with the other Bases: compare Students with them." + _only_first(record),
            plot_predictions(scores[WHOLE]),
        )


def likeness(task: Task, record: Record, found: Measurements) -> Iterator[Picture]:
    """Networks as points, layers beside the Teacher's, and inputs as points; of each Teacher."""
    first = _only_first(record)
    for scores, measured in zip(record["folds"][0]["scores"], found.scores):
        name = slug(scores["teacher"])
        far = _far(record)
        yield (
            f"models_{name}",
            "Networks as points, at each layer: the closer two are, the larger their FSS. Below each panel: how much of the "
            f"distances the plane shows.{' Controls that learned little are left out: they are far from all others.' * bool(far)}"
            + first,
            plot_models({**scores[WHOLE], "similarities": _without(scores[WHOLE]["similarities"], far)}),
        )
        student, layers = list(measured.layers.items())[1]
        yield (
            f"layer_similarity_{name}",
            f"Similarity of the layers of {student} with those of {scores['teacher']}.{first}",
            plot_layer_similarity(layers, names=(student, scores["teacher"])),
        )
        yield (
            f"embeddings_{name}",
            f"The same {measured.embeddings.n} {task.unit} in {scores['teacher']}, the first Base and the first Student of each "
            f"technique, at the last compared layer: the closer two points are, the more alike their features.{first}",
            plot_embeddings(measured.embeddings, class_names=list(task.classes)),
        )


def classes(task: Task, record: Record) -> Iterator[Picture]:
    """The Teacher's share of the rows of every class, for each group of Students that a technique taught."""
    for scores in record["folds"][0]["scores"]:
        report = scores[WHOLE]
        for group in record["plan"]["groups"]:
            if group["teacher"] != scores["teacher"] or group["is_control"]:
                continue
            rows = [row for row in report["classes"]["rows"] if row["student"] in group["students"]]
            tests = [
                test for test in report["classes"]["tests"] if test["group_of_students"] in (None, group["name"])
            ]
            yield (
                f"classes_{slug(group['name'])}",
                f"{group['name']}: the Teacher's share of the {task.unit} of each class, at the last compared layer. Squares: "
                f"those of a Base given another Base, the null.{_only_first(record)}",
                plot_classes(
                    {**report, "classes": {**report["classes"], "rows": rows, "tests": tests}},
                    "teacher_distilled", class_names=list(task.classes),
                ),
            )  # fmt: skip


def _far(record: Record) -> set[str]:
    """Students of shuffled labels and of an untrained Teacher. In a plane with them all others would be one spot."""
    untrained = {guide["name"] for guide in record["plan"]["guides"] if not guide["trained"]}
    groups = (each for each in record["plan"]["groups"] if each["technique"] == "shuffled-labels" or each["guide"] in untrained)
    return {name for group in groups for name in group["students"]}


def _without(similarities: Record, left_out: set[str]) -> Record:
    """Similarities of the other networks."""
    kept = [place for place, name in enumerate(similarities["models"]) if name not in left_out]
    return {
        **{key: [similarities[key][place] for place in kept] for key in ("models", "roles")},
        "layers": {
            layer: [[matrix[i][j] for j in kept] for i in kept] for layer, matrix in similarities["layers"].items()
        },
    }


def _only_first(record: Record) -> str:
    return " The first fold." * (len(record["folds"]) > 1)


def layers(record: Record) -> Iterator[Picture]:
    for view, words in ((WHOLE, "all of each input"), (SALIENT, "the half of each input that Grad-CAM calls salient")):
        for group in record["plan"]["groups"]:
            rows = _rows_over_folds(record, view, group["students"])
            # Maps are compared at one layer, which the table shows.
            rows = [row for row in rows if not row["score"].startswith("explanation")]
            several = " Bold: mean over Bases; thin: each Base." if len(record["plan"]["bases"]) > 1 else ""
            over = " Means over folds; bars: one SD over folds." if len(record["folds"]) > 1 else " Bars: 95 % intervals."
            first = next(each for each in record["folds"][0]["scores"] if each["teacher"] == group["teacher"])
            control = first[view]["seed_control"] if len(record["folds"]) == 1 else None
            # One column of panels a Student: three fit a page.
            names = list(dict.fromkeys(row["student"] for row in rows))[:3]
            yield (
                f"layers_{view}_{slug(group['name'])}",
                f"{group['name']}: scores over the layers on {words}.{several}{over}",
                plot_layer_scores({"rows": [row for row in rows if row["student"] in names], "seed_control": control}),
            )


def _rows_over_folds(record: Record, view: str, students: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a report; with several folds their means, the spread over folds in place of intervals."""
    by_fold = [
        [row for scores in fold["scores"] for row in scores[view]["rows"] if row["student"] in students]
        for fold in record["folds"]
    ]
    if len(by_fold) == 1:
        return by_fold[0]
    merged = []
    for same in zip(*by_fold):
        values = torch.tensor([row["value"] for row in same if row["value"] is not None], dtype=torch.float64)
        value = float(values.mean()) if len(values) else None
        spread = float(values.std()) if len(values) > 1 else None
        bounds = (None, None) if value is None or spread is None else (value - spread, value + spread)
        merged.append({**same[0], "value": value, "low": bounds[0], "high": bounds[1]})
    return merged


def seeds(record: Record) -> Iterator[Picture]:
    """Scores of Students beside their null on whole inputs, one picture for each Teacher."""
    for scores in record["folds"][0]["scores"]:
        if scores[WHOLE]["seed_control"]:
            yield (
                f"seed_control_{slug(scores['teacher'])}",
                f"Students and {scores['teacher']}: the part that a Student has and a Base lacks, beside the part that one "
                "Base has and another lacks. Lines: how closely the part follows the labels, the Teacher, the Teacher beyond "
                f"the labels, and, if there are placebo Teachers, the Teacher more closely than these.{_only_first(record)}",
                plot_seed_control(scores[WHOLE]),
            )
