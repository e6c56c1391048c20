"""Teacher, Student and Base model on photographs: what did response-based distillation transfer?

Takes CIFAR-10 or any images in the same layout::

    python examples/cifar10.py --data path/to/cifar10 --profile quick --output outputs/cifar10

Without ``--data`` the folder ``cifar10`` in $CAPTUM_KD_DATA is taken, and without that variable torchvision
downloads CIFAR-10.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional, Sequence

from distillation.experiment import run
from distillation.image_folder import ENVIRONMENT, LAYOUT, download_cifar10, find_folder, folder_task, read_folders
from distillation.networks import Architecture
from distillation.settings import Settings, add_options, settings_from
from distillation.task import DataError

SIZE = 32
PROFILES = {
    # A few minutes on two cores.
    "quick": Settings(
        output=Path("outputs/cifar10"),
        seed=0,
        pairs=1,
        teacher_epochs=8,
        epochs=8,
        teacher_images=10_000,
        train_images=10_000,
        test_images=1000,
        references=256,
        rows=6,
        batch_size=64,
        learning_rate=1e-2,
        temperature=4.0,
        alpha=0.1,
        threads=0,
        accelerator="cpu",
    ),
}
TEACHER, STUDENT = Architecture((32, 64, 128)), Architecture((12, 24, 48))


def main(argv: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help=f"folder with {LAYOUT}; default: cifar10 in ${ENVIRONMENT}")
    parser.add_argument(
        "--download-to",
        type=Path,
        default=Path.home() / ".cache" / "captum_kd",
        help="where torchvision puts CIFAR-10 if there is no such folder; default: %(default)s",
    )
    parser.add_argument(
        "--profile", choices=PROFILES, default="quick", help="settings to start from; default: %(default)s"
    )
    add_options(parser, PROFILES["quick"])
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments, PROFILES[arguments.profile])
    progress = not arguments.no_progress
    try:
        folder = find_folder(arguments.data, "cifar10")
        data = download_cifar10(arguments.download_to) if folder is None else read_folders(folder, SIZE, progress)
        task = folder_task(
            "CIFAR-10" if folder is None else folder.name,
            data,
            settings.seed,
            train=settings.train_images,
            teacher=settings.teacher_images,
            reference=settings.references,
        )
    except DataError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return run(task, TEACHER, STUDENT, settings, progress)


if __name__ == "__main__":
    main()
