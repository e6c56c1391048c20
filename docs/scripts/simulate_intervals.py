"""How often intervals hold the true value, and how often tests cry wolf.

Draws populations whose true scores are known (see ``simulated_models.py``) again and again and
counts

- coverage of the nominal .95 intervals: delete-one jackknife, and the ordinary (percentile)
  bootstrap for comparison, for independent inputs; the jackknife alone for four views of each source;
- false positives at the 5 % level of (a) label permutation for the relevance of a whole model, (b)
  label permutation misused for distilled scores, (c) the jackknife-t test of distilled scores.

::

    python docs/scripts/simulate_intervals.py                # 7 to 8 minutes on two cores
    python docs/scripts/simulate_intervals.py --share 0.1    # a tenth of the replications

writes ``docs/tables/intervals.csv`` (a row per scenario, sample size and score) and ``intervals.md``.
"""

from __future__ import annotations

import argparse
import csv
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

import torch
from simulated_models import LABELINGS, Population, true_values, without_distilled
from torch import Tensor

from captum_kd.distance.centering import center
from captum_kd.metrics.inference import Products, geometry_products, jackknife, label_permutation_p_value, transfer_scores

LEVEL = 0.05
PERMUTATIONS = 199
RESAMPLES = 199
SCENARIOS = {  # signal in the Student's and the Base's features, size of what both see
    "independent": (0.0, 0.0, 0.0),
    "weak": (1.5, 1.2, 0.6),
    "strong": (6.0, 5.0, 1.5),
}
NOTHING_DISTILLED = {  # the Base's signal, size of what both see; the Student's is solved for
    "no distilled": (5.0, 1.0),
    "no distilled, similar": (6.0, 3.0),
}
HEADING = (
    "| scenario | classes | n | FSS | RS Student | RS Base | distilled | residual | not defined |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
)
VIEWS = 4
DEPENDENT = {f"{name}, four views": signals for name, signals in SCENARIOS.items()}
REPLICATIONS = {50: 1000, 200: 1000, 1000: 500}
DEPENDENT_SHARE = 0.25  # of these replications, for views
BOOTSTRAPPED = {50: 400, 200: 400, 1000: 100}
Row = dict[str, Any]


def bootstrap_coverage(distances: dict[str, Tensor], draw: torch.Generator, truth: dict[str, float]) -> Row:
    """Whether the ordinary bootstrap's percentile interval holds each true value.

    A resample is a vector w of counts; its sums are quadratic forms in w, copies of an input being
    at distance 0 from each other in every matrix. No resampled matrix is ever formed.
    """
    names, n = tuple(distances), len(distances["labels"])
    picks = torch.randint(n, (n, RESAMPLES), generator=draw)
    ones = torch.ones(n, RESAMPLES, dtype=torch.float64)
    w = torch.zeros_like(ones).scatter_add_(0, picks, ones)
    sums = {name: matrix @ w for name, matrix in distances.items()}
    totals = {name: (w * value).sum(0) for name, value in sums.items()}
    gram = torch.empty(RESAMPLES, 3, 3, dtype=torch.float64)
    for i, p in enumerate(names):
        for j, q in enumerate(names):
            if i <= j:
                product = (w * ((distances[p] * distances[q]) @ w)).sum(0)
                product -= 2 / (n - 2) * (w * sums[p] * sums[q]).sum(0)
                gram[:, i, j] = product + totals[p] * totals[q] / ((n - 1) * (n - 2))
                gram[:, j, i] = gram[:, i, j]
    products = Products(names, gram[0], gram, torch.zeros(3, dtype=torch.float64))
    held: Row = {}
    for name, score in transfer_scores().items():
        low, high = products.leave_one_out(score)[0].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        held[name] = bool(low <= truth[name] <= high)
    return held


