"""Five metrics of Quantus, and three that do not fit, on UniCAM's maps, Grad-CAM and random maps of trained networks.

Reads the output folder of a quickstart run and writes ``docs/tables/quantus.md``. Needs Quantus (the extra ``docs``)::

    python examples/quickstart.py --seeds 10 --student resnet-s --batch-size 32 --output outputs/quickstart10
    python docs/scripts/quantus_metrics.py outputs/quickstart10

Student i is compared with Base i. The null of the net map puts Base i in the Student's place and the next Base in the
Base's. Each row's metrics use the network that the row explains, and the class that this network predicts.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
import quantus
import torch
from captum.attr import LayerAttribution, LayerGradCam
from compare_maps import spread
from torch import Tensor, nn
from trained_runs import DOCS, TrainedRun, read_run

from captum_kd import UniCAM
from captum_kd.metrics import random_attributions

Explain = Callable[..., np.ndarray]
SPEARMAN = quantus.similarity_func.correlation_spearman
QUIET = {"disable_warnings": True}
METRICS: dict[str, quantus.Metric] = {
    "faithfulness correlation": quantus.FaithfulnessCorrelation(**QUIET),
    "max sensitivity": quantus.MaxSensitivity(nr_samples=10, **QUIET),
    "rank accuracy": quantus.RelevanceRankAccuracy(**QUIET),
    "sparseness": quantus.Sparseness(**QUIET),
    "r, other class": quantus.RandomLogit(num_classes=10, similarity_func=SPEARMAN, **QUIET),
    "r, random weights": quantus.MPRT(
        similarity_func=SPEARMAN, abs=False, skip_layers=True, return_last_correlation=True, **QUIET
    ),
}
UNFIT: dict[str, quantus.Metric] = {
    "mass accuracy": quantus.RelevanceMassAccuracy(**QUIET),
    "completeness": quantus.Completeness(**QUIET),
}


class Scenes(NamedTuple):
    """Images to explain (N, 3, H, W), masks of the object (N, H, W), the reference population and the layer."""

    images: Tensor
    masks: Tensor
    reference: tuple[Tensor, Tensor]
    layer: str


# ----------------------------------------------------------------------------- maps


def enlarged(maps: Tensor, inputs: np.ndarray) -> np.ndarray:
    """Maps (N, 1, h, w) at the resolution of the inputs, as Quantus wants them."""
    return np.asarray(LayerAttribution.interpolate(maps.detach(), inputs.shape[-2:], "bilinear"))


def unicam_maps(
    kind: str, base: nn.Module, scenes: Scenes, model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any
) -> np.ndarray:
    """UniCAM's map of a model given a Base; both are built for the model that Quantus passes."""
    unicam = UniCAM(model, scenes.layer, base)
    population = unicam.reference(*scenes.reference)
    x, labels = torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)
    n_steps = None if kind == "gradient" else 16
    found = unicam.attribute_transfer(x, labels, reference=population, n_steps=n_steps)
    return enlarged(found.net if kind == "net" else found.distilled, inputs)


def grad_cam_maps(scenes: Scenes, model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    gradcam = LayerGradCam(model, model.get_submodule(scenes.layer))
    return enlarged(gradcam.attribute(torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)), inputs)


def random_maps(scenes: Scenes, generator: torch.Generator, **arguments: Any) -> np.ndarray:
    """Maps with the values and the smoothness of Grad-CAM's, at other places in each call."""
    found = torch.as_tensor(grad_cam_maps(scenes, **arguments))
    return np.asarray(random_attributions(found, generator=generator))


def explained(
    i: int, students: Sequence[nn.Module], bases: Sequence[nn.Module], scenes: Scenes
) -> dict[str, tuple[nn.Module, Explain]]:
    """Rows of the table for pair i: the model that Quantus gets, and the explain_func."""
    student, base, second = students[i], bases[i], bases[(i + 1) % len(bases)]
    return {
        "net, Student and Base": (student, partial(unicam_maps, "net", base, scenes)),
        "net, two Bases (null)": (base, partial(unicam_maps, "net", second, scenes)),
        "distilled, integrated": (student, partial(unicam_maps, "distilled", base, scenes)),
        "distilled, two Bases (null)": (base, partial(unicam_maps, "distilled", second, scenes)),
        "distilled, paper's gradient": (student, partial(unicam_maps, "gradient", base, scenes)),
        "Grad-CAM, Student": (student, partial(grad_cam_maps, scenes)),
        "Grad-CAM, Base": (base, partial(grad_cam_maps, scenes)),
        "random": (student, partial(random_maps, scenes, torch.Generator().manual_seed(i))),
    }


# ----------------------------------------------------------------------------- scores


class Explained(NamedTuple):
    """A model, the function that explains it, the classes that it predicts (N,) and its maps (N, 1, H, W)."""

    model: nn.Module
    explain: Explain
    predicted: np.ndarray
    maps: np.ndarray


