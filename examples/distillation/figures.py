"""The pictures of a run."""

from __future__ import annotations

from statistics import mean
from typing import Any, Iterator, Mapping, Sequence

import torch
from captum.attr import LayerAttribution
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from captum_kd.perturb import keep_relevant
from captum_kd.visualization import plot_keep_curve, plot_layer_scores, visualize_tokens, visualize_transfer
from distillation.data.questions import Texts
from distillation.drawing import COLORS, NULL, SMALL, WIDTH, draw_values, prepare_axis
from distillation.explaining import BASE as BASE_MAP
from distillation.explaining import BY_TEACHER, DISTILLED, NET, POINT, RESIDUAL
from distillation.explaining import NULL as NULL_MAP
from distillation.explaining import STUDENT as STUDENT_MAP
from distillation.measuring import Measurements, PairMaps
from distillation.outcomes import SALIENT, WHOLE, Record, members_of, seed_comparisons
from distillation.plan import Plan
from distillation.task import Task, first_of_each_class

__all__ = ["Picture", "picture_names", "pictures_of"]

Picture = tuple[str, str, Figure]
"""Name as a file, caption, figure."""

DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

KEPT = 0.5


def pictures_of(task: Task, record: Record, measured: Sequence[Measurements], rows: int) -> Iterator[Picture]:
    """All pictures, in the order of reading. Maps are those of the first fold's first Student of each group."""
    yield (
        "accuracy",
        f"Accuracy on held-out {task.unit} over the epochs: means and one SD over seeds and folds. Dotted: a network that "
        "always names the most frequent class.",
        curves(record),
    )
    first = measured[0]
    shown = first_of_each_class(first.shown.labels, rows)
    yield from (_sentences if isinstance(first.shown, Texts) else _maps)(task, first, shown)
    yield from _layers(record)
    if any(scores[WHOLE]["seed_control"] for fold in record["folds"] for scores in fold["scores"]):
        yield (
            "seed_control",
            "The part that a Student has and a Base lacks (colored), and the part that one Base has and another lacks (gray). "
            "Each point is a pair of networks; bars are means. Rows: how closely the part follows the labels, the Teacher, the "
            "Teacher beyond the labels, and, if there are placebo Teachers, the Teacher more closely than these.",
            seeds(record),
        )
    for pair in first.first_pairs():
        yield (
            f"keep_curve_{_slug(pair.group.name)}",
            f"{pair.student}: accuracy on {task.unit} of which only what a map ranks highest is kept.",
            plot_keep_curve(pair.curves, whole_accuracy=_accuracy_on_shown(first, pair.student), title=pair.student),
        )


def picture_names(plan: Plan) -> list[str]:
    """Names of all pictures that a run can have."""
    kinds = ("maps", "kept", f"layers_{WHOLE}", f"layers_{SALIENT}", "keep_curve")
    of_groups = [f"{kind}_{_slug(group.name)}" for group in plan.groups for kind in kinds]
    return ["accuracy", "gradcam", "seed_control", *of_groups]


