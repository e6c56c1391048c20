"""Files that a training can go on from: written whole or not at all, and told apart from another training's."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any, Collection, Iterator, Mapping, Optional, Sequence

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from distillation.files import whole_file
from distillation.task import Examples

__all__ = ["CheckpointError", "FOLDER", "WholeFiles", "checkpoint_path", "digest", "digest_of_images", "digest_of_state", "read"]

FOLDER = "checkpoints"
"""In a run's output folder."""
KEPT = ("history", "finished", "identity", "seal")
"""What these examples add to Lightning's own entries."""
IMAGES = 64
"""So many, evenly spread, stand for all where data are compared."""


class CheckpointError(RuntimeError):
    """A checkpoint that a training cannot go on from; the message says how to mend it."""


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to files, whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Optional[Any] = None) -> None:
        with whole_file(Path(path)) as file:
            try:
                torch.save({**checkpoint, "seal": _seal(checkpoint)}, file)
            except RuntimeError as error:
                # torch closes its archive after a full disk's error, which fails again and hides it.
                if isinstance(error.__context__, OSError):
                    raise error.__context__
                raise

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


def read(path: Path, identity: dict[str, Any], unknown: Collection[str] = ()) -> dict[str, Any]:
    """The checkpoint of the training that ``identity`` describes, apart from its entries in ``unknown``.

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
    except Exception as error:  # whatever a file can be
        raise _damaged(path, str(error).partition("\n")[0]) from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in KEPT):
        raise CheckpointError(
            f"{path} is not a checkpoint of these examples. Move it away and resume again, or choose another --output."
        )
    if checkpoint["seal"] != _seal({key: value for key, value in checkpoint.items() if key != "seal"}):
        raise _damaged(path, "its content was changed after it was written")
    found = checkpoint["identity"]
    differences = [
        f"{key} was {found.get(key)!r} and is {identity.get(key)!r} now"
        for key in sorted({*found, *identity})
        if key not in unknown and found.get(key) != identity.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"The checkpoint {path} belongs to another training: {'; '.join(differences)}. Resume with what it began "
            "with, or choose another --output, or delete it to train afresh."
        )
    return checkpoint


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} is damaged ({reason}). Delete it and resume again: what it held is trained afresh."
    )


def digest(network: nn.Module) -> str:
    """Short name of a network's weights and buffers."""
    return digest_of_state(network.state_dict())


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """``digest`` of the network that has this state."""
    return _digest([state[name] for name in sorted(state)])


def digest_of_images(examples: Examples) -> str:
    """Short name of which images with which labels these are."""
    chosen = torch.linspace(0, len(examples) - 1, min(IMAGES, len(examples))).long()
    return _digest([examples.rows, examples.labels, examples[chosen].pixels])


def _seal(checkpoint: Mapping[str, Any]) -> str:
    """Checksum of a checkpoint's content, by which a changed one is known."""
    total = hashlib.sha256()
    for part in _parts(checkpoint):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, (Mapping, list, tuple)):
        entries = value.items() if isinstance(value, Mapping) else value
        yield f"{type(value).__name__} of {len(value)}".encode()
        for entry in entries:
            yield from _parts(entry)
    else:
        yield repr(value).encode()


def _digest(tensors: Sequence[Tensor]) -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(_bytes(tensor))
    return total.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    # As bytes: numpy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
