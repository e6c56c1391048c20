"""How often a report says "yes" to transfer in predictions and maps where the Teacher taught nothing, and where it did.

Each repetition trains small networks on scikit-learn's digits (see ``small_networks.py``): 5 Bases, 5 Students of every kind
below, a Teacher with more data, and 5 placebo Teachers of its recipe. A report on 400 images that no network was trained on
compares their predictions, and their maps (gradient times input of the class that the Teacher predicts). The script counts
the repetitions in which the report says "yes": seed control of each question, and the t test of the Teacher against the
placebo Teachers. For Students that are further Bases it also counts reports that say "yes" for any class.

::

    python docs/scripts/simulate_agreement.py    # about 5 minutes on one core

keeps each repetition in ``build/agreement_0.csv`` (0 is the seed) and goes on from there when it starts again; writes the
rates to ``docs/tables/agreement.md``.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import mean
from typing import Any, Optional, Sequence

import torch
from simulate_yes_rates import ALPHA, HELD_OUT, IMAGES, OWN, STEPS, TEACHERS, repetitions, short
from small_networks import Networks, digits, train
from torch import Tensor, nn

from captum_kd.metrics import Explanations, TransferReport, compare_transfer

MODELS, PLACEBOS = 5, 5
LAYER = "hidden"
TEACHER = TEACHERS["more data"]
STUDENTS = {
    "another Base": OWN,
    f"three times as long as Bases of {STEPS // 3} steps": OWN,
    "a third as long": replace(OWN, steps=STEPS // 3),
    "twice the data": replace(OWN, data="twice"),
    "label smoothing": replace(OWN, technique="label smoothing"),
    "dropout": replace(OWN, technique="dropout"),
    "mixup": replace(OWN, technique="mixup"),
    "KD of another Teacher": replace(OWN, teacher="another", alpha=ALPHA),
    "KD of T": replace(OWN, teacher="T", alpha=ALPHA),
}
QUESTIONS = {
    "agreement_over_base": "agreement",
    "kl_over_base": "KL",
    "shared_errors": "shared errors",
    "shared_right_answers": "shared right answers",
    "agreement_over_placebos": "agreement over placebos",
    "t:agreement_over_base": "its t test",
    "explanation_over_base": "maps",
    "explanation_over_placebos": "maps over placebos",
    "t:explanation_over_base": "its t test",
}
Row = dict[str, Any]


def members(group: str) -> list[str]:
    return [f"{group} {place}" for place in range(MODELS)]


def as_module(network: Networks) -> nn.Module:
    """A network for images (N, 1, 8, 8) whose last hidden layer is called "hidden"."""
    model = nn.Sequential()
    model.add_module("flat", nn.Flatten())
    for place, name in enumerate(("first", LAYER, "logits")):
        weight, bias = network.trained[2 * place][0], network.trained[2 * place + 1][0, 0]
        linear = nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = weight.T.clone(), bias.clone()
        rectified = nn.Sequential(linear, nn.ReLU())
        model.add_module(name, linear if name == "logits" else rectified)
    return model.eval()


def gradient_times_input(model: nn.Module, layer: Optional[nn.Module], images: Tensor, classes: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    chosen = model(images).gather(1, classes[:, None]).sum()
    return (torch.autograd.grad(chosen, images)[0] * images).detach()


def repeat(number: int, seed: int) -> list[Row]:
    """Results of one repetition: one row for each kind of Students."""
    draw = torch.Generator().manual_seed(1_000_003 * seed + number)
    data, (images, labels) = digits(draw, IMAGES, HELD_OUT)
    recipes = {"T": TEACHER, "another": TEACHER, **{f"placebo {place}": TEACHER for place in range(PLACEBOS)}}
    kinds = {"Base": OWN, **STUDENTS}
    recipes.update({name: recipe for kind, recipe in kinds.items() for name in members(kind)})
    networks = {name: as_module(network) for name, network in train(recipes, data, draw).items()}
    batches = [(images.unflatten(1, (1, 8, 8)), labels)]
    rows = []
    for kind in STUDENTS:
        bases = "a third as long" if "three times" in kind else "Base"
        report = compare_transfer(
            {name: networks[name] for name in members(kind)},
            {name: networks[name] for name in members(bases)},
            [LAYER],
            batches,
            teacher=networks["T"],
            placebo_teachers={name: networks[name] for name in recipes if name.startswith("placebo")},
            predictions=True,
            explanations=Explanations(gradient_times_input, layer="inputs"),
            by_class=kind == "another Base",
            confidence=None,
            n_permutations=0,
            show_progress=False,
        )
        rows.append({"repetition": number, "students": kind, **answers(report)})
    return rows


def answers(report: TransferReport) -> Row:
    """1 for each "yes", accuracies, and the questions with a "yes" for any class."""
    assert report.seed_control is not None and report.placebos is not None
    yes = {test["score"]: int(bool(test["decision"])) for test in report.seed_control["tests"]}
    yes |= {f"t:{test['score']}": int(bool(test["decision"])) for test in report.placebos["tests"]}
    found: Row = {name: yes[name] for name in QUESTIONS}
    for role in ("student", "base", "teacher"):
        found[role] = mean(row["value"] for row in report.rows if row["score"] == f"accuracy_{role}")
    of_classes = [] if report.classes is None else report.classes["tests"]
    found["classes"] = " ".join(dict.fromkeys(test["score"] for test in of_classes if test["decision"]))
    return found


def markdown(rows: list[Row]) -> str:
    number = len(rows) // len(STUDENTS)
    lines = [
        f'Rates of "yes" at the level .05 in {number} repetitions; accuracy of Students, Bases and T.',
        "",
        "| Students | " + " | ".join(QUESTIONS.values()) + " | accuracy |",
        "|---|" + "--:|" * (len(QUESTIONS) + 1),
    ]
    for kind in STUDENTS:
        own = [row for row in rows if row["students"] == kind]
        cells = [short(mean(row[name] for row in own)) for name in QUESTIONS]
        accuracy = ", ".join(short(mean(row[role] for row in own), 3) for role in ("student", "base", "teacher"))
        lines.append(f"| {kind} | {' | '.join(cells)} | {accuracy} |")
    own = [row["classes"].split() for row in rows if row["students"] == "another Base"]
    names = sorted({name for row in own for name in row})
    rates = ", ".join(f"`{name}` {short(mean(name in row for row in own))}" for name in names)
    last = f"Another Base, a yes for any of 10 classes: {rates or 'never'}; all other questions never."
    return "\n".join([*lines, "", last, ""])


def main(arguments: Optional[Sequence[str]] = None) -> None:
    rows, output = repetitions("agreement", repeat, 60, __doc__, arguments, ("students", "classes"))
    table = markdown(rows)
    (output / "agreement.md").write_text(table)
    print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the matrices are small
    warnings.simplefilter("ignore")
    main()