def _slug(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _accuracy_on_shown(found: Measurements, network: str) -> float:
    labels = found.shown.labels
    return float((found.predictions[network][: len(labels)] == labels).float().mean())


# --------------------------------------------------------------------------- accuracy


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


# --------------------------------------------------------------------------- maps


def _maps(task: Task, found: Measurements, shown: Tensor) -> Iterator[Picture]:
    chosen = found.shown[shown]
    # Pictures of more than 128 pixels would make the page slow and show no more at this size.
    images = chosen.inputs(min(128, found.shown.store.shape[-1]))
    pairs = found.first_pairs()

    def labels_of(names: Sequence[str]) -> list[str]:
        return ["\n".join(each) for each in _answers(task, found, shown, names)]

    columns = {f"Grad-CAM {pairs[0].base}": pairs[0].maps[BASE_MAP][shown]}
    columns |= {f"Grad-CAM {pair.student}": pair.maps[STUDENT_MAP][shown] for pair in pairs}
    yield (
        "gradcam",
        "Grad-CAM of the first Base and of the first Student of each group, each of its own prediction.",
        visualize_transfer(images, columns, masks=chosen.masks, scale="map", row_labels=labels_of([]), title="Grad-CAM"),
    )
    for pair in pairs:
        yield (
            f"maps_{_slug(pair.group.name)}",
            f"{pair.student} and {pair.base}: net map (distilled minus residual), distilled and residual features, a net map of "
            "two Bases for comparison, Grad-CAM of the Student, and the paper's gradient. The images are the first of each "
            "class, not cherry-picked. Red: positive, blue: negative. In each row the first four maps share one color scale; "
            "Grad-CAM and the paper's gradient each have their own.",
            visualize_transfer(
                images,
                _in_colors(pair.maps, shown, images.shape[-1]),
                masks=chosen.masks,
                scale="shared",
                sign="all",
                outlier_perc=0.0,
                row_labels=labels_of([pair.student, pair.base]),
            ),
        )
        yield (
            f"kept_{_slug(pair.group.name)}",
            f"What is left when the half that a map ranks highest is kept and the rest imputed: {pair.student}, {pair.base}.",
            _kept(images, pair, shown, labels_of([pair.student, pair.base])),
        )


def _answers(task: Task, found: Measurements, shown: Tensor, names: Sequence[str]) -> list[list[str]]:
    """The true class of each example shown, and those that networks predict."""
    # Between two dollar signs matplotlib would read a formula.
    classes = [name.replace("$", r"\$") for name in task.classes]
    return [
        [
            f"true: {classes[int(found.shown.labels[row])]}",
            *(f"{name}: {classes[int(found.predictions[name][row])]}" for name in names),
        ]
        for row in shown.tolist()
    ]


def _sentences(task: Task, found: Measurements, shown: Tensor) -> Iterator[Picture]:
    chosen = found.shown[shown]
    assert isinstance(chosen, Texts)
    for pair in found.first_pairs():
        by_labels = [title for title in (NET, DISTILLED, RESIDUAL, NULL_MAP) if title in pair.maps]
        titles = [*by_labels, BY_TEACHER, STUDENT_MAP]
        yield (
            f"maps_{_slug(pair.group.name)}",
            f"{pair.student} and {pair.base}: net map (distilled minus residual), distilled and residual features, a net map of "
            "two Bases for comparison, the net map of the Teacher's share, and Grad-CAM of the Student. The sentences are the "
            "first of each class, not cherry-picked. Red: positive, blue: negative. The maps by labels share one scale over all "
            "sentences; the last two have scales of their own.",
            visualize_tokens(
                chosen.tokens,
                {title: pair.maps[title][shown] for title in titles},
                token_mask=found.shown.inputs()["attention_mask"][shown],
                sentence_titles=["; ".join(each) for each in _answers(task, found, shown, [pair.student, pair.base])],
                scale=[by_labels, [BY_TEACHER], [STUDENT_MAP]],
                units={**dict.fromkeys(by_labels, "gain of J per word"), BY_TEACHER: "gain of the Teacher's share per word"},
            ),
        )


def _in_colors(maps: Mapping[str, Tensor], shown: Tensor, size: int) -> dict[str, Tensor]:
    """The maps of some images, enlarged, in parts of the largest value: of an image's integrated maps, or of the map alone.

    Maps of some images are far weaker than of others; the figure is to show where, the tables how much.
    """
    integrated = [title for title in (NET, DISTILLED, RESIDUAL, NULL_MAP) if title in maps]
    scaled: dict[str, Tensor] = {}
    for titles in (integrated, [STUDENT_MAP], [POINT]):
        together = torch.stack([LayerAttribution.interpolate(maps[title][shown], size, "bilinear") for title in titles])
        tops = together.abs().amax((0, 2, 3, 4)).clamp_min(1e-30)
        scaled |= dict(zip(titles, together / tops[:, None, None, None]))
    return scaled


def _kept(images: Tensor, pair: PairMaps, shown: Tensor, row_labels: list[str]) -> Figure:
    kept = {
        title: keep_relevant(images, pair.maps[title][shown], keep=KEPT, generator=torch.Generator().manual_seed(0))
        for title in (NET, DISTILLED, RESIDUAL, STUDENT_MAP, BASE_MAP)
    }
    return visualize_transfer(images, {}, kept=kept, row_labels=row_labels)


# --------------------------------------------------------------------------- scores


def _layers(record: Record) -> Iterator[Picture]:
    for view, words in ((WHOLE, "all of each input"), (SALIENT, "the half of each input that Grad-CAM calls salient")):
        for group in record["plan"]["groups"]:
            rows = _rows_over_folds(record, view, group["students"])
            several = " Bold: mean over Bases; thin: each Base." if len(record["plan"]["bases"]) > 1 else ""
            over = " Means over folds; bars: one SD over folds." if len(record["folds"]) > 1 else " Bars: 95 % intervals."
            # One column of panels a Student: three fit a page.
            names = list(dict.fromkeys(row["student"] for row in rows))[:3]
            yield (
                f"layers_{view}_{_slug(group['name'])}",
                f"{group['name']}: scores over the layers on {words}.{several}{over}",
                plot_layer_scores([row for row in rows if row["student"] in names]),
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


def seeds(record: Record) -> Figure:
    """Scores of single pairs beside their null, for each group and layer, on whole images."""
    questions = {
        "rs_distilled": "RS distilled",
        "teacher_distilled": "Teacher's share",
        "teacher_only_distilled": "beyond the labels",
    }
    if any(guide["is_placebo"] for guide in record["plan"]["guides"]):
        questions["teacher_distilled_over_placebos"] = "over placebos"
    layers, groups = record["plan"]["layers"], record["plan"]["groups"]
    figure = Figure(figsize=(WIDTH, 1.9 * len(questions) + 0.6), layout="constrained")
    panels = figure.subplots(len(questions), len(layers), sharey="row", squeeze=False)
    compared: dict[tuple[str, str, str], tuple[list[float], list[float]]] = {}
    for each in seed_comparisons(record):
        if each.view == WHOLE:
            across, null = compared.setdefault((each.group, each.test["score"], each.test["layer"]), ([], []))
            across += each.students
            null += each.null
    for number, (line, (question, words)) in enumerate(zip(panels, questions.items())):
        for axis, layer in zip(line, layers):
            axis.axhline(0.0, color="0.7", linewidth=0.6)
            for place, group in enumerate(groups):
                across, null = compared.get((group["name"], question, layer), ([], []))
                draw_values(axis, place - 0.18, null, NULL, 0.33)
                draw_values(axis, place + 0.18, across, COLORS[place % len(COLORS)], 0.33)
            axis.set_xticks(range(len(groups)))
            prepare_axis(axis)
            axis.set_xticklabels([])
            if number == 0:
                axis.set_title(layer, fontsize=SMALL)
            if number == len(questions) - 1:
                axis.set_xticklabels([group["name"] for group in groups], rotation=30, ha="right", fontsize=SMALL - 1)
        line[0].set_ylabel(words, fontsize=SMALL)
    return figure
