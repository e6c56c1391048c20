"""The grids of a multigrid cycle: equations, work memory and layout.

Every grid has equations ``D x - N x = b`` as in :mod:`captum_kd.perturb.multigrid`. Only the weights between neighbors
differ: on the finest grid they are the same everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Offset = tuple[int, int]
Index = tuple[Any, ...]  # of slices, after an ellipsis

# Half of the 8 neighbors; the matrix is symmetric, so the other half mirrors it.
HALF: tuple[Offset, ...] = ((0, 1), (1, 0), (1, 1), (1, -1))
NEIGHBORS: tuple[Offset, ...] = HALF + tuple((-dy, -dx) for dy, dx in HALF)
# Even and odd rows and columns: each combination is a grid of half the size.
PARITIES: tuple[Offset, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
# Damping of Jacobi sweeps where eigenvalues of A / D may reach 2.
_DAMPING = 0.8


def by_parity(images: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C, 2, 2, h, w): even and odd rows and columns separated, padded with zeros.

    Interpolation between the finest grid and the next then reads contiguous memory.
    """
    n, channels, height, width = images.shape
    h, w = halved((height, width))
    even = pad(images, (0, 2 * w - width, 0, 2 * h - height)) if (height, width) != (2 * h, 2 * w) else images
    return even.reshape(n, channels, h, 2, w, 2).permute(0, 1, 3, 5, 2, 4).contiguous()


