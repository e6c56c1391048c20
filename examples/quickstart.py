"""What does a Student see that a network trained alone does not? A first answer in two minutes.

Trains a Teacher, two Students and two Base models on handwritten digits in cluttered scenes (no data to fetch), and
shows and measures what was transferred. The second Student and the second Base are there to ask whether another seed
would have shown the same::

    python examples/quickstart.py --output outputs/quickstart

``distillation/digits.py`` says how the scenes are made and why the evidence in them is known.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional, Sequence

from distillation.digits import make_task
from distillation.experiment import run
from distillation.networks import Architecture
from distillation.settings import Settings, add_options, settings_from

DEFAULTS = Settings(
    output=Path("outputs/quickstart"),
    seed=0,
    pairs=2,
    teacher_epochs=4,
    epochs=12,
    teacher_images=3000,
    train_images=1000,
    test_images=500,
    references=256,
    rows=6,
    batch_size=32,
    learning_rate=1e-2,
    temperature=4.0,
    alpha=0.1,
    # Networks this small gain little from more, lose much on a busy machine, and so repeat on any number of cores.
    threads=1,
    accelerator="cpu",
)


def main(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_options(parser, DEFAULTS)
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments, DEFAULTS)
    task = make_task(
        settings.seed,
        train=settings.train_images,
        teacher=settings.teacher_images,
        reference=settings.references,
        test=settings.test_images,
    )
    return run(task, Architecture((24, 48, 96)), Architecture((12, 24, 48)), settings, not arguments.no_progress)


if __name__ == "__main__":
    main()
