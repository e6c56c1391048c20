"""Tables of variants of UniCAM's maps on trained networks: weights, several layers, eigen smoothing, mirrored images.

Reads the output folders of examples and prints a table for each::

    python docs/scripts/map_variants.py --quickstart outputs/quickstart10 --asirra outputs/asirra

Pairs, nulls and measures are those of ``compare_maps.py``, keep only for photographs. Maps explain the class that a pair's
first network predicts.
"""

from __future__ import annotations

from typing import Sequence

import torch
from captum.attr import LayerAttribution
from compare_maps import DIFFERENCE, DISTILLED, NULL, STEPS, Maps, Row, Scenes, agreements, curves, on_object, spread
from torch import Tensor, nn
from trained_runs import TrainedRun, named_runs, parser_of_runs, read_run

from captum_kd import UniCAM, flatten
from captum_kd.metrics import random_attributions
from distillation.training import predict

MEASURES = {"energy": "energy on the object", "auc": "AUC of the object", "keep": "keep", "agreement": "r over pairs"}


def variants(first: nn.Module, second: nn.Module, layers: Sequence[str], scenes: Scenes, target: Tensor) -> Maps:
    """UniCAM's maps of the first network given the second, (N, 1, ...) each."""
    maps: Maps = {}
    images, size = scenes.images, scenes.images.shape[-2:]
    pooled = UniCAM(first, scenes.layer, second)
    reference = pooled.reference(*scenes.reference)
    found = pooled.attribute_transfer(images, target, reference=reference, n_steps=STEPS)
    maps[Row("pooled features", "integrated", DISTILLED)] = found.distilled
    maps[Row("pooled features", "net", DIFFERENCE)] = found.net
    for weights in ("mean", "elementwise", "pooled"):
        unicam = UniCAM(first, scenes.layer, second, feature_transform=flatten, weights=weights)
        population = unicam.reference(*scenes.reference)
        for kind, n_steps in (("gradient", None), ("integrated", STEPS)):
            flat = unicam.attribute_transfer(images, target, reference=population, n_steps=n_steps)
            maps[Row(f'flattened, "{weights}"', kind, DISTILLED)] = flat.distilled
        if flat.has_unit:
            maps[Row(f'flattened, "{weights}"', "net", DIFFERENCE)] = flat.net

    several = UniCAM(first, list(layers), second)
    of_layers = several.attribute_transfer(images, target, reference=several.reference(*scenes.reference), n_steps=STEPS)
    title = f"mean of {' and '.join(layers)}"
    maps[Row(title, "integrated", DISTILLED)] = mean_over_layers(of_layers.distilled, size)
    maps[Row(title, "net", DIFFERENCE)] = mean_over_layers(of_layers.net, size)

    channels = pooled.attribute(images, target, reference=reference, n_steps=STEPS, attr_dim_summation=False)
    maps[Row("eigen smoothing", "integrated", DISTILLED)] = first_component(channels)

    mirrored = pooled.attribute_transfer(images.flip(3), target, reference=reference, n_steps=STEPS)
    for row in (Row("pooled features", "integrated", DISTILLED), Row("pooled features", "net", DIFFERENCE)):
        other = mirrored.net if row.of == DIFFERENCE else mirrored.distilled
        maps[row._replace(map="with mirrored images")] = (maps[row] + other.flip(3)) / 2
    return maps


def mean_over_layers(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The mean of integrated maps of several layers, at the size of the images."""
    pixels = size[0] * size[1]
    parts = [LayerAttribution.interpolate(each, tuple(size), "bilinear") * (each[0].numel() / pixels) for each in maps]
    return torch.stack(parts).mean(0)


def first_component(channels: Tensor) -> Tensor:
    """The first principal component of weighted activations (N, C, h, w) over positions, with the sign of their sum."""
    centered = channels.flatten(2) - channels.flatten(2).mean(2, keepdim=True)
    component = torch.linalg.svd(centered, full_matrices=False)
    scores = component.Vh[:, 0] * component.S[:, :1]
    sign = (scores * centered.sum(1)).sum(1, keepdim=True).sign()
    return (scores * sign).unflatten(1, channels.shape[2:])[:, None]


def measured(run: TrainedRun, pairs: int, images: int) -> list[str]:
    """A Markdown table of a run's first pairs and images."""
    group, count = run.plan.groups[0], min(pairs, run.settings.seeds)
    students = [run.network(name) for name in group.students(run.settings.seeds)[:count]]
    bases = [run.network(name) for name in run.plan.bases(run.settings.seeds)[:count]]
    examples, size, layers = run.fold.test[:images], run.settings.image_size, run.plan.layers[-2:]
    scenes = Scenes(examples.inputs(size), (run.fold.reference.inputs(size), run.fold.reference.labels), layers[-1])
    values: dict[Row, dict[str, list[float]]] = {}
    maps: list[Maps] = []
    for i, (student, base) in enumerate(zip(students, bases)):
        found = variants(student, base, layers, scenes, predict(student, examples, size))
        null = variants(base, bases[(i + 1) % count], layers, scenes, predict(base, examples, size))
        found |= {row._replace(of=NULL): each for row, each in null.items()}
        like = found[Row("pooled features", "integrated", DISTILLED)]
        found[Row("random", "", "")] = random_attributions(like, generator=torch.Generator().manual_seed(i))
        maps.append(found)
        if examples.masks is None:
            scores = curves(student, scenes.images, examples.labels, found)
        else:
            scores = {row: on_object(each, examples.masks) for row, each in found.items()}
        for row, of_row in scores.items():
            for measure, value in of_row.items():
                values.setdefault(row, {}).setdefault(measure, []).append(value)
    for row in values:
        values[row]["agreement"] = agreements(maps, row)
    shown = [name for name in MEASURES if all(name in of_row for of_row in values.values())]
    order = list(dict.fromkeys(row.map for row in values))
    lines = [
        f"{run.task.name}: {count} pairs, {len(examples)} images, {len(run.fold.reference)} references; mean (SD over pairs)", "",
        "| variant | map | of | " + " | ".join(MEASURES[name] for name in shown) + " |",
        "| --- | --- | --- |" + " --- |" * len(shown),
    ]  # fmt: skip
    for row in sorted(values, key=lambda each: (order.index(each.map), each.objective)):
        lines.append("| " + " | ".join([*row, *(spread(values[row][name]) for name in shown)]) + " |")
    return [*lines, ""]


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of_runs(__doc__)
    arguments = parser.parse_args(argv)
    runs = named_runs(parser, arguments)
    for example, folder in runs:
        print("\n".join(measured(read_run(example, folder), arguments.pairs, arguments.images)), flush=True)


if __name__ == "__main__":
    main()