def from_parity(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`by_parity`."""
    n, channels, _, _, h, w = parts.shape
    images = parts.permute(0, 1, 4, 2, 5, 3).reshape(n, channels, 2 * h, 2 * w)
    return images[..., : size[0], : size[1]]


def parity_parts(x: Tensor) -> dict[Offset, Tensor]:
    """(N, C, h, w) for each parity, from images or from tensors in parity layout."""
    split = x if x.dim() == 6 else by_parity(x)
    return {(y, x): split[:, :, y, x] for y, x in PARITIES}


class Buffers:
    """Work tensors, reused by name and shape: allocating fresh memory takes longer than computing with it."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, torch.Size], Tensor] = {}

    def like(self, example: Tensor, name: str) -> Tensor:
        """A tensor of the example's shape, with any content."""
        key = (name, example.shape[1:])
        found = self._tensors.get(key)
        if found is None or len(found) < len(example):
            found = self._tensors[key] = torch.empty_like(example, memory_format=torch.contiguous_format)
        return found[: len(example)]


class Level:
    """A grid's equations.

    Args:
        size (tuple[int, int]): height and width.
        diagonal (Tensor): ``D``.
        inverse (Tensor): 1 / ``D``, 0 at known pixels.
        damping (float): of Jacobi sweeps.
        buffers (Buffers): work tensors.
    """

    def __init__(
        self, size: tuple[int, int], diagonal: Tensor, inverse: Tensor, damping: float, buffers: Buffers
    ) -> None:
        self.size = size
        self.diagonal = diagonal
        self.inverse = inverse
        self.damping = damping
        self.sweep = damping * inverse
        self.buffers = buffers

    def neighbors(self, x: Tensor, out: Tensor) -> Tensor:
        """``N x`` for an ``x`` that is 0 at known pixels, where the result is undefined."""
        raise NotImplementedError

    def weights(self) -> dict[Offset, dict[Offset, Tensor]]:
        """Weights between unknown pixels, by the pixel's parity and the neighbor's offset."""
        raise NotImplementedError

    def apply(self, x: Tensor, out: Tensor) -> Tensor:
        """``D x - N x``, for the same ``x``."""
        return self.neighbors(x, out).neg_().addcmul_(self.diagonal, x)


class Pixels(Level):
    """The finest grid, with the same weights everywhere and tensors in the layout of :func:`by_parity`."""

    def __init__(self, removed: Tensor, size: tuple[int, int], buffers: Buffers) -> None:
        ones = by_parity(removed.new_ones(1, 1, *size))
        diagonal = _weighted_neighbors(ones, out=torch.empty_like(ones), row=torch.empty_like(ones))
        inverse = removed / diagonal.clamp(min=1)  # a lone pixel has no neighbors
        # Eigenvalues of A / D reach 4/3; undamped sweeps then leave a third of the error that the next grid cannot
        # represent, the least possible. Along a single line they reach 2, where undamped sweeps have no effect.
        super().__init__(size, diagonal, inverse, _DAMPING if min(size) == 1 else 1, buffers)
        self._removed = removed

    def neighbors(self, x: Tensor, out: Tensor) -> Tensor:
        return _weighted_neighbors(x, out, row=self.buffers.like(x, "row"))

    def weights(self) -> dict[Offset, dict[Offset, Tensor]]:
        h, w = halved(self.size)
        framed = {parity: pad(part, (1, 1, 1, 1)) for parity, part in parity_parts(self._removed).items()}

        def seen(y: int, x: int) -> Tensor:
            return framed[y % 2, x % 2][..., 1 + y // 2 :, 1 + x // 2 :][..., :h, :w]

        found: dict[Offset, dict[Offset, Tensor]] = {}
        for y, x in PARITIES:
            direct, diagonal = seen(y, x), 0.5 * seen(y, x)
            found[y, x] = {
                (dy, dx): (direct if dy * dx == 0 else diagonal) * seen(y + dy, x + dx) for dy, dx in NEIGHBORS
            }
        return found


class Coarse(Level):
    """A coarser grid, with a separate weight for each pair of neighbors."""

    def __init__(self, diagonal: Tensor, weights: dict[Offset, Tensor], buffers: Buffers) -> None:
        size = (diagonal.shape[-2], diagonal.shape[-1])
        super().__init__(size, diagonal, torch.where(diagonal > 0, 1 / diagonal, 0), _DAMPING, buffers)
        self._pairs = []
        for offset, weight in weights.items():
            here, there = facing(offset, self.size)
            self._pairs.append((offset, here, there, weight[here].contiguous()))

    def neighbors(self, x: Tensor, out: Tensor) -> Tensor:
        out.zero_()
        for _, here, there, weight in self._pairs:
            out[here].addcmul_(weight, x[there])
            out[there].addcmul_(weight, x[here])
        return out

    def weights(self) -> dict[Offset, dict[Offset, Tensor]]:
        found: dict[Offset, dict[Offset, Tensor]] = {parity: {} for parity in PARITIES}
        for (dy, dx), here, there, weight in self._pairs:
            for offset, where in (((dy, dx), here), ((-dy, -dx), there)):
                plane = torch.zeros_like(self.diagonal)
                plane[where] = weight
                for parity, part in parity_parts(plane).items():
                    found[parity][offset] = part
        return found


def _weighted_neighbors(x: Tensor, out: Tensor, row: Tensor) -> Tensor:
    """Sums direct neighbors and half of the diagonal ones into ``out``; ``row`` is a work tensor."""
    # Left and right: the neighbors of even column i are the odd columns i and i - 1.
    out[:, :, :, 0] = x[:, :, :, 1]
    out[:, :, :, 1] = x[:, :, :, 0]
    out[:, :, :, 0, :, 1:] += x[:, :, :, 1, :, :-1]
    out[:, :, :, 1, :, :-1] += x[:, :, :, 0, :, 1:]
    # Each row contributes to the rows above and below: its pixels and half of their neighbors.
    torch.add(x, out, alpha=0.5, out=row)
    out[:, :, 0] += row[:, :, 1]
    out[:, :, 1] += row[:, :, 0]
    out[:, :, 0, :, 1:] += row[:, :, 1, :, :-1]
    out[:, :, 1, :, :-1] += row[:, :, 0, :, 1:]
    return out


def halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def facing(offset: Offset, size: tuple[int, int]) -> tuple[Index, Index]:
    """Indices of the pixels that have a neighbor at this offset, and of those neighbors."""
    shifts = tuple(zip(offset, size))
    here = (..., *(slice(max(0, -shift), length - max(0, shift)) for shift, length in shifts))
    there = (..., *(slice(max(0, shift), length - max(0, -shift)) for shift, length in shifts))
    return here, there
