"""What an experiment writes and prints. It states what came out and draws no conclusion that the numbers do not."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import Tensor

from captum_kd.metrics import KeepCurve, TransferReport
from captum_kd.perturb import relevant_pixels
from captum_kd.visualization import plot_keep_curve, plot_layer_scores, visualize_transfer
from distillation.explaining import DISTILLED, mean_and_error
from distillation.task import Examples, Task, first_of_each_class

__all__ = [
    "EXPLANATIONS",
    "as_record",
    "machine",
    "print_results",
    "save_keep_curves",
    "save_layers",
    "save_report",
    "save_transfer",
    "versions",
]

EXPLANATIONS = {
    "accuracy": "Share of held-out images classified correctly.",
    "fss": "Feature similarity score: unbiased squared distance correlation of the Student's and the Base model's "
    "features, 1 when both arrange the images alike.",
    "rs_student": "Relevance score: the same between the Student's features and the labels.",
    "rs_base": "The same for the Base model.",
    "rs_distilled": "Relevance of the Student's features after the Base model's are removed.",
    "rs_residual": "Relevance of the Base model's features after the Student's are removed.",
    "teacher_distilled": "How far what the Student has and the Base lacks is the Teacher's.",
    "teacher_residual": "How far what the Base has and the Student lacks is the Teacher's.",
    "teacher_only_distilled": "The same with the labels' geometry removed from the Teacher's first.",
    "teacher_only_residual": "The same with the labels' geometry removed from the Teacher's first.",
    "unique_share": "1 - FSS^2: share of a network's geometry that is left after the other's is removed.",
    "localised_scores": "The same scores on images of which only the half that Grad-CAM calls salient is kept.",
    "localization": "Share of a map's positive values that falls on the object, and how often its maximum does; "
    "means over images. mask_area, the object's share of the image, is what a map that ignores the image has on average.",
    "keep_curves": "Accuracy of the Student on images of which only the most salient share of the pixels is kept, the "
    "rest imputed; area: mean accuracy over the shares. Grad-CAM, distilled and residual maps explain the true label and "
    "so tell it: accuracy may exceed that on whole images. The Teacher's map knows no labels.",
}


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    packages = ("captum", "captum_kd", "lightning", "numpy", "scikit-learn", "torch", "torchdistill", "torchvision")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine() -> dict[str, Any]:
    """What else they depend on: sums are made in another order on another number of threads."""
    return {"processor": platform.machine(), "threads": torch.get_num_threads()}


def as_record(curve: KeepCurve) -> dict[str, Any]:
    """A curve in plain numbers."""
    error = curve.area_standard_error
    return {
        "shares": curve.shares.tolist(),
        "accuracy": curve.accuracy.tolist(),
        "area": float(curve.area),
        "area_standard_error": None if error is None else float(error),
    }


def save_transfer(
    path: Path, task: Task, maps: Mapping[str, Tensor], examples: Examples, predictions: Mapping[str, Tensor], rows: int
) -> None:
    """The figure of maps: the first test image of each of the first classes, chosen by nobody."""
    shown = first_of_each_class(examples.labels, rows)
    chosen = examples[shown]
    images = chosen.inputs()
    size = (images.shape[2], images.shape[3])
    figure = visualize_transfer(
        images,
        {title: values[shown] for title, values in maps.items()},
        kept={"kept by distilled": relevant_pixels(maps[DISTILLED][shown], size)},
        masks=chosen.masks,
        # Maps of some images are far weaker than of others; the figure is to show where, the report how much.
        scale="map",
        row_labels=[
            "\n".join(
                [
                    f"true: {task.classes[int(examples.labels[row])]}",
                    *(f"{name}: {task.classes[int(labels[row])]}" for name, labels in predictions.items()),
                ]
            )
            for row in shown.tolist()
        ],
    )
    figure.savefig(path, dpi=150)


def save_layers(path: Path, report: TransferReport) -> None:
    """The figure of scores over the layers."""
    plot_layer_scores(report.rows).savefig(path, dpi=150)


def save_keep_curves(path: Path, curves: Mapping[str, KeepCurve], whole_accuracy: float) -> None:
    """The figure of accuracy against the share of pixels kept."""
    plot_keep_curve(curves, whole_accuracy=whole_accuracy).savefig(path, dpi=150)


def save_report(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def print_results(report: Mapping[str, Any], scores: TransferReport, curves: Mapping[str, KeepCurve]) -> None:
    """The report's numbers as tables."""
    chance = 1 / len(report["classes"])
    print(f"\nAccuracy on {report['counts']['test']} held-out images (chance {chance:.0%})")
    for name, value in report["accuracy"].items():
        print(f"  {name:<10}{value:7.1%}")

    print(f"\n{scores}")

    print("\nThe same on the half of each image that Grad-CAM calls salient: means over pairs")
    _print_means(report["localised_scores"]["rows"])

    where = report["localization"]
    if where is not None:
        print(f"\nMaps on the object, which covers {where['mask_area']:.1%} of an image (standard errors over images)")
        print(f"  {'':<24}{'positive energy':>18}{'maximum':>18}")
        for name, values in where["maps"].items():
            empty = f"   {values['empty_maps']} maps without positive values" if values["empty_maps"] else ""
            print(f"  {name:<24}{_share(values['energy_share']):>18}{_share(values['pointing_game']):>18}{empty}")
        print(f"  distilled - residual, image by image: {_share(where['distilled_minus_residual'])} of the energy")

    print("\nMean accuracy of the first Student with 10 to 90 % of the pixels kept, and what distilled has over it")
    print("  (all maps but the Teacher's and random ones explain the true label, and so tell it)")
    for name, curve in curves.items():
        gap, error = mean_and_error(curves[DISTILLED].areas - curve.areas)
        compared = "" if name == DISTILLED else f"   {gap:+.3f}" + ("" if error is None else f" ({error:.3f})")
        print(f"  {name:<24}{float(curve.area):.3f}{compared}")

    seconds = report["seconds"]
    print(f"\n{seconds['training']:.0f} s of training, {seconds['explaining']:.0f} s of explaining and measuring")


def _share(mean_and_its_error: tuple[float, float | None]) -> str:
    mean, error = mean_and_its_error
    return f"{mean:.1%}" + ("" if error is None else f" ({error:.1%})")


def _print_means(rows: list[dict[str, Any]]) -> None:
    scores = ("fss", "rs_student", "rs_base", "rs_distilled", "rs_residual", "teacher_distilled", "teacher_residual")
    print(f"  {'layer':<8}" + "".join(f"{score:>18}" if "teacher" in score else f"{score:>13}" for score in scores))
    for layer in dict.fromkeys(row["layer"] for row in rows):
        cells = []
        for score in scores:
            values = [row["value"] for row in rows if row["layer"] == layer and row["score"] == score]
            cells.append(f"{sum(values) / len(values):{18 if 'teacher' in score else 13}.3f}")
        print(f"  {layer:<8}" + "".join(cells))
