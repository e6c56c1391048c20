"""Files that a training can go on from: written whole or not at all, and told apart from another training's."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Optional, Sequence

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from distillation.files import whole_file
from distillation.task import Examples

__all__ = ["CheckpointError", "FOLDER", "WholeFiles", "checkpoint_path", "digest", "digest_of_images", "read"]

FOLDER = "checkpoints"
"""In a run's output folder."""
KEPT = ("history", "finished", "identity")
"""What these examples add to Lightning's own entries."""
IMAGES = 64
"""So many, evenly spread, stand for all where data are compared."""


class CheckpointError(RuntimeError):
    """A checkpoint that a training cannot go on from; the message says how to mend it."""


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to files, whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Optional[Any] = None) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: Optional[bool] = True
    ) -> dict[str, Any]:
        # Numbers, names and tensors only: such a file runs no code.
        return dict(torch.load(path, map_location=map_location, weights_only=True))


def checkpoint_path(output: Path, name: str) -> Path:
    """Where the checkpoint of a network lies; its history lies beside it, as JSON."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise ValueError(f"A network's name must hold a letter or a digit, for its file; got {name!r}.")
    return output / FOLDER / f"{slug}.ckpt"


def read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of the training that ``identity`` describes.

    Raises:
        CheckpointError: the file is damaged, is something else, or belongs to another training.
    """
    try:
        # torch does not look at the check sums that it writes.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} does not fit its check sum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint {path} is damaged ({error}). Delete it and resume again: what it held is trained afresh."
        ) from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in KEPT):
        raise CheckpointError(
            f"{path} is not a checkpoint of these examples. Move it away and resume again, or choose another --output."
        )
    found = checkpoint["identity"]
    differences = [
        f"{key} was {found.get(key)!r} and is {identity.get(key)!r} now"
        for key in sorted({*found, *identity})
        if found.get(key) != identity.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"The checkpoint {path} belongs to another training: {'; '.join(differences)}. Resume with what it began "
            "with, or choose another --output, or delete it to train afresh."
        )
    return checkpoint


def digest(network: nn.Module) -> str:
    """Short name of a network's weights and buffers."""
    state = network.state_dict()
    return _digest([state[name] for name in sorted(state)])


def digest_of_images(examples: Examples) -> str:
    """Short name of which images with which labels these are."""
    chosen = torch.linspace(0, len(examples) - 1, min(IMAGES, len(examples))).long()
    return _digest([examples.rows, examples.labels, examples[chosen].pixels])


def _digest(tensors: Sequence[Tensor]) -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        # As bytes: numpy has no bfloat16.
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
