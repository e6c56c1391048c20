"""Draws what FSS costs over inputs and over features, from the peers' measurements.

::

    PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_peers.py --output docs/tables
    python docs/scripts/plot_cost.py

writes ``docs/images/cost.png``. The legend gives each way's slope: the exponent with which its cost grows where that has
settled, fitted by least squares to the logarithms of the larger half of the sizes.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from math import log
from pathlib import Path
from typing import Optional, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_kd.visualization._style import LABEL_SIZE, PAGE_WIDTH, TEXT_SIZE, cycled_style

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DOCS = Path(__file__).parents[1]
Row = dict[str, str]
OURS = "captum_kd"


def slope(sizes: Sequence[float], costs: Sequence[float]) -> Optional[float]:
    """The exponent of the larger half of the sizes, two at least; None where there is only one, or where the cost falls to
    less than half on the way: another way of computing has begun there, and no power says what it costs."""
    first = min(len(sizes) // 2, len(sizes) - 2)
    if first < 0 or any(2 * later < earlier for earlier, later in zip(costs[first:], costs[first + 1 :])):
        return None
    xs, ys = [log(each) for each in sizes[first:]], [log(each) for each in costs[first:]]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sum((x - mean_x) ** 2 for x in xs)


def draw(ax: Axes, rows: Sequence[Row], along: str, key: str) -> None:
    for place, peer in enumerate(dict.fromkeys(row["peer"] for row in rows)):
        # A peak of nothing has no logarithm: below half a MiB no peak is told from noise.
        own = [row for row in rows if row["peer"] == peer and row[key] and float(row[key]) >= (0.5 if "mib" in key else 0)]
        if not own:
            continue
        points = sorted((int(row[along]), float(row[key])) for row in own)
        sizes, costs = [x for x, _ in points], [y for _, y in points]
        fitted = slope(sizes, costs)
        label = peer if fitted is None else f"{peer}: {fitted:.1f}"
        style = cycled_style(place).artist()
        style["linewidth"] *= 1.5 if peer == OURS else 0.8
        ax.plot(sizes, costs, label=label, **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.tick_params(labelsize=TEXT_SIZE, length=2.5)
    ax.minorticks_off()
    ticks = sorted({int(row[along]) for row in rows})
    ax.set_xticks(ticks, labels=[f"{each:,}" for each in ticks])
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    # What costs most is at the top right: the legend keeps to the left, above the cheap small sizes.
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.45)
    ax.legend(fontsize=TEXT_SIZE, frameon=False, loc="upper left", title="slope", title_fontsize=TEXT_SIZE, handlelength=3)


def figure(rows: Sequence[Row]) -> Figure:
    """Time and peak memory of FSS, over inputs and over features."""
    rows = [row for row in rows if row["job"] == "FSS"]
    width = Counter(row["d"] for row in rows).most_common(1)[0][0]
    inputs = Counter(row["n"] for row in rows if row["d"] != width).most_common(1)[0][0]
    fig, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 5.6), layout="constrained", sharex="col")
    for column, (along, fixed, size) in enumerate((("n", "d", width), ("d", "n", inputs))):
        here = [row for row in rows if row[fixed] == size]
        for line, (key, name) in enumerate((("seconds", "seconds"), ("peak_mib", "MiB over the inputs"))):
            draw(axes[line, column], here, along, key)
            axes[line, 0].set_ylabel(name, fontsize=LABEL_SIZE)
        axes[0, column].set_title(f"{int(size):,} {'features' if fixed == 'd' else 'inputs'}", fontsize=LABEL_SIZE, loc="left")
        axes[1, column].set_xlabel("inputs" if along == "n" else "features", fontsize=LABEL_SIZE)
    return fig


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", type=Path, default=DOCS / "tables" / "peers.csv")
    parser.add_argument("--output", type=Path, default=DOCS / "images" / "cost.png")
    options = parser.parse_args(arguments)
    with open(options.table, newline="") as file:
        rows = list(csv.DictReader(file))
    figure(rows).savefig(options.output, dpi=200)


if __name__ == "__main__":
    main()
