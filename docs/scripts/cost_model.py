"""Fits the cost of scores over a population to this machine, tests the fit, and forecasts what GPUs will need.

::

    python docs/scripts/cost_model.py               # some ten minutes of one core
    python docs/scripts/cost_model.py --largest 4000

writes ``docs/tables/cost_model.csv``, the measurements with what the model says of them, and ``cost_model.md``: the fitted
constants, the sizes that took no part in the fit, and the forecast for a million images.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

import torch
from cost_terms import EIGHT_H100, H100, MEASURED_ON_H100, Case, Setting, count, forecast
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.sources import FeatureDistances, TensorFeatures
from captum_kd.metrics.report.storage import FeatureStore

Row = dict[str, Any]
FITTED = [Case(n, d, k) for n in (1024, 2048, 4096) for d in (16, 256, 2048) for k in (1, 2, 4)]
# Blocks of one size could not tell products of features from reading them again.
FITTED += [Case(2048, d, 2, block=block) for d in (16, 256, 2048) for block in (64, 128, 1024)]
# Sizes between and beyond those of the fit, the last one eight times as many inputs, 64 times as many pairs.
HELD_OUT = [
    Case(3000, 100, 3), Case(3000, 1000, 2), Case(8192, 64, 2), Case(8192, 512, 3), Case(16_000, 256, 2),
    Case(32_000, 64, 2),
]  # fmt: skip
# Terms in the order of Counts, and what one over their constants is called.
UNITS = (
    ("products of features", "GFLOP/s"),
    ("distances finished and shifted", "million/s"),
    ("sums of products of distances", "GFLOP/s"),
    ("features read and shifted again", "million numbers/s"),
    ("blocks", "thousand/s"),
)
SCALES = (1e9, 1e6, 1e9, 1e6, 1e3)

MILLION = 1_000_000
# Layers of a ResNet-50 at 224 pixels: numbers at the layer, and of an image's features.
LAYERS = {
    "layer4, pooled": (100_352, 2_048),
    "layer4, flattened": (100_352, 100_352),
    "layer1, pooled": (802_816, 256),
    "layer1, flattened": (802_816, 802_816),
}
BLOCKS = (512, 4096)


def measure(case: Case, repeats: int) -> float:
    """Seconds of the processor: the least of some runs, since others only ever make it longer."""
    draw = torch.Generator().manual_seed(0)
    features = [torch.randn(case.n, case.d, generator=draw) for _ in range(case.wide)]
    times = []
    for _ in range(repeats):
        start = time.process_time()
        population_sums([FeatureDistances(TensorFeatures(each)) for each in features], block_size=case.block)
        times.append(time.process_time() - start)
    return min(times)


def fit(rows: Sequence[Row]) -> list[float]:
    """Seconds of each unit of each term: none negative, all measurements weighing alike whatever their size."""
    counts = torch.tensor([list(row["counts"]) for row in rows], dtype=torch.float64)
    seconds = torch.tensor([row["seconds"] for row in rows], dtype=torch.float64)
    size = counts.amax(0)
    found, _ = nnls((counts / size / seconds[:, None]).numpy(), torch.ones(len(rows)).numpy())
    return [float(value) for value in torch.from_numpy(found) / size]


def predicted(case: Case, constants: Sequence[float]) -> float:
    return sum(constant * number for constant, number in zip(constants, count(case)))


def measured_rows(cases: Sequence[Case], use: str) -> Iterator[Row]:
    for case in cases:
        seconds = measure(case, 3 if case.n < 5000 else 1)
        yield {"use": use, "case": case, "counts": count(case), "seconds": seconds}


def network() -> tuple[float, float]:
    """Floating-point operations of an image in a ResNet-50 at 224 pixels, and how many this machine does in a second."""
    model, images = resnet50().eval(), torch.randn(4, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.process_time()
            model(images)
            times.append(time.process_time() - start)
    return counter.get_total_flops() / len(images), counter.get_total_flops() / min(times)


def file_rates(rows: int = 64, width: int = 802_816) -> tuple[float, float]:
    """Bytes a second into and out of a report's temporary file, as far as the processor has to do with it."""
    values = torch.randn(16, width)
    store = FeatureStore(torch.device("cpu"))
    store.move_to_file()
    start = time.process_time()
    for _ in range(rows // 16):
        store.append(values)
    written = time.process_time()
    for first in range(0, width, 16_384):
        store.read(slice(0, rows), slice(first, min(first + 16_384, width)))
    read = time.process_time()
    size = store.bytes
    store.close()
    return size / (written - start), size / (read - written)


def said(seconds: float) -> str:
    for unit, name in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * unit:
            break
    number = seconds / unit
    return "below 0.1 s" if seconds < 0.1 else f"{number:.0f} {name}" if number >= 9.5 else f"{number:.1f} {name}"


def rounded(rate: float) -> str:
    """Three digits that count, and no power of ten to work out."""
    return f"{float(f'{rate:.3g}'):,.10g}"


def gpu_table() -> list[str]:
    lines = ["FSS on one H100, d = 2,048, no part of which the rates were taken from", ""]
    lines += ["| n | measured, s | sum of the terms, s | longest term, s |", "|--:|--:|--:|--:|"]
    for n, seconds in MEASURED_ON_H100:
        terms = forecast(Case(n, 2048, 2, block=4096), Setting(0.0, 2048), H100)
        lines.append(f"| {n:,} | {seconds:.2f} | {sum(terms.values()):.2f} | {max(terms.values()):.2f} |")
    return [*lines, ""]


def forecast_table(flops: float) -> list[str]:
    lines = [
        f"A million images, two ResNet-50 ({flops / 1e9:.1f} GFLOP an image), FSS and RS of one layer, by an H100's rates",
        "",
        "| features | d | block_size | GPUs | networks | products | distances and sums | reading features | starting kernels "
        "| sending | most of all |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, (raw, d) in LAYERS.items():
        for block in BLOCKS:
            for machine in (H100, EIGHT_H100):
                terms = forecast(Case(MILLION, d, 2, 1, block), Setting(flops, raw), machine)
                cells = {
                    "networks": terms["networks"] + terms["making features fewer"],
                    "products": terms["products"],
                    "distances and sums": terms["distances"] + terms["sums"],
                }
                cells |= {name: terms[name] for name in ("reading features", "starting kernels", "sending")}
                heaviest = max(cells, key=lambda cell: cells[cell])
                shown = " | ".join(map(said, cells.values()))
                lines.append(f"| {name} | {d:,} | {block:,} | {machine.gpus} | {shown} | {heaviest}, {said(cells[heaviest])} |")
    return [*lines, ""]


def markdown(rows: Sequence[Row], constants: Sequence[float], rates: dict[str, str], flops: float) -> str:
    lines = ["Fitted to this machine, one thread", "", "| term | rate |", "|---|--:|"]
    for (name, unit), constant, scale in zip(UNITS, constants, SCALES):
        rate = "takes no time that the fit could tell" if constant == 0 else f"{rounded(1 / constant / scale)} {unit}"
        lines.append(f"| {name} | {rate} |")
    lines += [f"| {name} | {rate} |" for name, rate in rates.items()]
    lines += ["", "Sizes that took no part in the fit", "", "| n | d | k | measured, s | predicted, s | ratio |"]
    lines.append("|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        if row["use"] == "held out":
            case, ratio = row["case"], row["predicted"] / row["seconds"]
            numbers = f"{row['seconds']:.2f} | {row['predicted']:.2f} | {ratio:.2f}"
            lines.append(f"| {case.n:,} | {case.d:,} | {case.wide} | {numbers} |")
    return "\n".join([*lines, "", *gpu_table(), *forecast_table(flops)])


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--largest", type=int, default=32_000, help="no more inputs than this")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measure(Case(600, 16), 1)  # the first call pays for memory
    fitted = list(measured_rows([case for case in FITTED if case.n <= options.largest], "fit"))
    constants = fit(fitted)
    rows = fitted + list(measured_rows([case for case in HELD_OUT if case.n <= options.largest], "held out"))
    for row in rows:
        row["predicted"] = predicted(row["case"], constants)
    flops, speed = network()
    written, read = file_rates()
    rates = {
        "ResNet-50 at 224 pixels, forward": f"{speed / 1e9:.3g} GFLOP/s",
        "features into a temporary file": f"{written / 1e9:.2g} GB/s",
        "features out of it": f"{read / 1e9:.2g} GB/s",
    }
    table = markdown(rows, constants, rates, flops)
    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "cost_model.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["use", "n", "d", "k", "block", "seconds", "predicted"])
        for row in rows:
            case = row["case"]
            numbers = [f"{row[key]:.4g}" for key in ("seconds", "predicted")]
            writer.writerow([row["use"], case.n, case.d, case.wide, case.block, *numbers])
    (options.output / "cost_model.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