def replicate(
    population: Population, truth: dict[str, float], n: int, count: int, bootstrapped: int, seed: int
) -> list[Row]:
    """Scores, intervals and tests of ``count`` samples of n inputs, one record a score."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(seed)
    classes = len(LABELINGS[population.labeling])
    one_hot = 1 - torch.eye(classes, dtype=torch.float64)
    records: list[Row] = []
    for number in range(count):
        distances, labels = population.draw(n, draw)
        p_values: dict[str, Optional[float]] = {}
        # Relabeling the distilled geometry is the misuse that is measured here.
        student, base = (center(distances[name]).matrix for name in ("student", "base"))
        distilled = student - (student * base).sum() / base.square().sum() * base
        tested = {"rs_student": student, "rs_distilled": distilled}
        for name, matrix in tested.items():
            if truth[name] == 0:
                p_values[name] = permuted(matrix, labels, one_hot, seed + number)
        bootstrap = bootstrap_coverage(distances, draw, truth) if number < bootstrapped else {}
        products = geometry_products(distances)
        for name, score in transfer_scores().items():
            estimate = jackknife(products, score)
            inside = width = None
            if estimate.low is not None and estimate.high is not None:
                inside = estimate.low <= truth[name] <= estimate.high
                width = estimate.high - estimate.low
            records.append(
                {
                    "score": name,
                    "value": estimate.value,
                    "inside": inside,
                    "width": width,
                    "bootstrap": bootstrap.get(name),
                    "t": rejects(estimate.p_value),
                    "permutation": rejects(p_values.get(name)),
                }
            )
    return records


def permuted(matrix: Tensor, labels: Tensor, one_hot: Tensor, seed: int) -> Optional[float]:
    try:
        return label_permutation_p_value(matrix, labels, one_hot, permutations=PERMUTATIONS, seed=seed)
    except ValueError:  # a sample of one class, or of one input beside it
        return None


def rejects(p_value: Optional[float]) -> Optional[bool]:
    return None if p_value is None else p_value <= LEVEL


def prepare(name: str, labeling: str, inputs: int, seed: int) -> tuple[Population, dict[str, float]]:
    """A scenario's population and its true values; values that are 0 by construction are 0."""
    torch.set_num_threads(1)
    if name in SCENARIOS:
        population = Population(name, labeling, *SCENARIOS[name])
    elif name in DEPENDENT:
        population = Population(name, labeling, *DEPENDENT[name], views=VIEWS)
    else:
        base, shared = NOTHING_DISTILLED[name]
        population = without_distilled(Population(name, labeling, base, base, shared), inputs, seed=2 * seed + 1)
    truth = true_values(population, inputs, seed=2 * seed + 2)
    if name.startswith("independent"):
        truth = dict.fromkeys(truth, 0.0)
    elif name in NOTHING_DISTILLED:
        truth["rs_distilled"] = 0.0
    return population, truth


def summarize(population: Population, truth: dict[str, float], n: int, records: list[Row]) -> Iterable[Row]:
    def mean(name: str, column: str) -> Optional[float]:
        values = [float(r[column]) for r in records if r["score"] == name and r[column] is not None]
        return sum(values) / len(values) if values else None

    for name in transfer_scores():
        own = [record for record in records if record["score"] == name]
        at_zero = truth[name] == 0
        yield {
            "scenario": population.name,
            "labels": population.labeling,
            "n": n,
            "score": name,
            "true_value": truth[name],
            "mean": mean(name, "value"),
            "replications": len(own),
            "undefined": sum(record["inside"] is None for record in own) / len(own),
            "jackknife_coverage": mean(name, "inside"),
            "mean_width": mean(name, "width"),
            "bootstrap_coverage": mean(name, "bootstrap"),
            "t_rejections": mean(name, "t") if at_zero and name != "fss" else None,
            "permutation_rejections": mean(name, "permutation"),
        }


