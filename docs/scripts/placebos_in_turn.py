"""How often tests over placebo Teachers say "yes" if another network of the recipe stands in the Teacher's place.

::

    python docs/scripts/placebos_in_turn.py FOLDER    # a run of examples/cifar10.py; about 4 minutes on one core

FOLDER is the output folder of ``examples/cifar10.py --seeds 5 --placebos 4 --controls random-teacher,other-teacher``. The
Teacher, the Teacher of ``other-teacher`` and the placebos have one recipe. Each stands in the Teacher's place in turn, with the
others as placebos; the network that taught a group of Students is left out of its placebos. Prints in how many places p is at
most .05, before any correction, by seed control and by the t test: for Students that this network taught, and for others.
Students of shuffled soft labels are left out, since it is open whether the Teacher taught them.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from pathlib import Path

import torch
from trained_runs import read_run

from distillation.task import Batches  # trained_runs makes the examples importable

from captum_kd.metrics import compare_transfer

SCORES = {"teacher_distilled": "share", "agreement_over_base": "agreement", "explanation_over_base": "maps"}
OVER = {
    "teacher_distilled_over_placebos": "share", "agreement_over_placebos": "agreement", "explanation_over_placebos": "maps",
}  # fmt: skip
LEVEL = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of the run")
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = read_run("cifar10", options.folder)
    plan, seeds = run.plan, run.settings.seeds
    other = "Other Teacher"
    recipe = [*plan.teachers, other, *plan.placebos]
    networks = {name: run.network(name) for name in [*recipe, *plan.bases(seeds)]}
    batches = Batches(run.fold.test[: options.images], run.settings.image_size)
    layers = {a: {"student": a, "base": a, "teacher": b} for a, b in zip(plan.layers, plan.guide_layers)}
    found: dict[tuple[str, bool], Counter[str]] = {}
    for group in plan.groups:
        students = {name: run.network(name) for name in group.students(seeds)}
        if group.technique == "shuffled-labels":
            continue
        for name in recipe:
            report = compare_transfer(
                students,
                {base: networks[base] for base in plan.bases(seeds)},
                layers,
                batches,
                teacher=networks[name],
                placebo_teachers={each: networks[each] for each in recipe if each not in (name, group.guide)},
                predictions=True,
                explanations="gradcam",
                confidence=None,
                n_permutations=0,
                show_progress=False,
            )
            assert report.seed_control is not None and report.placebos is not None
            for tests, names, test in ((report.seed_control, OVER, "seed control"), (report.placebos, SCORES, "t test")):
                for each in tests["tests"]:
                    if each["score"] in names:
                        counts = found.setdefault((names[each["score"]], name == group.guide), Counter())
                        counts[f"{test}, of"] += 1
                        counts[test] += each["p_value"] <= LEVEL
        print(f"{group.name} done", flush=True)
    for (score, is_taught), counts in sorted(found.items()):
        numbers = ", ".join(f"{test}: {counts[test]} of {counts[f'{test}, of']}" for test in ("seed control", "t test"))
        print(f"{score}, {'taught' if is_taught else 'not taught'}: {numbers}")


if __name__ == "__main__":
    main()
