"""Time and peak memory of FSS and RS against the peers, on the same features, each peer in processes of its own.

Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_peers.py [--output docs/tables]``; needs dcor,
torchmetrics and Linux, and some ten minutes of one core. What would need more memory than ``--memory``
(GiB) or takes longer than ``--seconds`` is not run, and the table says so. Writes ``peers.csv`` and ``peers.md``.

Peaks are over the inputs, of the first call. Times are the processor's, all threads together, and the least of several
calls; a case's calls are not in turn with those of another, so what else the machine does tells in them.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import math
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

import torch
from peaks import high_mark, start
from peers import JOBS, PEERS, make_inputs, reason_not_to

INPUTS = (64, 256, 1000, 4000, 16_000)
WIDTH = 256
WIDTHS = (16, 64, 256, 1024, 4096, 16_384)
POPULATION = 1000
# What a case is repeated for, in seconds: the first call tells how often.
SPAN = 1.0

FIELDS = ("job", "peer", "n", "d", "seconds", "peak_mib", "score", "not_run")
Row = dict[str, Any]


def cases(largest: int) -> Iterator[tuple[str, int, int]]:
    """Along the inputs, and along the features."""
    for job in JOBS:
        for n in (each for each in INPUTS if each <= largest):
            yield job, n, WIDTH
    for d in WIDTHS:
        if d != WIDTH:
            yield "FSS", min(POPULATION, largest), d


def measured(peer: str, wanted: Sequence[tuple[str, int, int]], most: int, limit: int) -> list[Row]:
    """All cases of one peer, in processes of its own: a new one after a case that took too long."""
    rows = [
        {"job": job, "peer": peer, "n": n, "d": d, "not_run": reason_not_to(PEERS[peer], job, n, d, most)}
        for job, n, d in wanted
    ]
    left = [row for row in rows if row["not_run"] is None]
    while left:
        order = json.dumps([peer, [(row["job"], row["n"], row["d"]) for row in left], limit])
        done = subprocess.run([sys.executable, __file__, "--work", order], stdout=subprocess.PIPE, text=True)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        for row, numbers in zip(left, found):
            row.update(numbers)
        left = left[len(found) :]
        if left and done.returncode != -signal.SIGXCPU:
            raise RuntimeError(f"{peer} ended with {done.returncode} at {left[0]}.")
        if left:
            left.pop(0)["not_run"] = f"longer than {limit} s"
    return rows


def work(peer: str, wanted: Sequence[tuple[str, int, int]], limit: int) -> None:
    """Measures in this process, a line a case; the system ends it where a case takes longer than the limit."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    score = PEERS[peer].score
    for job, n, d in wanted:
        score(*make_inputs(job, 128, 4))
        inputs = make_inputs(job, n, d)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + limit, resource.RLIM_INFINITY))
        ctypes.CDLL(None).malloc_trim(0)  # what earlier cases left would not count otherwise
        held, begin = start(), time.process_time()
        value = score(*inputs)
        times, peak = [time.process_time() - begin], high_mark() - held
        while sum(times) < min(SPAN, limit / 2) and len(times) < 50:
            begin = time.process_time()
            score(*inputs)
            times.append(time.process_time() - begin)
        numbers = {"seconds": f"{min(times):.3g}", "peak_mib": f"{max(0.0, peak):.1f}", "score": f"{value:.6f}"}
        print(json.dumps(numbers), flush=True)
        del inputs


def markdown(rows: Sequence[Row]) -> str:
    """Two tables a job: time and peak, a row a size, a column a peer."""
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines = []
    for title, key, form in (("Seconds", "seconds", "{:.2g}"), ("MiB over the inputs", "peak_mib", "{:,.0f}")):
        for job in dict.fromkeys(row["job"] for row in rows):
            lines += [f"{job}, {title[0].lower() + title[1:] if title == 'Seconds' else title}", ""]
            lines += [f"| n | d | {' | '.join(peers)} |", "|--:|--:" + "|--:" * len(peers) + "|"]
            of_job = [row for row in rows if row["job"] == job]
            for n, d in sorted({(int(row["n"]), int(row["d"])) for row in of_job}):
                here = {row["peer"]: row for row in of_job if (int(row["n"]), int(row["d"])) == (n, d)}
                cells = [_cell(here.get(peer), key, form) for peer in peers]
                lines.append(f"| {n:,} | {d:,} | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def _cell(row: Optional[Row], key: str, form: str) -> str:
    if row is None:
        return ""
    if row["not_run"]:
        return f"not run: {row['not_run']}"
    return form.format(float(row[key]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--largest", type=int, default=INPUTS[-1], help="no more inputs than this; default: %(default)s")
    parser.add_argument("--memory", type=float, default=8, help="GiB that a case may need; default: %(default)s")
    parser.add_argument("--seconds", type=int, default=120, help="of the processor that a call may take; default: %(default)s")
    parser.add_argument("--output", type=Path, help="folder of peers.csv and peers.md; default: print only")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what a process of its own measures, as JSON
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return
    wanted = list(cases(options.largest))
    by_peer = {}
    for peer in PEERS:
        by_peer[peer] = measured(peer, wanted, int(options.memory * 2**30), options.seconds)
        print(*by_peer[peer], sep="\n", flush=True)
    rows = [row for of_case in zip(*by_peer.values()) for row in of_case]
    print(markdown(rows))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        with open(options.output / "peers.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        (options.output / "peers.md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