def markdown(rows: list[Row]) -> str:
    """Coverage of every score for independent inputs and for views, and false positives where the true value is 0."""

    def text(value: Optional[float], digits: int = 2) -> str:
        if value is None:
            return "not run"
        return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-.00", ".00")

    scores = list(transfer_scores())
    cases: dict[tuple[object, ...], dict[object, Row]] = {}
    for row in rows:
        cases.setdefault((row["scenario"], row["labels"], row["n"]), {})[row["score"]] = row
    lines = [
        "Coverage of nominal .95 intervals: delete-one jackknife / ordinary bootstrap (true value).",
        "",
        *HEADING,
    ]
    for (scenario, labels, n), by_score in cases.items():
        if scenario in DEPENDENT:
            continue
        cells = []
        for row in (by_score[name] for name in scores):
            bootstrap = row["bootstrap_coverage"]
            both = text(row["jackknife_coverage"]) + ("" if bootstrap is None else f" / {text(bootstrap)}")
            cells.append(f"{both} ({text(row['true_value'])})")
        undefined = text(by_score["rs_distilled"]["undefined"])
        lines.append(f"| {scenario} | {labels} | {n} | {' | '.join(cells)} | {undefined} |")
    lines += [
        "",
        f"Inputs that are {VIEWS} views of each of n / {VIEWS} sources: coverage of nominal .95 jackknife intervals "
        "(true value -> mean estimate).",
        "",
        *HEADING,
    ]
    for (scenario, labels, n), by_score in cases.items():
        if scenario in DEPENDENT:
            cells = [
                f"{text(row['jackknife_coverage'])} ({text(row['true_value'])} -> {text(row['mean'])})"
                for row in (by_score[name] for name in scores)
            ]
            undefined = text(by_score["rs_distilled"]["undefined"])
            lines.append(f"| {scenario} | {labels} | {n} | {' | '.join(cells)} | {undefined} |")
    lines += [
        "",
        "False positives at the 5 % level where the true value is 0.",
        "",
        "| scenario | classes | n | RS Student, labels permuted | distilled, jackknife-t "
        "| distilled, labels permuted (misuse) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (scenario, labels, n), by_score in cases.items():
        distilled = by_score["rs_distilled"]
        if distilled["true_value"] == 0:
            own = by_score["rs_student"]["permutation_rejections"]
            own = "RS is not 0" if own is None else text(own, 3)
            t, misused = (text(distilled[key], 3) for key in ("t_rejections", "permutation_rejections"))
            lines.append(f"| {scenario} | {labels} | {n} | {own} | {t} | {misused} |")
    return "\n".join(lines) + "\n"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sizes = list(REPLICATIONS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of replications")
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, choices=sizes)
    parser.add_argument("--inputs", type=int, default=200_000, help="inputs for the true values")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "tables")
    options = parser.parse_args(arguments)
    start = time.time()
    rows: list[Row] = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        cases = [(name, labeling) for name in (*SCENARIOS, *NOTHING_DISTILLED, *DEPENDENT) for labeling in LABELINGS]
        prepared = list(pool.map(prepare, *zip(*cases), [options.inputs] * len(cases), [options.seed] * len(cases)))
        print(f"true values after {time.time() - start:.0f} s", flush=True)
        jobs = []
        for place, (population, truth) in enumerate(prepared):
            for n in options.sizes:
                share = options.share * (DEPENDENT_SHARE if population.name in DEPENDENT else 1)
                count = max(2, round(share * REPLICATIONS[n]))
                bootstrapped = max(2, round(share * BOOTSTRAPPED[n])) if population.name in SCENARIOS else 0
                seed = 1_000_000 * (n + place + 10_000 * options.seed)
                job = pool.submit(replicate, population, truth, n, count, bootstrapped, seed)
                jobs.append((population, truth, n, job))
        for population, truth, n, job in jobs:
            rows.extend(summarize(population, truth, n, job.result()))
            print(f"{population.name}, {population.labeling}, n = {n}: {time.time() - start:.0f} s", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "intervals.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = markdown(rows)
    (options.output / "intervals.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
