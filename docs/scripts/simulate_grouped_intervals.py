"""Coverage of jackknife intervals with and without groups, for inputs that are four views of each source.

::

    python docs/scripts/simulate_grouped_intervals.py     # a minute on one core

prints, for each population and score, the true value, the mean and SD of the estimates, and the coverage of the true
value and of the mean estimate by intervals without and with groups.
"""

from __future__ import annotations

import argparse

import torch
from simulate_intervals import VIEWS, prepare

from captum_kd.metrics.inference import geometry_products, jackknife, transfer_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    print("population, score: true value; mean, SD; coverage of true value and of mean, without groups -> with groups")
    for name in ("weak", "strong"):
        for labeling in ("2 balanced", "10 balanced"):
            report(f"{name}, four views", labeling, options.inputs, options.samples)


def report(name: str, labeling: str, n: int, samples: int) -> None:
    population, truth = prepare(name, labeling, 4000, 1)
    draw, groups = torch.Generator().manual_seed(3), torch.arange(n) // VIEWS
    found: dict[str, list[tuple[float, ...]]] = {score: [] for score in transfer_scores()}
    for _ in range(samples):
        products = geometry_products(population.draw(n, draw)[0])
        for score, sides in transfer_scores().items():
            alone, grouped = jackknife(products, sides), jackknife(products, sides, groups=groups)
            ends = (alone.low, alone.high, grouped.low, grouped.high)
            if None not in ends:
                found[score].append((alone.value, *map(float, ends)))  # type: ignore[arg-type]
    for score, rows in found.items():
        value, low, high, grouped_low, grouped_high = torch.tensor(rows, dtype=torch.float64).T
        mean = float(value.mean())
        covers = [
            f"{((lower <= target) & (target <= upper)).double().mean():.2f}"
            for target in (truth[score], mean)
            for lower, upper in ((low, high), (grouped_low, grouped_high))
        ]
        print(
            f"{name}, {labeling}, {score}: {truth[score]:.3f}; {mean:.3f}, {value.std():.3f}; "
            f"{covers[0]} -> {covers[1]}, {covers[2]} -> {covers[3]}"
        )


if __name__ == "__main__":
    main()
