"""The hue control: maps of Students of two Teachers, one of which names the digit and the other one the background's hue.

Takes the Teacher, Students and Bases of a run of the quickstart. It trains a second Teacher on scenes whose labels are the
hues, and Students of that Teacher on the training scenes of the first Students. Writes ``docs/images/hue_control.png``,
``docs/tables/hue_control.md`` and ``docs/tables/hue_control.csv``::

    python examples/quickstart.py --seeds 10 --student resnet-s --batch-size 32 --output outputs/quickstart10
    python docs/scripts/hue_control.py outputs/quickstart10

What is trained is kept in ``--networks``, and the next call goes on from there.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np
from captum.attr import LayerGradCam
from compare_maps import GRAD_CAM, GRADIENT, INTEGRATED, STEPS, object_auc, spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from trained_runs import DOCS, TrainedRun, read_run

from captum_kd import UniCAM
from distillation.digits import paint_scenes, split_digits
from distillation.drawing import COLORS, NULL, SMALL, WIDTH, draw_values, prepare_axis
from distillation.experiment import seeded
from distillation.randomness import derived
from distillation.settings import Settings
from distillation.task import Examples
from distillation.techniques import make
from distillation.training import TrainingSetup, fit, predict

DIGIT, HUE, NOBODY = "digit", "hue", "Base"
"""Who taught the network that is explained."""
Case = tuple[str, str, str]
"""Kind of map, who taught the network, and the Teacher that the map is about."""
SHOWN: tuple[Case, ...] = (
    (INTEGRATED, DIGIT, DIGIT), (INTEGRATED, DIGIT, HUE), (INTEGRATED, HUE, HUE), (GRAD_CAM, DIGIT, ""), (GRAD_CAM, HUE, ""),
)  # fmt: skip
"""The figure's columns."""
ROWS = 5
"""Scenes in the figure."""


def hue_networks(run: TrainedRun, pairs: int, folder: Path) -> tuple[nn.Module, list[nn.Module]]:
    """A Teacher that names the background's hue, and Students of it."""
    settings = replace(run.settings, output=folder)
    digits, _, _ = split_digits(np.random.default_rng(settings.seed))
    scenes = paint_scenes(digits, settings.teacher_images, np.random.default_rng(derived(settings.seed, "hues")))
    by_hue = Examples(scenes.examples.store, scenes.hues)
    teacher = trained("Hue Teacher", settings.teacher, by_hue, run, settings)
    return teacher, [
        trained(f"Student of the hue Teacher {i + 1}", settings.student, run.fold.train, run, settings, teacher)
        for i in range(pairs)
    ]


def trained(
    name: str, architecture: str, examples: Examples, run: TrainedRun, settings: Settings, guide: Optional[nn.Module] = None
) -> nn.Module:
    """A network that is trained as those of the quickstart are, or read from the folder."""
    seed = derived(settings.seed, "hue control", name)
    network = seeded(seed, architecture, len(run.task.classes), "none")
    layers = run.plan.layers
    technique = guide and make(
        "response", guide, network, layers=layers, guide_layers=layers, settings=settings, seed=seed,
        sample=examples[:1].inputs(),
    )  # fmt: skip
    epochs = settings.epochs if guide else settings.teacher_epochs
    # The digits of the validation scenes decide nothing; for the hue Teacher their accuracy means nothing either.
    setup = TrainingSetup(name, network, examples, run.fold.test, epochs, settings, seed, technique)
    return fit(setup, resume=True).network


class Result(NamedTuple):
    """
    Attributes:
        values: AUC of the digit by kind of map, network and Teacher, one for each pair.
        maps: of the first pair.
        scenes: the explained images with masks.
    """

    values: dict[Case, list[float]]
    maps: dict[Case, Tensor]
    scenes: Examples


def measured(run: TrainedRun, pairs: int, images: int, folder: Path) -> Result:
    """Explains the networks of every pair and finds out how far the maps lie on the digit."""
    layer, seeds = run.plan.layers[-1], run.settings.seeds
    students, bases = run.plan.groups[0].students(seeds), run.plan.bases(seeds)
    pairs = min(pairs, seeds)
    hue_teacher, of_hue = hue_networks(run, pairs, folder)
    teachers = {DIGIT: run.network(run.plan.groups[0].teacher), HUE: hue_teacher}
    scenes, reference = run.fold.test[:images], run.fold.reference.inputs()
    inputs = scenes.inputs()
    assert scenes.masks is not None
    values: dict[Case, list[float]] = {}
    first: dict[Case, Tensor] = {}
    for i in range(pairs):
        base, second = run.network(bases[i]), run.network(bases[(i + 1) % pairs])
        maps: dict[Case, Tensor] = {}
        for name, network in ((DIGIT, run.network(students[i])), (HUE, of_hue[i]), (NOBODY, second)):
            for asked, teacher in teachers.items():
                unicam = UniCAM(network, layer, base, teacher_func=teacher)
                population = unicam.reference(reference)
                for kind, n_steps in ((INTEGRATED, STEPS), (GRADIENT, None)):
                    maps[kind, name, asked] = unicam.attribute(inputs, reference=population, n_steps=n_steps)
            predicted = predict(network, scenes)
            maps[GRAD_CAM, name, ""] = LayerGradCam(network, network.get_submodule(layer)).attribute(inputs, predicted)
        for case, each in maps.items():
            values.setdefault(case, []).append(float(object_auc(each.detach(), scenes.masks).mean()))
        first = first or {case: each.detach() for case, each in maps.items()}
    return Result(values, first, scenes)


