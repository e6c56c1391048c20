"""A table of maps: the paper's gradient, integrated and net maps, Grad-CAM and random maps, on trained networks.

Reads the output folders of examples and writes ``docs/tables/maps.md`` and ``docs/tables/maps.csv``::

    python examples/quickstart.py --seeds 10 --student resnet-s --batch-size 32 --output outputs/quickstart10
    python docs/scripts/compare_maps.py --quickstart outputs/quickstart10 --cifar10 outputs/cifar10 --asirra outputs/asirra

    python docs/scripts/compare_maps.py --cifar10 outputs/resnet18 --groups Response,Attention --layer layer3 --name maps_resnet18

Student i is compared with Base i. The null of a map puts Base i in the Student's place and the next Base in the Base's.
Every map of a pair explains the classes that its first network predicts, and keep and deletion curves are those of
Student i, so that rows can be compared.
"""

from __future__ import annotations

import copy
import csv
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, Sequence

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from trained_runs import DOCS, TrainedRun, named_runs, parser_of_runs, read_run

from captum_kd import UniCAM
from captum_kd.metrics import keep_curve, localization_score, map_reliability, random_attributions
from distillation.randomness import own_randomness
from distillation.training import predict

STEPS = 16
SHARES = (0.1, 0.3, 0.5)
"""Of the pixels that are kept, or removed. With more of them kept, all maps keep nearly the whole image."""
GRADIENT, INTEGRATED, NET, GRAD_CAM, RANDOM = "paper's gradient", "integrated", "net", "Grad-CAM", "random"
DISTILLED, RESIDUAL, DIFFERENCE, NULL, STUDENT, BASE = "distilled", "residual", "difference", "null", "Student", "Base"
ORDER = (DISTILLED, RESIDUAL, DIFFERENCE, STUDENT, BASE, NULL, "")

MEASURES = {
    "energy": "energy on the object",
    "pointing": "pointing game",
    "auc": "AUC of the object",
    "keep": "keep",
    "deletion": "deletion",
    "agreement": "r over pairs",
    "block": "r, random block",
    "network": "r, random network",
}
HEADING = (
    "# Maps, compared", "",
    "Mean over pairs of Student and Base (SD over pairs). [Which map to use](../maps.md) explains rows and columns.", "",
)  # fmt: skip
COLUMNS = ("data", "map", "objective", "of", "measure", "mean", "sd", "pairs", "images")


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        map: kind of map.
        objective: what UniCAM's map is about, the labels or the Teacher.
        of: the network that is explained, or the null.
    """

    map: str
    objective: str
    of: str


Maps = dict[Row, Tensor]


class Scenes(NamedTuple):
    """Images to explain (N, 3, H, W), the reference population and the layer."""

    images: Tensor
    reference: tuple[Tensor, Tensor]
    layer: str


# ----------------------------------------------------------------------------- maps


def transfer_maps(first: nn.Module, second: nn.Module, teacher: nn.Module, scenes: Scenes, target: Tensor) -> Maps:
    """UniCAM's maps of the first network given the second, and the other way round; (N, 1, h, w) each."""
    maps: Maps = {}
    for objective, teacher_func in (("labels", None), ("Teacher", teacher)):
        unicam = UniCAM(first, scenes.layer, second, teacher_func=teacher_func)
        population = unicam.reference(*scenes.reference)
        for kind, n_steps in ((GRADIENT, None), (INTEGRATED, STEPS)):
            found = unicam.attribute_transfer(scenes.images, target, reference=population, n_steps=n_steps)
            maps[Row(kind, objective, DISTILLED)] = found.distilled
            maps[Row(kind, objective, RESIDUAL)] = found.residual
        maps[Row(NET, objective, DIFFERENCE)] = found.net
    return maps


def maps_of_pair(
    trio: Sequence[nn.Module], teacher: nn.Module, scenes: Scenes, targets: dict[str, Tensor], generator: torch.Generator
) -> Maps:
    """All maps of a Student and a Base.

    Args:
        trio: Student, Base and the second Base of the null.
        teacher: the Teacher.
        scenes: what is explained.
        targets: (N,) classes that the Student and the Base predict.
        generator: source of the random maps.
    """
    student, base, second = trio
    maps = transfer_maps(student, base, teacher, scenes, targets[STUDENT])
    for row, values in transfer_maps(base, second, teacher, scenes, targets[BASE]).items():
        if row.of in (DISTILLED, DIFFERENCE):
            maps[row._replace(of=NULL)] = values
    for of, network in zip((STUDENT, BASE), trio):
        gradcam = LayerGradCam(network, network.get_submodule(scenes.layer))
        maps[Row(GRAD_CAM, "", of)] = gradcam.attribute(scenes.images, targets[of])
    like = maps[Row(INTEGRATED, "labels", DISTILLED)]
    maps[Row(RANDOM, "", "")] = random_attributions(like, generator=generator)
    kinds = list(dict.fromkeys((row.map, row.objective) for row in maps))
    return {row: maps[row].detach() for row in sorted(maps, key=lambda row: (kinds.index(row[:2]), ORDER.index(row.of)))}


