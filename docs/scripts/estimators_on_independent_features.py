"""What each estimator of similarity says of two models that have nothing in common.

The features of both are independent standard normal numbers: the true distance correlation is 0.
Compared are the biased estimator on unit-length features (the authors' FSS), the biased one on
features as they are, and the unbiased one, this package's default; pooled over n inputs, for d
features, and averaged over mini-batches.

::

    python docs/scripts/estimators_on_independent_features.py    # a minute on two cores

writes ``docs/images/estimators.png``, ``docs/tables/estimators.md`` and ``estimators.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, Optional, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_kd import flatten_to_unit_length
from captum_kd.distance import Estimator, distance_correlation

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

Row = dict[str, Any]


class Way(NamedTuple):
    """One way to turn two sets of features into a number, and how it is drawn."""

    estimator: Estimator
    unit_length: bool
    label: str
    color: str
    marker: str


# Colors: Okabe & Ito, told apart with every kind of color vision; markers for print.
WAYS = {
    "biased, unit length": Way("biased", True, "biased, unit-length features (published FSS)", "#D55E00", "o"),
    "biased": Way("biased", False, "biased", "#E69F00", "s"),
    "unbiased, unit length": Way("unbiased", True, "unbiased, unit-length features", "#56B4E9", "^"),
    "unbiased": Way("unbiased", False, "unbiased (default): mean and spread", "#0072B2", "D"),
}
# The fourth way would lie on the third in every panel; the table has it.
DRAWN = ("biased, unit length", "biased", "unbiased")
INPUTS = [4, 5, 8, 16, 32, 64, 128, 250, 500, 1000, 2000]
FEATURES = [1, 4, 16, 64, 256, 1024, 2048, 8192]
BATCHES = [4, 5, 8, 16, 32, 64, 125, 250, 500]
WIDE, SMALL_BATCH, POOL = 2048, 32, 500


def measure(n: int, d: int, batch: int, repeats: int, draw: torch.Generator) -> list[Row]:
    """Mean and spread over repeats of each way's score of n inputs, averaged over mini-batches."""
    values: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        x, y = (torch.randn(n, d, generator=draw) for _ in range(2))
        # A last batch that is not full is left out: its bias would be another one.
        parts = [slice(start, start + batch) for start in range(0, n - batch + 1, batch)]
        for unit_length in (False, True):
            if unit_length:
                x, y = flatten_to_unit_length(x), flatten_to_unit_length(y)
            for name, way in WAYS.items():
                if way.unit_length == unit_length:
                    scores = (distance_correlation(x[part], y[part], estimator=way.estimator) for part in parts)
                    values[name].append(mean(map(float, scores)))
    return [
        {"n": n, "d": d, "batch": batch, "way": name, "mean": mean(v), "spread": stdev(v), "repeats": repeats}
        for name, v in values.items()
    ]


