"""Numbers of the gallery's networks on the pages on reports, recipes and scores.

From a checkout with the package installed: ``python docs/scripts/gallery_numbers.py``. It takes half a minute on one core.
"""

import sys
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import nn

from captum_kd.metrics import TransferReport, compare_transfer

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))
import small_networks as gallery  # noqa: E402

SEEDS = range(1, 5)
LAYERS = ["layer1", "layer2", "layer3"]


def report(students: Mapping[str, nn.Module], bases: Mapping[str, nn.Module], layers: list[str], **given: Any) -> TransferReport:
    data = list(zip(gallery.test.images.split(100), gallery.test.labels.split(100)))
    return compare_transfer(students, bases, layers, data, show_progress=False, **given)


def in_words(found: TransferReport, score: str, key: str = "value") -> str:
    """Mean and range over the pairs, at the last layer of the score."""
    rows = [row for row in found.rows if row["score"] == score and row[key] is not None]
    values = [row[key] for row in rows if row["layer"] == rows[-1]["layer"]]
    return f"{score}, {key}: {sum(values) / len(values):.3f} [{min(values):.3f} to {max(values):.3f}]"


def main() -> None:
    teacher = gallery.teacher()
    students = {f"student {seed}": gallery.student(seed) for seed in SEEDS}
    bases = {f"base {seed}": gallery.base(seed) for seed in SEEDS}
    placebos = {}
    for seed in SEEDS:
        torch.manual_seed(100 + seed)
        placebos[f"placebo {seed}"] = gallery.train(gallery.Convolutions(20), gallery.teachers_lesson, epochs=3)
    every = {**students, **bases, "teacher": teacher, **placebos}
    print("Accuracy:", {name: round(gallery.accuracy(network), 3) for name, network in every.items()})

    torch.manual_seed(77)
    untrained = report({"network": students["student 1"]}, {"untrained": gallery.Convolutions(12).eval()}, LAYERS)
    print("FSS with an untrained network:", [round(row["value"], 3) for row in untrained.rows if row["score"] == "fss"])

    for name, others in (("Students", students), ("Bases", bases)):
        given = report({"the Teacher": teacher}, others, ["layer3"])
        print(f"The Teacher given {name}:", in_words(given, "rs_distilled"), in_words(given, "rs_distilled", "unique_share"))

    found = report(students, bases, ["layer3"], teacher=teacher, placebo_teachers=placebos, predictions=True)
    for score in ("accuracy_student", "accuracy_base", "agreement_student_teacher", "agreement_over_base"):
        print(in_words(found, score))
    for score in ("agreement_over_placebos", "shared_errors"):
        print(in_words(found, score))
        print(*(test["sentence"] for test in found.seed_control["tests"] if test["score"] == score))
    for name, placebo in placebos.items():
        instead = report(students, bases, ["layer3"], teacher=placebo, predictions=True)
        print(f"{name} in the Teacher's place:", in_words(instead, "shared_errors"))


if __name__ == "__main__":
    main()
