"""Your own images: what do three kinds of distillation transfer?

Trains a Teacher, three Base models, and three Students by each of response-based, attention-based and feature-based
distillation; then compares every Student with every Base, layer by layer, and shows where they look::

    python examples/own_images.py --data path/to/images
    python examples/own_images.py --data path/to/images --image-size 32 --seeds 5 --techniques response

Needs a folder of images, one folder per class, or train/ and test/ folders of such. Broken files are left out and named,
turned and mirrored copies of an image stay on one side of the split.
Takes minutes on two cores with a few thousand images.
"""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status
from distillation.data.image_folder import read_image_folder
from distillation.outcomes import Record
from distillation.photographs import run_photographs


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    return run_photographs(
        "own_images", __doc__, read_image_folder, argv, layout="folder of <class>/ or of train/<class>/ and test/<class>/ images"
    )


if __name__ == "__main__":
    sys.exit(exit_status(main()))
