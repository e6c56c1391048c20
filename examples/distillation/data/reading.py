"""From listed images to a pool: read them, find the copies, and say what was found."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Hashable, Optional, Sequence

import torch
from torch import Tensor

from distillation.data.copies import copy_pairs, groups, pairs_of_equal, thumbnails
from distillation.data.listing import Listing
from distillation.data.pool import Pool
from distillation.data.sources import Source
from distillation.data.store import read_images
from distillation.data.trees import Tree
from distillation.task import Examples
from distillation.text import printable

__all__ = ["Reading", "pool_of", "read_pool"]

SHOWN = 5
"""Names in a warning or note, at most."""

MOST_CLASSES = 10
"""Classes whose counts are told one by one."""


@dataclass(frozen=True)
class Reading:
    """How images are read, the same for every data set.

    Attributes:
        size: side of the images in the store.
        cache: folder for pixels that do not fit into memory.
        progress: draw a progress bar.
    """

    size: int
    cache: Path
    progress: bool = True


def read_pool(
    name: str,
    tree: Tree,
    listing: Listing,
    source: Source,
    reading: Reading,
    *,
    test_part: bool = False,
    same: Sequence[Callable[[str], Optional[Hashable]]] = (),
) -> Pool:
    """Reads a listing's images. What is left out is named in one warning.

    Args:
        name: for headings.
        tree: where the listing is from.
        listing: what to read.
        source: of the data, for errors.
        reading: how.
        test_part: part 1 of the listing is the official test part.
        same: functions of a file's name; files for which one of them gives the same (not None) are copies.

    Raises:
        DataError: a class without an image that can be read, or what ``read_images`` raises.
    """
    stored = read_images(tree, listing.entries, reading.size, reading.cache, reading.progress)
    left_out = {
        reason: [printable(file) for file in files] for reason, files in (stored.unreadable | listing.left_out).items()
    }
    if left_out:
        warnings.warn(f"{printable(tree.name)}: {_told(left_out)}.", stacklevel=3)
    entries = [listing.entries[row] for row in stored.kept.tolist()]
    is_test = torch.tensor([entry.part == 1 for entry in entries], dtype=torch.bool) if test_part else None
    labels = torch.tensor([entry.label for entry in entries], dtype=torch.int64)
    for part in {entry.part for entry in listing.entries}:
        present = {entry.label for entry in entries if entry.part == part}
        for label, class_name in enumerate(listing.classes):
            if label not in present:
                raise source.error(f"No image of the class {class_name!r} of {tree.name} can be read.")
    links = []
    for key in same:
        keys = [key(entry.file) for entry in entries]
        rows = torch.tensor([row for row, value in enumerate(keys) if value is not None], dtype=torch.int64)
        links.append(rows[pairs_of_equal([value for value in keys if value is not None])])
    return pool_of(
        name,
        stored.pixels,
        labels,
        [printable(name) for name in listing.classes],
        is_test,
        links=links,
        left_out=left_out,
        progress=reading.progress,
    )


def pool_of(
    name: str,
    pixels: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    is_test: Optional[Tensor],
    *,
    links: Sequence[Tensor] = (),
    left_out: Optional[dict[str, list[str]]] = None,
    progress: bool = True,
) -> Pool:
    """A pool of images that are read already; ``links`` are pairs of rows, (pairs, 2), that are copies by their names.

    Copies are also found by their contents.
    """
    left_out = left_out or {}
    by_name = torch.cat([torch.empty((0, 2), dtype=torch.int64), *links])
    pairs = torch.cat([by_name, copy_pairs(thumbnails(pixels), progress=progress)])
    copies = groups(len(labels), pairs)
    notes = [_counts(labels, classes, is_test)]
    if left_out:
        notes.append(_told(left_out, sentence=True))
    notes += _copies_told(copies, groups(len(labels), by_name), labels, is_test)
    return Pool(name, Examples(pixels, labels), list(classes), copies, is_test, notes, left_out)


def _counts(labels: Tensor, classes: Sequence[str], is_test: Optional[Tensor]) -> str:
    counts = labels.bincount(minlength=len(classes)).tolist()
    if len(classes) <= MOST_CLASSES:
        each = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts))
    else:
        fewest, most = counts.index(min(counts)), counts.index(max(counts))
        each = f"from {counts[fewest]:,} of {classes[fewest]} to {counts[most]:,} of {classes[most]}"
    official = "" if is_test is None else f" {int(is_test.sum()):,} of them are the official test part."
    return f"{_many(len(labels), 'image')} of {len(classes)} classes: {each}.{official}"


def _told(left_out: dict[str, list[str]], sentence: bool = False) -> str:
    total = sum(len(files) for files in left_out.values())
    each = "; ".join(f"{len(files):,} {reason} ({_some(files)})" for reason, files in sorted(left_out.items()))
    return f"{_many(total, 'file')} left out: {each}" + ("." if sentence else "")


def _some(files: list[str]) -> str:
    return ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _copies_told(copies: Tensor, named: Tensor, labels: Tensor, is_test: Optional[Tensor]) -> list[str]:
    sizes = copies.bincount()
    grouped = int(sizes[sizes > 1].sum())
    if not grouped:
        return ["No image is a copy of another, rotated, mirrored or compressed once more, as far as can be seen."]
    beyond = int(named.max()) - int(copies.max())  # groups that contents made one
    notes = [
        f"{_many(grouped, 'image')} are copies of one another, in {_many(int((sizes > 1).sum()), 'group')} of at most "
        f"{int(sizes.max())}, by their names or contents ({_many(beyond, 'link')} by contents alone). Copies stay on "
        "the same side of every split."
    ]
    pairs = torch.stack([copies, labels]).unique(dim=1)
    mixed = int((pairs[0].bincount() > 1).sum())
    if mixed:
        hold = "holds" if mixed == 1 else "hold"
        notes.append(f"{_many(mixed, 'group')} of copies {hold} images of different classes.")
    if is_test is not None:
        across = int(torch.isin(copies[~is_test], copies[is_test]).sum())
        if across:
            are = "is a copy of a test image" if across == 1 else "are copies of test images"
            notes.append(f"{_many(across, 'image')} outside the test part {are}.")
    return notes
