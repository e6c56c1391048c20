"""Coverage of the intervals of single classes, by the class's size.

::

    python docs/scripts/simulate_classes.py     # two minutes on one core

Inputs are drawn at random, so the class's size is random too. Prints, for each population, expected size and score, the true
value, the mean and SD of the estimates, the mean standard error, and the coverage of nominal .95 intervals. The least size of a
class in a report (LEAST_IN_GROUP in captum_kd/metrics/report/input_groups.py) follows from this table.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.sources import MatrixDistances
from captum_kd.metrics.inference import JackknifeEstimate, Score
from captum_kd.metrics.inference.class_products import ONE_CLASS, OneAgainstRest, one_hot
from captum_kd.metrics.inference.class_shares import ClassRows, left_out_rows
from captum_kd.metrics.inference.class_sides import Sides
from captum_kd.metrics.inference.gram_matrices import products_of
from captum_kd.metrics.inference.jackknife import estimate_of

NAMES = ("student", "base", "teacher")
SCORES = {
    "rs_student": Score("student", ONE_CLASS),
    "rs_distilled": Score(("student", "base"), ONE_CLASS),
    "teacher_distilled": Score(("student", "base"), "teacher"),
}
SIZES = (5, 8, 10, 15, 20, 30, 60, 150)
LARGE = 1500


POPULATIONS = {"even": (1.0, 0.0), "wide class": (2.0, 0.0), "skewed": (1.0, 0.8)}
"""Name -> the class's spread in what the Teacher knows, and the spread of the logarithm of the inputs' own scales."""


def draw(n: int, share: float, population: str, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Distances of Student, Base and Teacher, and booleans for one class among ten."""
    spread, skew = POPULATIONS[population]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    is_in = torch.rand(n, generator=generator) < share
    labels = torch.where(is_in, 0, torch.randint(1, 10, (n,), generator=generator))
    table = torch.randn(10, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    signal, width = table[labels], torch.where(is_in, spread, 1.0)[:, None]
    scale = torch.exp(skew * normal(n, 1))  # some inputs lie far from all others in all models
    of_teacher, of_base = normal(n, 4) * width * scale, normal(n, 4) * scale
    teacher = torch.cat([1.2 * signal, of_teacher, 0.5 * normal(n, 6)], 1)
    base = torch.cat([0.8 * signal, 0.8 * of_base, 0.8 * normal(n, 6)], 1)
    student = torch.cat([0.9 * signal, 0.6 * of_base, 0.5 * of_teacher, 0.8 * normal(n, 6)], 1)
    return [euclidean_distances(each) for each in (student, base, teacher)], is_in


def estimates(distances: list[Tensor], members: Tensor, intervals: bool = True) -> dict[str, JackknifeEstimate]:
    sources, classes = list(map(MatrixDistances, distances)), one_hot(members.long(), torch.tensor([1]))
    sums = population_sums(sources, by_row=True, classes=classes)
    sides = Sides(products_of(NAMES, sources, sums))
    assert sums.by_class is not None
    left = next(left_out_rows(sources, sums, classes)) if intervals else None
    of_class = {True: ClassRows(sides, members, left), False: OneAgainstRest(sides, sums.by_class[..., 0], members)}
    found = {}
    for name, score in SCORES.items():
        scored = of_class[name == "teacher_distilled"]
        value, defined = scored.score(score)
        values, all_defined = scored.leave_one_out(score) if intervals else (torch.empty(0), False)
        found[name] = JackknifeEstimate(value, None, None, None, None)
        if defined and all_defined:
            found[name] = estimate_of(value, values, 0.95, 1.0)
    return found


def report(n: int, size: int, population: str, samples: int) -> None:
    share, generator = size / n, torch.Generator().manual_seed(1)
    large = [estimates(*draw(LARGE, share, population, generator), intervals=False) for _ in range(8)]
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in SCORES}
    for _ in range(samples):
        distances, members = draw(n, share, population, generator)
        for name, each in estimates(distances, members).items():
            if each.standard_error is not None and each.low is not None and each.high is not None:
                found[name].append((each.value, each.standard_error, each.low, each.high))
    for name, rows in found.items():
        value, error, low, high = torch.tensor(rows, dtype=torch.float64).T
        truth = sum(each[name].value for each in large) / len(large)
        covers = ((low <= truth) & (truth <= high)).double().mean()
        print(
            f"{population}, {size} of {n}, {name}: {truth:.3f}; {value.mean():.3f}, {value.std():.3f}; {error.mean():.3f}; "
            f"{covers:.3f} of {len(rows)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for population in POPULATIONS:
        for size in SIZES:
            report(options.inputs, size, population, options.samples)


if __name__ == "__main__":
    main()
