"""Coverage of the intervals of means over inputs: proportions, paired differences and divergences.

::

    python docs/scripts/simulate_means.py     # half a minute on one core

Prints the share of samples in which the nominal .95 interval of a report has the true mean. Proportions have Wilson's interval in
reports; "t" shows what they would have otherwise. Samples without an interval, because all values are equal, count as not
covered; in parentheses is the coverage of the intervals that there are, and their share of the samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kd.metrics.inference.means import mean_estimate

SIZES = (5, 10, 20, 50, 150, 1000)
SAMPLES = 2000
PROPORTIONS = (0.5, 0.9, 0.98)
DIFFERENCES = ((0.2, 0.2), (0.1, 0.03), (0.01, 0.01))
"""Shares of the inputs on which only the Student, and only the Base, is right."""


def draw(kind: str, parameters: tuple[float, ...], n: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """(SAMPLES, n) values of single inputs, and their true mean."""
    uniform = torch.rand(SAMPLES, n, generator=generator, dtype=torch.float64)
    if kind == "proportion":
        return (uniform < parameters[0]).double(), parameters[0]
    if kind == "difference":
        up, down = parameters
        return (uniform < up).double() - (uniform > 1 - down).double(), up - down
    # Squared normal values: SD / mean is 1.4, as for KL (1.2 to 1.6) of CIFAR-10 networks and their Teacher.
    return torch.randn(SAMPLES, n, generator=generator, dtype=torch.float64).square(), 1.0


def coverage(values: Tensor, truth: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """The share of intervals that have the true mean, among all samples, and the share of samples with an interval."""
    found = [mean_estimate(row, 0.95, bounds) for row in values]
    ends = [(each.low, each.high) for each in found if each.low is not None and each.high is not None]
    covered = sum(low - 1e-12 <= truth <= high + 1e-12 for low, high in ends)
    return covered / len(found), len(ends) / len(found)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    cases = [("proportion", (p,)) for p in PROPORTIONS] + [("difference", each) for each in DIFFERENCES]
    cases += [("divergence", ())]
    print("| mean of | " + " | ".join(f"n = {n}" for n in SIZES) + " |\n|---|" + "--:|" * len(SIZES))
    for kind, parameters in cases:
        bounds = {"Wilson": (0.0, 1.0), "t": (-1e9, 1e9)} if kind == "proportion" else {"t": (-1e9, 1e9)}
        for name, of_kind in bounds.items():
            cells = []
            for n in SIZES:
                covered, known = coverage(*draw(kind, parameters, n, generator), of_kind)
                cells.append(f"{covered:.2f}" + (f" ({covered / known:.2f} of {known:.2f})" if known < 0.995 else ""))
            print(f"| {' '.join(map(str, (kind, *parameters)))}, {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
