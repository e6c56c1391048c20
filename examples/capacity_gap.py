"""The capacity gap: does a larger Teacher teach worse, and does an assistant help?

For one Student architecture on CIFAR-10: Students of Teachers of growing size, and of an assistant of middle size that
learned from the largest; accuracy, similarity and relevance of each, with their spread over seeds::

    python examples/capacity_gap.py
    python examples/capacity_gap.py --profile paper --teachers resnet34,resnet50,resnet101 --assistant resnet34

Needs CIFAR-10: a folder of train/<class>/ and test/<class>/ images (--data), or a network, from which torchvision
fetches it (170 MB).
Takes about 20 minutes on two cores; docs/experiments.md says what the paper's profile takes.
"""

from __future__ import annotations

import argparse
import sys
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from cifar10 import read
from distillation.command_line import exit_status
from distillation.networks import NETWORKS
from distillation.outcomes import Record
from distillation.photographs import run_photographs
from distillation.plan import Plan, PlanError, capacity_plan
from distillation.settings import Settings

TEACHERS = {"quick": ("resnet-m", "resnet-l", "resnet-xl"), "paper": ("resnet34", "resnet50", "resnet101")}
ASSISTANTS = {"quick": "resnet-m", "paper": "resnet34"}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teachers",
        type=lambda text: tuple(text.split(",")),
        help=f"networks of growing size, commas between; default: {','.join(TEACHERS['quick'])}, in the paper's profile "
        f"{','.join(TEACHERS['paper'])}",
    )
    parser.add_argument(
        "--assistant",
        choices=NETWORKS,
        metavar="NETWORK",
        help=f"the network between the largest Teacher and the Student; default: {ASSISTANTS['quick']}, in the paper's "
        f"profile {ASSISTANTS['paper']}",
    )


def plan(arguments: argparse.Namespace, settings: Settings) -> Plan:
    teachers = arguments.teachers or TEACHERS[arguments.profile]
    unknown = [name for name in teachers if name not in NETWORKS]
    if unknown or len(set(teachers)) < len(teachers):
        raise PlanError(
            f"--teachers must name different networks among {', '.join(NETWORKS)}, got {','.join(teachers)}."
        )
    if len(settings.techniques) != 1:
        raise PlanError(f"Give one technique with --techniques, got {','.join(settings.techniques) or 'none'}.")
    return capacity_plan(settings, teachers, arguments.assistant or ASSISTANTS[arguments.profile])


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    return run_photographs(
        "capacity_gap",
        __doc__,
        read,
        argv,
        data="cifar10",
        layout="folder of train/<class>/ and test/<class>/ images",
        options=options,
        plan=plan,
        without=("teacher", "controls", "placebos", "random_placebos"),
    )


if __name__ == "__main__":
    sys.exit(exit_status(main()))
