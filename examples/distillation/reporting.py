"""What an experiment writes and prints. It states what came out and draws no conclusion that the numbers do not."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Mapping, Sequence

from torch import Tensor

from captum_kd.visualization import plot_layer_scores, visualize_transfer
from distillation.explaining import EnergyShare
from distillation.task import Examples, Task, first_of_each_class

__all__ = ["EXPLANATIONS", "print_results", "save_layers", "save_report", "save_transfer", "versions"]

EXPLANATIONS = {
    "accuracy": "Share of held-out images classified correctly.",
    "fss": "Feature similarity score: unbiased squared distance correlation of the Student's and the Base model's "
    "features, 1 when both arrange the images alike.",
    "rs_student": "Relevance score: the same between the Student's features and the labels.",
    "rs_base": "The same for the Base model.",
    "rs_distilled": "Relevance of the Student's features after the Base model's are removed.",
    "rs_residual": "Relevance of the Base model's features after the Student's are removed. Distilled exceeds "
    "residual exactly where rs_student exceeds rs_base; a positive distilled score is no evidence of transfer by "
    "itself, since any other network of equal relevance would have one too.",
    "unique_share": "1 - FSS^2: share of a network's geometry that is left after the other's is removed.",
    "energy": "Share of a map's positive values that falls on the object, mean over images. mask_area, the object's "
    "share of the image, is what a map that ignores the image has on average.",
}


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    packages = ("captum", "lightning", "numpy", "torch", "torchdistill")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def save_transfer(
    path: Path, task: Task, maps: Mapping[str, Tensor], examples: Examples, predictions: Mapping[str, Tensor], rows: int
) -> None:
    """The figure of maps: the first test image of each of the first classes, chosen by nobody."""
    shown = first_of_each_class(examples.labels, rows)
    chosen = examples[shown]
    figure = visualize_transfer(
        chosen.inputs(),
        {title: values[shown] for title, values in maps.items()},
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


def save_layers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The figure of scores over the layers."""
    plot_layer_scores(rows).savefig(path, dpi=150)


def save_report(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def print_results(report: Mapping[str, Any]) -> None:
    """The report's numbers as tables."""
    chance = 1 / len(report["classes"])
    print(f"\nAccuracy on {report['counts']['test']} held-out images (chance {chance:.0%})")
    for name, value in report["accuracy"].items():
        print(f"  {name:<10}{value:7.1%}")

    rows = report["rows"]
    scores = list(dict.fromkeys(row["score"] for row in rows))
    print(f"\nScores on {rows[0]['n']} of them (at most 1; unbiased, so about 0 where there is no relation)")
    print(f"  {'layer':<10}" + "".join(f"{score:>14}" for score in scores) + f"{'unique share':>14}")
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = {row["score"]: row for row in rows if row["layer"] == layer}
        values = [own[score]["value"] for score in scores] + [own["rs_distilled"]["unique_share"]]
        print(f"  {layer:<10}" + "".join(f"{value:14.3f}" for value in values))
    print("  distilled = Student given Base, residual = Base given Student. A positive distilled score alone is no")
    print("  evidence of transfer: any second network has one. Compare with a second Base model before claiming it.")

    if report["energy"] is not None:
        energy = report["energy"]
        print(f"\nPositive energy on the object, which covers {energy['mask_area']:.1%} of an image")
        for title, share in energy["maps"].items():
            print(f"  {title:<20}" + _energy_text(EnergyShare(**share)))


def _energy_text(share: EnergyShare) -> str:
    if share.mean is None:
        return "all maps are empty"
    spread = "" if share.standard_error is None else f" (standard error {share.standard_error:.1%})"
    empty = f", {share.empty_maps} empty maps left out" if share.empty_maps else ""
    return f"{share.mean:7.1%}{spread}{empty}"