# ----------------------------------------------------------------------------- figure and tables


def draw(result: Result) -> Figure:
    """Maps of the first pair's first scenes, and below them the AUC of the digit in all pairs."""
    figure = Figure(figsize=(WIDTH, 8.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.9, 1.0])
    cases = [case for case in SHOWN if case in result.maps]
    axes = above.subplots(ROWS, 1 + len(cases))
    pictures = result.scenes.inputs()[:ROWS].permute(0, 2, 3, 1).numpy()
    for row, line in enumerate(axes):
        for axis, case in zip(line, (None, *cases)):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(pictures[row] if case is None else pictures[row].mean(2), cmap="gray", vmin=0, vmax=1)
            if case is not None:
                draw_map(axis, result.maps[case][row : row + 1], pictures.shape[1:3])
            axis.contour(result.scenes.masks[row], [0.5], colors="black", linewidths=0.6)
            if row == 0:
                axis.set_title("scene" if case is None else title(case), fontsize=SMALL - 1)
    axis = below.subplots()
    axis.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    for place, case in enumerate(case for case in result.values if case[0] == INTEGRATED):
        color = NULL if case[1] == NOBODY else COLORS[(DIGIT, HUE).index(case[1])]
        draw_values(axis, place, result.values[case], color, 0.8)
    named = [title(case, kind=False) for case in result.values if case[0] == INTEGRATED]
    axis.set_xticks(range(len(named)), named)
    axis.set_ylabel("AUC of the digit,\nintegrated maps", fontsize=SMALL)
    axis.set_ylim(0, 1)
    prepare_axis(axis)
    return figure


def draw_map(axis: Axes, values: Tensor, size: tuple[int, int]) -> None:
    """A signed map over a picture: red is positive, blue negative, each map on its own scale."""
    pixels = nn.functional.interpolate(values, size, mode="bilinear")[0, 0]
    top = float(pixels.abs().max())
    axis.imshow(pixels, cmap="RdBu_r", vmin=-top, vmax=top, alpha=0.7)


def title(case: Case, kind: bool = True) -> str:
    """Of a column or a tick."""
    name, network, teacher = case
    lines = [f"{network} Student" if network != NOBODY else "null: another Base", f"{teacher} Teacher" if teacher else ""]
    return "\n".join([*([name] if kind else []), *filter(None, lines)])


def write_tables(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pairs, images = len(next(iter(result.values.values()))), len(result.scenes)
    rows = [("map", "network", "Teacher of the map", "AUC of the digit")]
    rows += [(*case, spread(each)) for case, each in result.values.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    text = ["# Hue control", "", f"{pairs} pairs of networks, {images} scenes: mean (SD over pairs). Chance is .5.", ""]
    (folder / "hue_control.md").write_text("\n".join([*text, lines[0], "| --- | --- | --- | --- |", *lines[1:], ""]))
    with open(folder / "hue_control.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("map", "network", "teacher", "pair", "auc"))
        writer.writerows((*case, i + 1, value) for case, each in result.values.items() for i, value in enumerate(each))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="output folder of a run of the quickstart with two seeds or more")
    parser.add_argument("--networks", type=Path, default=Path("outputs") / "hue_control",
                        help="folder for the networks that are trained here; default: %(default)s")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=5, help="pairs of networks, at most; default: %(default)s")
    parser.add_argument("--images", type=int, default=150, help="scenes that are explained, at most; default: %(default)s")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write; default: %(default)s")
    arguments = parser.parse_args(argv)
    result = measured(read_run("quickstart", arguments.run), arguments.pairs, arguments.images, arguments.networks)
    write_tables(result, arguments.docs / "tables")
    (arguments.docs / "images").mkdir(parents=True, exist_ok=True)
    draw(result).savefig(arguments.docs / "images" / "hue_control.png", dpi=170)


if __name__ == "__main__":
    main()