def explain_scenes(model: nn.Module, explain: Explain, scenes: Scenes) -> Explained:
    with torch.no_grad():
        predicted = model(scenes.images).argmax(1).numpy()
    return Explained(model, explain, predicted, explain(model=model, inputs=scenes.images.numpy(), targets=predicted))


def scores(metric: quantus.Metric, row: Explained, scenes: Scenes) -> np.ndarray:
    """(N,) scores of the images. Quantus draws subsets and noise from numpy's global generator: all rows get the same."""
    np.random.seed(0)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of constant arrays, whose correlation is NaN
        found = metric(
            row.model, scenes.images.numpy(), row.predicted, row.maps, s_batch=scenes.masks[:, None].numpy(),
            channel_first=True, explain_func=row.explain, batch_size=len(row.predicted),
        )  # fmt: skip
    return np.asarray(found, dtype=float)


def fixed(explain: Explain, model: nn.Module) -> Explain:
    """An explain_func that ignores the model it is passed: the mistake that the last table shows."""
    return lambda **arguments: explain(**{**arguments, "model": model})


def measured(run: TrainedRun, pairs: int, images: int) -> list[str]:
    """The lines of the table."""
    students = [run.network(name) for name in run.plan.groups[0].students(run.settings.seeds)]
    bases = [run.network(name) for name in run.plan.bases(run.settings.seeds)]
    pairs = min(pairs, len(students))
    size, few, reference = run.settings.image_size, run.fold.test[:images], run.fold.reference
    scenes = Scenes(few.inputs(size), few.masks, (reference.inputs(size), reference.labels), run.plan.layers[-1])
    values: dict[str, dict[str, list[float]]] = {}
    undefined = dict.fromkeys(METRICS, 0)
    mass: dict[str, list[float]] = {}
    complete, blind = 0, []
    for i in range(pairs):
        print(f"pair {i + 1} of {pairs}", flush=True)
        rows = {name: explain_scenes(*each, scenes) for name, each in explained(i, students, bases, scenes).items()}
        for row, each in rows.items():
            for name, metric in METRICS.items():
                found = scores(metric, each, scenes)
                undefined[name] += int(np.isnan(found).sum())
                values.setdefault(row, {}).setdefault(name, []).append(float(np.nanmean(found)))
            mass.setdefault(row, []).extend(scores(UNFIT["mass accuracy"], each, scenes).tolist())
        net = rows["net, Student and Base"]
        complete += int(scores(UNFIT["completeness"], net, scenes).sum())
        ignoring = net._replace(explain=fixed(net.explain, net.model))
        blind.extend(scores(METRICS["r, random weights"], ignoring, scenes).tolist())
    total = pairs * len(few)
    lines = [
        "# Metrics of Quantus", "",
        f"Quantus {quantus.__version__}; {pairs} pairs of Student and Base; {len(few)} images, the same in all pairs; "
        f"{len(reference)} references; layer {scenes.layer}. Mean over pairs of the mean over images (SD over pairs). "
        f"The object has {float(scenes.masks.float().mean()):.1%} of the pixels. "
        "[The page](../quantus.md) explains rows and columns.", "",
        "| map | " + " | ".join(METRICS) + " |", "| --- |" + " --- |" * len(METRICS),
    ]  # fmt: skip
    lines += [f"| {row} | " + " | ".join(spread(each) for each in of_row.values()) + " |" for row, of_row in values.items()]
    count = len(values) * total
    left_out = ", ".join(f"{name} {n} of {count}" for name, n in undefined.items() if n)
    lines += ["", f"Scores that are NaN and left out of the means: {left_out or 'none'}.", ""]
    lines += ["| map | mass accuracy, smallest | median | largest | outside 0 to 1 |", "| --- | --- | --- | --- | --- |"]
    for row, found in mass.items():
        low, middle, high = np.nanquantile(found, (0, 0.5, 1))
        outside = sum(not 0 <= value <= 1 for value in found)
        lines.append(f"| {row} | {low:.2f} | {middle:.2f} | {high:.2f} | {outside} of {len(found)} |")
    lines += [
        "", f"Net maps that are complete for the logit (`Completeness`): {complete} of {total}. "
        f"`MPRT` of an `explain_func` that ignores its `model`: smallest r {min(blind):.3f}, {len(blind)} images.", "",
    ]  # fmt: skip
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="output folder of a run of examples/quickstart.py with two seeds or more")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of networks, at most; default: %(default)s")
    parser.add_argument("--images", type=int, default=30, help="images that are explained, at most; default: %(default)s")
    parser.add_argument("--output", type=Path, default=DOCS / "tables", help="where to write; default: %(default)s")
    arguments = parser.parse_args(argv)
    lines = measured(read_run("quickstart", arguments.run), arguments.pairs, arguments.images)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "quantus.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
