"""Images that are copies of one another, found by what they show.

A copy is the same image rotated by a right angle, mirrored, scaled, compressed once more, or made lighter or darker.
Images are compared as small gray thumbnails of equal mean and contrast, at the smallest distance over the eight
symmetries of the square. There are too many pairs to do that with each. So thumbnails are first reduced to what stays
the same under rotation and never increases a distance: pairs that are further apart there are no copies, whatever the
rotation, and the few that are left are looked at closely.
"""

from __future__ import annotations

from typing import Hashable, Iterator, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from tqdm.auto import tqdm

__all__ = ["SIDE", "THRESHOLD", "copy_pairs", "distances", "groups", "invariants", "pairs_of_equal", "thumbnails"]

SIDE = 16
"""Of a thumbnail, in pixels."""

THRESHOLD = 0.2
"""Distance up to which thumbnails are copies: a correlation of 0.98.

Chosen on 12,000 images of CIFAR-10, 1,800 of ASIRRA and 146 of PlantVillage. PlantVillage's rotated and mirrored
copies, told by their names, are at 0.00 to 0.10, its recolored ones at 0.04 to 0.15, different leaves at 0.44 and
more. Images saved anew as JPEG of quality 75, at 32 pixels, are below 0.1. The only pair of ASIRRA below 0.39, at 0.04,
is one picture in two files. CIFAR-10 has five pairs below 0.2: three show the same photograph, cropped or colored a
bit differently, two (airplanes and ships on plain ground, 0.16 and 0.19) do not. A false pair costs little, one image
that changes sides with another; a missed one is a leak.
"""

LEAST_CONTRAST = 4.0
"""Standard deviation in gray levels below which differences are those of compression. CIFAR-10's plainest has 5."""

BLOCK = 2048
AXES = 64


def thumbnails(pixels: Tensor) -> Tensor:
    """Small gray versions, of mean 0 and standard deviation 1: those of rotated images are rotated thumbnails.

    Args:
        pixels: (N, 3, H, W), uint8.

    Returns:
        (N, SIDE, SIDE), float32.
    """
    found = [torch.empty((0, SIDE, SIDE))]
    for part in pixels.split(256):
        gray = nn.functional.adaptive_avg_pool2d(part.float().mean(1), SIDE)
        gray = gray - gray.mean((1, 2), keepdim=True)
        found.append(gray / gray.square().mean((1, 2), keepdim=True).sqrt().clamp_min(LEAST_CONTRAST))
    return torch.cat(found)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of thumbnails (n, h, h), the smallest over rotations and mirrorings; (n,)."""
    versions = torch.stack([(first - version).square().mean((1, 2)) for version in _symmetries(second)])
    return versions.min(0).values.sqrt()


def _symmetries(images: Tensor) -> list[Tensor]:
    """The eight rotated and mirrored versions of (..., h, h): turned by 0, 1, 2, 3 right angles, and these mirrored."""
    turned = [images.rot90(k, (-2, -1)) for k in range(4)]
    return turned + [image.flip(-1) for image in turned]


ONE_DIMENSIONAL = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, -1, -1, -1, -1],
        [1, -1, 1, -1, 1, -1, 1, -1],
        [1, -1, 1, -1, -1, 1, -1, 1],
    ]
)
"""Characters of the square's symmetry group that are signs, in the order of ``_symmetries``."""


def invariants(small: Tensor) -> Tensor:
    """What stays the same under rotation and mirroring, and is never further apart than the thumbnails.

    An image is the sum of five orthogonal parts, by how they behave under the square's symmetries. Four of them change
    at most their sign, so their absolute values stay the same (the first never changes, and keeps its sign). Of the
    fifth the norm over the eight places that each pixel can move to stays the same.

    Args:
        small: (n, h, h), h even.

    Returns:
        (n, 5 * (h / 2)**2): root mean squares of differences are at most ``distances``.
    """
    versions = torch.stack(_symmetries(small))
    parts = torch.tensordot(ONE_DIMENSIONAL.to(small) / 8, versions, 1)
    rest = small - parts.sum(0)
    norms = torch.stack(_symmetries(rest.square())).mean(0).sqrt()
    kept = torch.stack([parts[0], *parts[1:].abs(), norms], 1)
    half = small.shape[-1] // 2  # all four quarters are alike
    return kept[..., :half, :half].flatten(1) / half


def copy_pairs(small: Tensor, threshold: float = THRESHOLD, progress: bool = False) -> Tensor:
    """Pairs of thumbnails whose ``distances`` are at most the threshold, but for those that others link already.

    So thousands of copies of one image do not give millions of pairs.

    Args:
        small: (N, SIDE, SIDE), float32.
        threshold: in standard deviations of an image.
        progress: draw a progress bar: 60,000 images take about a minute.

    Returns:
        (pairs, 2), int64, the smaller row first; ``groups`` of them are those of all pairs that are near enough.
    """
    found = torch.empty((0, 2), dtype=torch.int64)
    linked = torch.arange(len(small))
    for pairs in _candidates(small, threshold, progress):
        for part in pairs.split(1 << 13):
            part = part[linked[part[:, 0]] != linked[part[:, 1]]]
            near = part[distances(small[part[:, 0]], small[part[:, 1]]) <= threshold]
            if len(near):
                found = torch.cat([found, near])
                linked = groups(len(small), found)
    return found.sort(1).values


def _candidates(small: Tensor, threshold: float, progress: bool) -> Iterator[Tensor]:
    """Pairs whose invariants are near enough: all copies are among them."""
    flat = torch.cat([invariants(part) for part in small.split(BLOCK)])
    flat = flat - flat.mean(0)
    # The axes along which they differ most, first; leaving out the others decreases distances only.
    axes = torch.linalg.eigh((flat.T @ flat).double()).eigenvectors.flip(1)[:, :AXES]
    flat = flat @ axes.float()
    # Sorted along the first, near ones are in blocks beside one another.
    along, order = flat[:, 0].sort()
    flat = flat[order]
    squares = flat.square().sum(1)
    limit = threshold + 1e-3  # more than rounding can make of it
    for start in tqdm(range(0, len(flat), BLOCK), desc="Looking for copies", disable=not progress):
        rows = slice(start, min(start + BLOCK, len(flat)))
        # Ahead of them only, and no further than a copy can be.
        end = int(torch.searchsorted(along, along[rows.stop - 1] + limit, right=True))
        for other in range(start, end, BLOCK):
            columns = slice(other, min(other + BLOCK, end))
            squared = torch.addmm(squares[columns], flat[rows], flat[columns].T, alpha=-2).add_(squares[rows, None])
            near = squared <= limit**2
            if other == start:
                near = near.triu(1)
            first, second = near.nonzero(as_tuple=True)
            yield torch.stack([order[first + start], order[second + other]], 1)


def pairs_of_equal(keys: Sequence[Hashable]) -> Tensor:
    """Pairs that link all rows with the same key, one after the other; (pairs, 2), int64."""
    last: dict[Hashable, int] = {}
    pairs = []
    for row, key in enumerate(keys):
        if key in last:
            pairs.append((last[key], row))
        last[key] = row
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def groups(count: int, pairs: Tensor) -> Tensor:
    """Group numbers of ``count`` rows, linked rows in the same group, over any number of links; (count,), int64."""
    ones = np.ones(len(pairs), dtype=bool)
    links = coo_array((ones, (pairs[:, 0].numpy(), pairs[:, 1].numpy())), shape=(count, count))
    return torch.from_numpy(connected_components(links, directed=False)[1].astype(np.int64))
