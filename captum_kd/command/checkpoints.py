"""Weights from files, without running code from them."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import torch
from torch import Tensor, nn

from captum_kd.command.errors import CommandError, first_line, needed

__all__ = ["classes_in_file", "load_weights", "read_tensors"]

NAMED_AT_MOST = 4


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, such as "fc.weight", or "model.fc.weight" of a file that wraps its state dict.

    Raises:
        CommandError: no such file, a damaged file, a file of pickled Python objects, or one without tensors.
    """
    if not file.is_file():
        raise CommandError(f"There is no file {file}. Check the path behind '@'.")
    try:
        if file.suffix == ".safetensors":
            content: Any = _safetensors(file)
        else:
            # Training scripts (timm's, torchdistill's) store their options beside the weights. A Namespace runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line), "")
        raise CommandError(
            f"{file} is damaged, or holds pickled Python objects beside tensors{f' ({reason[:160]})' if reason else ''}. Pickled "
            "objects can run code, so they are not opened. Save the weights alone where you trust the file: "
            "torch.save(model.state_dict(), 'weights.pt')"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CommandError(
            f"{file} cannot be read as weights ({first_line(error)[:200]}); expected a file of torch.save or safetensors."
        ) from error
    except (LookupError, AttributeError, TypeError) as error:  # of a text or a picture
        raise CommandError(f"{file} cannot be read as weights; expected a file of torch.save or safetensors.") from error
    tensors = dict(_flat(content))
    if not tensors:
        raise CommandError(f"{file} holds no named tensors; expected torch.save(model.state_dict(), 'weights.pt').")
    return tensors


def _safetensors(file: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = needed("safetensors.torch", "models", file.name).load_file(file)
    return found


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested mappings with string keys, by dotted names."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(key, str):
            yield from _flat(value, f"{prefix}{key}.")


def _prefixes(tensors: Mapping[str, Tensor], names: list[str]) -> list[str]:
    """Prefixes behind which tensors have these names: those of all names, or those of the most names."""
    counts: dict[str, int] = {}
    known = set(names)
    for name in tensors:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in known:
                prefix = ".".join(parts[:place]) + "." * bool(place)
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if count == most]


def _own(tensors: Mapping[str, Tensor], names: list[str], file: Path, chosen: Optional[str]) -> dict[str, Tensor]:
    """The tensors of one network, without their prefix."""
    prefixes = _prefixes(tensors, names)
    if chosen is not None:
        prefixes = [each for each in prefixes if f".{each}".endswith(f".{chosen}.")]
        if not prefixes:
            starts = sorted({name.rpartition(".")[0].split(".")[0] for name in tensors})[:NAMED_AT_MOST]
            raise CommandError(f"{file} has no such network behind {chosen!r}; its names begin with {', '.join(starts)}.")
    if len(prefixes) > 1:
        options = " or ".join(f"{file.name}#{prefix.rstrip('.')}" if prefix else file.name for prefix in prefixes)
        raise CommandError(f"{file} holds {len(prefixes)} networks of this kind; choose one: {options}")
    prefix = prefixes[0] if prefixes else ""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def load_weights(model: nn.Module, file: Path, tensors: Mapping[str, Tensor], chosen: Optional[str], what: str) -> None:
    """Loads weights into a model; all of its tensors must be in the file, in their shapes, and no others.

    Args:
        model: takes the weights.
        file: for messages.
        tensors: of the file.
        chosen: the prefix of the network's names where the file holds several networks, such as "student".
        what: the model in messages.

    Raises:
        CommandError: several networks, missing tensors, further tensors, other shapes.
    """
    wanted = model.state_dict()
    own = _own(tensors, list(wanted), file, chosen)
    shapes = [name for name in wanted if name in own and own[name].shape != wanted[name].shape]
    # Older files have no counters of batches; they do not change what a model in evaluation mode gives.
    missing = [name for name in wanted if name not in own and not name.endswith("num_batches_tracked")]
    more = [name for name in own if name not in wanted]
    if shapes or missing or more:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of the model's {len(wanted)} tensors are missing ({_some(missing)})")
        if more:
            parts.append(f"{len(more)} tensors of the file are not in the model ({_some(more)})")
        if shapes:
            first = shapes[-1]
            parts.append(
                f"{len(shapes)} have another shape ({first}: {tuple(own[first].shape)} in the file, "
                f"{tuple(wanted[first].shape)} in the model)"
            )
        raise CommandError(f"{file} does not fit {what}: {'; '.join(parts)}. Name the architecture that was trained.")
    model.load_state_dict(own, strict=False)


def classes_in_file(model: nn.Module, tensors: Mapping[str, Tensor], file: Path, chosen: Optional[str]) -> Optional[int]:
    """The number of classes of a file's network, if it differs from the model's only in that; None if it differs otherwise.

    Only the tensors of the head then have another first dimension.
    """
    wanted = model.state_dict()
    own = _own(tensors, list(wanted), file, chosen)
    other = [(own[name].shape, wanted[name].shape) for name in wanted if name in own and own[name].shape != wanted[name].shape]
    counts = {found[0] for found, expected in other if len(found) == len(expected) and found[1:] == expected[1:]}
    before = {expected[0] for _, expected in other if len(expected)}
    return counts.pop() if len(counts) == 1 and len(before) == 1 and len(other) <= 4 else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_AT_MOST]) + ", ..." * (len(names) > NAMED_AT_MOST)
