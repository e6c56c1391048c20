"""What does a Student see that a network trained alone does not? A first answer in two minutes.

Trains a Teacher, five Students and five Base models on handwritten digits in cluttered scenes. Then it maps and measures
what was transferred. Five of each, because Students must differ from Bases by more than Bases of different seeds differ
from each other::

    python examples/quickstart.py --output outputs/quickstart

Needs no data: ``distillation/digits.py`` says how the scenes are made and why the evidence in them is known.
Takes about two minutes on one core.
"""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status, parser_of, run_example
from distillation.digits import make_task
from distillation.outcomes import Record
from distillation.plan import Plan, technique_plan
from distillation.profiles import profile
from distillation.settings import Settings
from distillation.task import Task

# The scenes have one size and one split.
WITHOUT = ("folds", "image_size", "test_share", "augmentation", "weights", "random_placebos", "hidden_weight")


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    parser = parser_of("quickstart", __doc__, without=WITHOUT)
    arguments = parser.parse_args(argv)

    def make(settings: Settings) -> tuple[Task, Plan]:
        task = make_task(
            settings.seed,
            train=settings.train_images,
            teacher=settings.teacher_images,
            reference=settings.references,
            test=settings.test_images,
        )
        return task, technique_plan(settings)

    return run_example(parser, arguments, profile("quickstart", "quick"), make)


if __name__ == "__main__":
    sys.exit(exit_status(main()))