def draw_panel(ax: Axes, rows: list[Row], along: str) -> None:
    for name in DRAWN:
        way = WAYS[name]
        own = [row for row in rows if row["way"] == name]
        x = [row[along] for row in own]
        low = [row["mean"] - row["spread"] for row in own]
        high = [row["mean"] + row["spread"] for row in own]
        ax.fill_between(x, low, high, color=way.color, alpha=0.25, linewidth=0)
        # The biased ways nearly coincide: the second is drawn open and dashed over the first.
        open_ = name == "biased"
        ax.plot(
            x,
            [row["mean"] for row in own],
            color=way.color,
            marker=way.marker,
            markersize=3 if open_ else 4,
            markerfacecolor="white" if open_ else way.color,
            linewidth=1 if open_ else 1.6,
            linestyle=(0, (3, 2)) if open_ else "-",
            label=way.label,
        )
    ax.axhline(0, color="0.3", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_ylim(-0.85, 1.12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.minorticks_off()


def figure(by_inputs: list[Row], by_features: list[Row], by_batch: list[Row]) -> Figure:
    """Scores of features that have nothing in common, along each of the three sizes."""
    wide, few, pool = by_inputs[0]["d"], by_features[0]["n"], by_batch[0]["n"]
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8.5, "axes.titlelocation": "left"})
    fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.9), sharey=True, layout="constrained")
    panels = (
        (by_inputs, "n", "number of inputs", f"{wide:,} features", [5, 32, 128, 500, 2000]),
        (by_features, "d", "number of features", f"{few} inputs", [1, 16, 256, 2048]),
        (by_batch, "batch", "inputs in a mini-batch", f"{pool} inputs in mini-batches", [5, 32, 125, 500]),
    )
    for letter, ax, (rows, along, label, title, ticks) in zip("abc", axes, panels):
        draw_panel(ax, rows, along)
        ax.set_xlabel(label)
        ax.set_title(rf"$\bf{{{letter}}}$  {title}")
        shown = [tick for tick in ticks if tick <= rows[-1][along]]
        ax.set_xticks(shown, labels=[f"{tick:,}" for tick in shown])
    for published in (row for row in by_inputs if row["way"] == DRAWN[0] and row["n"] in (5, 500)):
        first = published["n"] == 5
        axes[0].annotate(
            f"{published['mean']:.3f} at {published['n']}",
            (published["n"], published["mean"]),
            xytext=(5 if first else -12, -7),
            textcoords="offset points",
            ha="left" if first else "center",
            va="top",
            color=WAYS[DRAWN[0]].color,
        )
    axes[2].annotate(
        "true value 0",
        (0.7, 0),
        xycoords=("axes fraction", "data"),
        xytext=(0, -5),
        textcoords="offset points",
        ha="center",
        va="top",
    )
    axes[0].set_ylabel("squared distance correlation\nof independent features")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, handlelength=2.4)
    return fig


def markdown(tables: dict[str, list[Row]]) -> str:
    """Mean (spread over repeats) of each way; the true value is 0 throughout."""
    lines = []
    for title, rows in tables.items():
        head = "| n | d | mini-batch | " + " | ".join(WAYS) + " |"
        lines += [title, "", head, "|--:|--:|--:" + "|--:" * len(WAYS) + "|"]
        cases = dict.fromkeys((row["n"], row["d"], row["batch"]) for row in rows)
        for case in cases:
            cells = [
                f"{row['mean']:.3f} ({row['spread']:.3f})".replace("-0.000", "0.000")
                for row in rows
                if (row["n"], row["d"], row["batch"]) == case
            ]
            batch = "all" if case[2] == case[0] else case[2]
            lines.append(f"| {case[0]} | {case[1]} | {batch} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    repeats_help = "repeats of the smallest case; fewer of large ones"
    parser.add_argument("--repeats", type=int, default=200, help=repeats_help)
    parser.add_argument("--largest", type=int, default=10_000, help="no more inputs and features than this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args(arguments)
    draw = torch.Generator().manual_seed(options.seed)

    def repeats(n: int) -> int:
        most = int(options.repeats)
        return max(5, min(most, most * 50 // n))

    def up_to(sizes: Sequence[int], most: int) -> list[int]:
        return [size for size in sizes if size <= most]

    most = int(options.largest)
    wide, few, pool = min(WIDE, most), min(SMALL_BATCH, most), min(POOL, most)
    by_inputs = [row for n in up_to(INPUTS, most) for row in measure(n, wide, n, repeats(n), draw)]
    by_features = [row for d in up_to(FEATURES, most) for row in measure(few, d, few, repeats(few), draw)]
    by_batch = [row for batch in up_to(BATCHES, pool) for row in measure(pool, wide, batch, repeats(pool), draw)]
    tables = {
        f"More inputs, {wide:,} features": by_inputs,
        f"More features, {few} inputs": by_features,
        f"{pool} inputs in mini-batches": by_batch,
    }
    for folder in ("images", "tables"):
        (options.output / folder).mkdir(parents=True, exist_ok=True)
    figure(by_inputs, by_features, by_batch).savefig(options.output / "images" / "estimators.png", dpi=200)
    with open(options.output / "tables" / "estimators.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(by_inputs[0]))
        writer.writeheader()
        writer.writerows(row for rows in tables.values() for row in rows)
    table = markdown(tables)
    (options.output / "tables" / "estimators.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