def randomized(network: nn.Module, part: str, seed: int) -> nn.Module:
    """A copy of the network with new random weights in one of its modules, or in all of it for the empty name."""
    found = copy.deepcopy(network)
    with own_randomness(seed, "randomization"):
        for module in found.get_submodule(part).modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return found


# ----------------------------------------------------------------------------- measures


def on_object(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Energy share, pointing game, and the AUC of the object's pixels by the signed map: means over images."""
    with warnings.catch_warnings():  # maps without positive energy count as 0
        warnings.simplefilter("ignore", UserWarning)
        scores = localization_score(maps, masks)
    return {
        "energy": float(scores.energy_share.mean()),
        "pointing": float(scores.pointing_game.mean()),
        "auc": float(object_auc(maps, masks).mean()),
    }


def object_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """(N,) probability that a pixel of the object has a larger value than one outside; .5 is chance."""
    pixels = nn.functional.interpolate(maps, masks.shape[-2:], mode="bilinear").flatten(1)
    ranks = pixels.argsort(1).argsort(1).double()
    inside = masks.flatten(1).double()
    count = inside.sum(1)
    above = (ranks * inside).sum(1) - count * (count - 1) / 2
    return above / (count * (inside.shape[1] - count))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson correlation over the positions of two maps of one image: the mean over images."""
    with warnings.catch_warnings():  # constant maps count as 0
        warnings.simplefilter("ignore", UserWarning)
        return map_reliability({"one": one, "other": other}).mean


def agreements(maps: Sequence[Maps], row: Row) -> list[float]:
    """For each pair of networks, the mean correlation of its maps with those of pairs without a common network."""
    count = len(maps)
    if row.of == NULL and count < 4:
        return []  # each null pair shares a Base with all others
    names = [(i, (i + 1) % count) if row.of == NULL else (i,) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = map_reliability({name: each[row] for name, each in zip(names, maps)})
    return ((found.matrix * found.is_disjoint).sum(1) / found.is_disjoint.sum(1)).tolist()


def measured(
    run: TrainedRun, pairs: int, images: int, name: str = "", layer: str = ""
) -> tuple[dict[str, Any], dict[Row, dict[str, list[float]]]]:
    """Everything that is measured on a run.

    Args:
        run: the trained networks.
        pairs: of Student and Base, at most.
        images: those that are explained, at most.
        name: of the group of Students; by default the first one.
        layer: of the maps; by default the last one that the run compares.

    Returns:
        What the reader must know of the run; and for each row and measure the values of the pairs.
    """
    groups = {each.name: each for each in run.plan.groups}
    if name and name not in groups:
        raise SystemExit(f"{run.folder} has no Students {name!r}; choose among {', '.join(groups)}.")
    group = groups[name] if name else run.plan.groups[0]
    count = min(pairs, run.settings.seeds)
    if count < 2:
        raise SystemExit(f"Maps are compared over two pairs of networks or more; {run.folder} has one. Take a run of more seeds.")
    students = [run.network(name) for name in group.students(run.settings.seeds)[:count]]
    bases = [run.network(name) for name in run.plan.bases(run.settings.seeds)[:count]]
    teacher = run.network(group.teacher)
    examples, size, layer = run.fold.test[:images], run.settings.image_size, layer or run.plan.layers[-1]
    reference = run.fold.reference
    scenes = Scenes(examples.inputs(size), (reference.inputs(size), reference.labels), layer)

    values: dict[Row, dict[str, list[float]]] = {}
    maps: list[Maps] = []
    for i, (student, base) in enumerate(zip(students, bases)):
        trio = student, base, bases[(i + 1) % count]
        targets = {name: predict(network, examples, size) for name, network in ((STUDENT, student), (BASE, base))}
        generator = torch.Generator().manual_seed(i)
        maps.append(maps_of_pair(trio, teacher, scenes, targets, generator))
        found: dict[Row, dict[str, float]] = {row: {} for row in maps[-1]}
        for measure, part in (("block", layer), ("network", "")):
            again = [randomized(network, part, seed) for seed, network in enumerate(trio)]
            for row, each in maps_of_pair(again, teacher, scenes, targets, generator).items():
                found[row][measure] = correlation(each, maps[-1][row])
        for row, scores in curves(student, scenes.images, examples.labels, maps[-1]).items():
            found[row] |= scores
        for row, each in maps[-1].items():
            if examples.masks is not None:
                found[row] |= on_object(each, examples.masks)
            for measure, value in found[row].items():
                values.setdefault(row, {}).setdefault(measure, []).append(value)
    for row in values:
        values[row]["agreement"] = agreements(maps, row)
    accuracy = {
        name: [float((predict(each, run.fold.test, size) == run.fold.test.labels).double().mean()) for each in networks]
        for name, networks in (("Teacher", [teacher]), ("Students", students), ("Bases", bases))
    }
    about = {
        "data": run.task.name + (f", {name}" if name else ""), "pairs": count, "images": len(examples),
        "references": len(reference), "layer": layer, "accuracy": accuracy, "held_out": len(run.fold.test),
        "chance": None if examples.masks is None else float(examples.masks.float().mean()),
    }  # fmt: skip
    return about, values


def curves(student: nn.Module, images: Tensor, labels: Tensor, maps: Maps) -> dict[Row, dict[str, float]]:
    """The Student's mean accuracy on the most salient pixels of each map, and without the most salient ones."""
    scores: dict[Row, dict[str, float]] = {row: {} for row in maps}
    removed = tuple(1 - share for share in reversed(SHARES))
    for name, sign, shares in (("keep", 1, SHARES), ("deletion", -1, removed)):
        signed = {str(number): sign * each for number, each in enumerate(maps.values())}
        found = keep_curve(student, images, labels, signed, shares=shares, max_examples_per_batch=256)
        for of_row, curve in zip(scores.values(), found.values()):
            of_row[name] = float(curve.accuracy.mean())
    return scores


# ----------------------------------------------------------------------------- tables


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation, as ".412 (.013)"."""
    if not values:
        return "-"
    texts = [f"{value:.{digits}f}".replace("0.", ".", 1) for value in (mean(values), *([stdev(values)] if values[1:] else []))]
    return texts[0] + "".join(f" ({text})" for text in texts[1:])


def markdown(about: dict[str, Any], values: dict[Row, dict[str, list[float]]]) -> list[str]:
    """The table of a run, a row for each map."""
    shown = {name: title for name, title in MEASURES.items() if all(name in of_row for of_row in values.values())}
    accuracy = ", ".join(f"{name} {spread(each)}" for name, each in about["accuracy"].items())
    chance = "" if about["chance"] is None else f" The object has {about['chance']:.1%} of the pixels."
    lines = [
        f"## {about['data']}", "",
        f"{about['pairs']} pairs of Student and Base, {about['images']} images, {about['references']} references, layer "
        f"{about['layer']}. Accuracy on {about['held_out']} held-out images: {accuracy}.{chance}", "",
        "| map | objective | of | " + " | ".join(shown.values()) + " |", "| --- | --- | --- |" + " --- |" * len(shown),
    ]  # fmt: skip
    for row, of_row in values.items():
        lines.append("| " + " | ".join([row.map, row.objective, row.of, *(spread(of_row[name]) for name in shown)]) + " |")
    return [*lines, ""]


def records(about: dict[str, Any], values: dict[Row, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """The same in long form."""
    return [
        {
            "data": about["data"], **row._asdict(), "measure": name, "mean": mean(each) if each else "",
            "sd": stdev(each) if each[1:] else "", "pairs": about["pairs"], "images": about["images"],
        }
        for row, of_row in values.items()
        for name, each in of_row.items()
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of_runs(__doc__)
    parser.add_argument("--groups", default="", help="names of groups of Students, commas between; default: each run's first")
    parser.add_argument("--layer", default="", help="layer of the maps; default: the last one that is compared")
    parser.add_argument("--name", default="maps", help="name of the two files; default: %(default)s")
    parser.add_argument("--output", type=Path, default=DOCS / "tables", help="where to write; default: %(default)s")
    arguments = parser.parse_args(argv)
    runs = named_runs(parser, arguments)
    counts = arguments.pairs, arguments.images
    groups = arguments.groups.split(",")
    tables = [measured(read_run(example, folder), *counts, name, arguments.layer) for example, folder in runs for name in groups]
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / f"{arguments.name}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(record for table in tables for record in records(*table))
    text = [*HEADING, *(line for table in tables for line in markdown(*table))]
    (arguments.output / f"{arguments.name}.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
