"""ASIRRA, cats and dogs: what do three kinds of distillation transfer?

Trains a Teacher, three Base models, and three Students by each of response-based, attention-based and feature-based
distillation; then compares every Student with every Base, layer by layer, and shows where they look::

    python examples/asirra.py --data path/to/PetImages
    python examples/asirra.py --data path/to/kagglecatsanddogs_5340.zip --profile paper --accelerator gpu

Needs Microsoft's Kaggle Cats and Dogs Dataset, the archive or the PetImages folder out of it; its broken and empty
files are left out and named.
Takes about 15 minutes on two cores; docs/experiments.md says what the paper's profile takes.
"""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status
from distillation.data.petimages import read_petimages
from distillation.outcomes import Record
from distillation.photographs import run_photographs


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    return run_photographs("asirra", __doc__, read_petimages, argv, layout="PetImages folder or its zip archive")


if __name__ == "__main__":
    sys.exit(exit_status(main()))
