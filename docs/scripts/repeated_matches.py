"""How often another seed has the same best match of layers, by how far the match leads its runner-up.

Reads the output folders of examples with two seeds or more, and prints a table for ``docs/layers.md``::

    python docs/scripts/repeated_matches.py --cifar10 outputs/cifar10 --asirra outputs/asirra

Every layer of every Base and Student is matched with all layers of the Teacher, and the reverse. A match is repeated by another
network of its group if that network, from another seed, has the same one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Iterator, Sequence

from torch import nn
from trained_runs import EXAMPLES, TrainedRun, read_run

from captum_kd import global_average_pool
from captum_kd.metrics import layer_similarity
from captum_kd.metrics.similarity_matrices import MEASURES

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1)


def matches(run: TrainedRun, group: Sequence[str], inputs: int) -> Iterator[tuple[str, float, float]]:
    """For each measure and match of a network of a group, its lead and the share of the other networks that repeat it."""
    teacher = run.network(run.plan.teachers[0])
    batches = run.fold.test[:inputs].inputs(run.settings.image_size).split(100)
    found = [
        layer_similarity(
            network, teacher, _layers(network), _layers(teacher), batches, feature_transform=global_average_pool,
            show_progress=False,
        )
        for network in map(run.network, group)
    ]  # fmt: skip
    for measure in MEASURES:
        for of_layer in zip(*(each.best_match(measure) for each in found)):
            for record in of_layer:
                others = [each["match"] for each in of_layer if each is not record]
                yield measure, record["value"] - record["runner_up_value"], others.count(record["match"]) / len(others)


def _layers(network: nn.Module) -> list[str]:
    return [name for name, each in network.named_modules() if isinstance(each, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU))]


def table(run: TrainedRun, inputs: int) -> list[str]:
    seeds, taught = run.settings.seeds, [group for group in run.plan.groups if not group.is_control]
    groups = [run.plan.bases(seeds), *(group.students(seeds) for group in taught)]
    every = [each for group in groups for each in matches(run, group, inputs)]
    lines = ["| lead over the runner-up | FSS: matches | repeated | CKA: matches | repeated |", "|---|---|---|---|---|"]
    for low, high in zip(EDGES, (*EDGES[1:], float("inf"))):
        cells = [f"{low:g} to {high:g}" if high < 1 else f"{low:g} or more"]
        for measure in MEASURES:
            repeated = [share for name, lead, share in every if name == measure and low <= lead < high]
            cells += [str(len(repeated)), f"{sum(repeated) / len(repeated):.0%}" if repeated else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for example in EXAMPLES:
        parser.add_argument(f"--{example}", type=Path, help="output folder of a run of this example with two seeds or more")
    parser.add_argument("--inputs", type=int, default=400, help="test images; default: %(default)s")
    arguments = parser.parse_args(argv)
    for example in EXAMPLES:
        if (folder := getattr(arguments, example)) is not None:
            print("\n".join([example, "", *table(read_run(example, folder), arguments.inputs), ""]))


if __name__ == "__main__":
    main()
