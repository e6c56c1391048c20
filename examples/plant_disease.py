"""Plant Disease (PlantVillage): what do three kinds of distillation transfer?

Trains a Teacher, three Base models, and three Students by each of response-based, attention-based and feature-based
distillation; then compares every Student with every Base, layer by layer, and shows where they look::

    python examples/plant_disease.py --data path/to/color
    python examples/plant_disease.py --data path/to/color --profile paper --accelerator gpu

Needs PlantVillage's folder of color images, one folder per class. Turned, mirrored and recolored copies of a leaf stay
on one side of the split.
Takes about 5 minutes on two cores with a few hundred images; docs/experiments.md says what the paper's profile takes.
"""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status
from distillation.data.plantvillage import read_plantvillage
from distillation.outcomes import Record
from distillation.photographs import run_photographs


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    return run_photographs("plant_disease", __doc__, read_plantvillage, argv, layout="folder color/ of one folder per class")


if __name__ == "__main__":
    sys.exit(exit_status(main()))
