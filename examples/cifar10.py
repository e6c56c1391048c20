"""CIFAR-10: what do three kinds of distillation transfer?

Trains a Teacher, three Base models, and three Students by each of response-based, attention-based and feature-based
distillation; then compares every Student with every Base, layer by layer, and shows where they look::

    python examples/cifar10.py
    python examples/cifar10.py --profile paper --accelerator gpu

Needs CIFAR-10: a folder of train/<class>/ and test/<class>/ images (--data), or a network, from which torchvision
fetches it (170 MB). The quick profile uses 10,000 of the training images.
Takes about 25 minutes on two cores; docs/experiments.md says what the paper's profile takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status
from distillation.data.cifar10 import read_cifar10
from distillation.data.pool import Pool
from distillation.outcomes import Record
from distillation.photographs import run_photographs


def read(given: Optional[Path], size: int, cache: Path, progress: bool = True) -> Pool:
    """The images; what torchvision downloads goes into the cache too."""
    return read_cifar10(given, cache, size, cache, progress)


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    return run_photographs("cifar10", __doc__, read, argv, layout="folder of train/<class>/ and test/<class>/ images")


if __name__ == "__main__":
    sys.exit(exit_status(main()))
