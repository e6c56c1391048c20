"""One multigrid cycle for pixels that are the weighted mean of their 8 neighbours.

The pixels to be found solve ``D x - N x = b``: ``N`` adds the neighbours that are to be found too, direct
ones with weight 1, diagonal ones with 1/2, and ``D`` is the sum of the weights of all neighbours inside the
image. The matrix is symmetric positive definite where each hole touches a known pixel. No matrix is
stored: every step is a handful of operations on whole batches of images, whose holes may all differ.

Holes of any shape and size, thin walls and single known pixels need coarse grids that know of them:
interpolation follows the equations (Dendy's black box multigrid) and each coarse operator is the Galerkin
product, so that it is again one of 9 points. Unlike grids that coarsen the mask, these give a correction
whose largest entry can be trusted as an estimate of the error, and errors fall tenfold a step.

Sources: Dendy, "Black box multigrid", J. Comput. Phys. 48, 1982; Tatebe, "The multigrid preconditioned
conjugate gradient method", 1993.
"""

from __future__ import annotations

from typing import NamedTuple, Union

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Hierarchy"]

COARSEST = 8
"""Grids of at most so many pixels a side are solved directly."""

# The half of the 8 neighbours that the other half mirrors.
_HALF = ((0, 1), (1, 0), (1, 1), (1, -1))
_NEIGHBOURS = _HALF + tuple((-dy, -dx) for dy, dx in _HALF)
# Neighbours along one line take up all but this share of the diagonal: across that line nothing is left but rounding.
_NOTHING_ACROSS = 1e-6

Index = tuple[Union[slice, "ellipsis"], ...]


class Hierarchy:
    """Grids from the image's own down to one that is solved directly.

    Args:
        removed (Tensor): (N, 1, H, W), 1 where the pixel is to be found and 0 where it is known.
    """

    def __init__(self, removed: Tensor) -> None:
        self.finest = _Pixels(removed)
        self._levels: list[_Level] = [self.finest]
        self._transfers: list[_Transfer] = []
        while max(self._levels[-1].size) > COARSEST:
            self._transfers.append(_Transfer(self._levels[-1]))
            self._levels.append(_galerkin(self._levels[-1], self._transfers[-1]))
        self._inverse = _dense_inverse(self._levels[-1])

    def apply(self, x: Tensor) -> Tensor:
        """``D x - N x`` of (N, C, H, W); known pixels of ``x`` must be 0, those of the result mean nothing."""
        return self.finest.apply(x)

    def cycle(self, residual: Tensor, level: int = 0) -> Tensor:
        """An approximate solution for the right-hand side ``residual``, 0 at known pixels.

        One V-cycle with one Jacobi sweep before and one after the correction: a symmetric positive definite
        operator. With these weights the best damping on the finest grid is none: sweeps leave a third of
        every error that the next grid cannot show.
        """
        if level == len(self._transfers):
            return self._solve_directly(residual)
        grid, transfer = self._levels[level], self._transfers[level]
        x = grid.inverse * residual
        # D x is the residual itself, so N x is what is left of it.
        x = x + transfer.up(self.cycle(transfer.down(grid.neighbours(x)), level + 1))
        return grid.inverse * (residual + grid.neighbours(x))

    def first_guess(self, residual: Tensor, level: int = 0) -> Tensor:
        """The coarser grids' solution by nested iteration, interpolated: what a cycle starts well from."""
        if level == len(self._transfers):
            return self._solve_directly(residual)
        transfer = self._transfers[level]
        x = transfer.up(self.first_guess(transfer.down(residual), level + 1))
        return x + self.cycle(residual - self._levels[level].apply(x), level) if level else x

    def _solve_directly(self, residual: Tensor) -> Tensor:
        # A product under a caller's autocast would be rounded to half precision.
        return (self._inverse * residual.flatten(2).unsqueeze(2)).sum(-1).reshape(residual.shape)


class _Level:
    """A grid's equations: ``diagonal``, and ``inverse``, which is 0 where nothing is to be found."""

    size: tuple[int, int]
    diagonal: Tensor
    inverse: Tensor

    def neighbours(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def weight(self, dy: int, dx: int) -> Tensor:
        """(N, 1, h, w): the weight of each unknown's neighbour at (dy, dx), 0 where that is none."""
        raise NotImplementedError

    def apply(self, x: Tensor) -> Tensor:
        return self.diagonal * x - self.neighbours(x)


class _Pixels(_Level):
    """The finest grid: weights are the same everywhere."""

    def __init__(self, removed: Tensor) -> None:
        self.size = (removed.shape[-2], removed.shape[-1])
        self.diagonal = self.neighbours(removed.new_ones(1, 1, *self.size))
        self.inverse = removed / self.diagonal.clamp(min=1)  # only the lone pixel has no neighbours
        self._removed = removed

    def neighbours(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total[..., 1:] = x[..., :-1]
        total[..., :-1] += x[..., 1:]
        row = torch.add(x, total, alpha=0.5)
        total[..., 1:, :] += row[..., :-1, :]
        total[..., :-1, :] += row[..., 1:, :]
        return total

    def weight(self, dy: int, dx: int) -> Tensor:
        here, there = _facing(dy, dx, self.size)
        weights = torch.zeros_like(self._removed)
        torch.mul(self._removed[here], self._removed[there], out=weights[here])
        return weights if dy * dx == 0 else weights * 0.5


class _Coarse(_Level):
    """A coarser grid: each unknown has its own weights, mirrored by its neighbours'."""

    def __init__(self, diagonal: Tensor, weights: dict[tuple[int, int], Tensor]) -> None:
        self.size = (diagonal.shape[-2], diagonal.shape[-1])
        self.diagonal = diagonal
        self.inverse = torch.where(diagonal > 0, 1 / diagonal, 0)
        self._edges = {}
        for offset, weight in weights.items():
            here, there = _facing(*offset, self.size)
            self._edges[offset] = here, there, weight[here].contiguous()

    def neighbours(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for here, there, weight in self._edges.values():
            total[here].addcmul_(weight, x[there])
            total[there].addcmul_(weight, x[here])
        return total

    def weight(self, dy: int, dx: int) -> Tensor:
        weights = torch.zeros_like(self.diagonal)
        if (dy, dx) in self._edges:
            here, _, weight = self._edges[dy, dx]
            weights[here] = weight
        else:
            _, there, weight = self._edges[-dy, -dx]
            weights[there] = weight
        return weights


class _Term(NamedTuple):
    """Pixels of one parity take part of one of the coarse pixels around them."""

    weight: Tensor
    fine: Index
    coarse: Index


class _Transfer:
    """Interpolation from every second pixel in each direction, and its transpose.

    A pixel between two coarse ones takes the values that its equation, summed across that line, gives; one
    amid four takes the value that its own equation gives. So values fall towards known pixels, where
    corrections are 0, and do not cross walls of known pixels.
    """

    def __init__(self, level: _Level) -> None:
        self._size = level.size
        height, width = level.size
        self._coarse_size = (height + 1) // 2, (width + 1) // 2
        # To even sizes, with known pixels, so that pixels of each parity form grids of one size.
        margin = (0, width % 2, 0, height % 2)
        near = {offset: pad(level.weight(*offset), margin) for offset in _NEIGHBOURS}
        inverse = pad(level.inverse, margin)
        self._terms: list[_Term] = []

        def of_parity(py: int, px: int) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
            return {key: value[..., py::2, px::2] for key, value in near.items()}, inverse[..., py::2, px::2]

        at, scale = of_parity(0, 1)
        rest = _inverse_without(scale, at[-1, 0] + at[1, 0])
        west = (at[-1, -1] + at[0, -1] + at[1, -1]) * rest
        east = (at[-1, 1] + at[0, 1] + at[1, 1]) * rest
        at, scale = of_parity(1, 0)
        rest = _inverse_without(scale, at[0, -1] + at[0, 1])
        north = (at[-1, -1] + at[-1, 0] + at[-1, 1]) * rest
        south = (at[1, -1] + at[1, 0] + at[1, 1]) * rest
        at, scale = of_parity(1, 1)
        below, right = (0, 0, 0, 1), (0, 1)
        amid = (
            at[-1, -1] + at[-1, 0] * west + at[0, -1] * north,
            at[-1, 1] + at[-1, 0] * east + at[0, 1] * pad(north[..., 1:], right),
            at[1, -1] + at[1, 0] * pad(west[..., 1:, :], below) + at[0, -1] * south,
            at[1, 1] + at[1, 0] * pad(east[..., 1:, :], below) + at[0, 1] * pad(south[..., 1:], right),
        )
        self._add(torch.sign(inverse[..., 0::2, 0::2]), (0, 0), (0, 0))
        self._add(west, (0, 1), (0, 0))
        self._add(east, (0, 1), (0, 1))
        self._add(north, (1, 0), (0, 0))
        self._add(south, (1, 0), (1, 0))
        for weight, corner in zip(amid, ((0, 0), (0, 1), (1, 0), (1, 1))):
            self._add(weight * scale, (1, 1), corner)

    def _add(self, weight: Tensor, parity: tuple[int, int], corner: tuple[int, int]) -> None:
        counts = [
            min(coarse - shift, (fine - first + 1) // 2)
            for coarse, fine, shift, first in zip(self._coarse_size, self._size, corner, parity)
        ]
        if min(counts) > 0:
            rows, columns = counts
            fine = (..., *(slice(first, first + 2 * count, 2) for first, count in zip(parity, counts)))
            coarse = (..., *(slice(shift, shift + count) for shift, count in zip(corner, counts)))
            self._terms.append(_Term(weight[..., :rows, :columns].contiguous(), fine, coarse))

    def up(self, coarse: Tensor) -> Tensor:
        fine = coarse.new_zeros(*coarse.shape[:-2], *self._size)
        for term in self._terms:
            fine[term.fine].addcmul_(term.weight, coarse[term.coarse])
        return fine

    def down(self, fine: Tensor) -> Tensor:
        coarse = fine.new_zeros(*fine.shape[:-2], *self._coarse_size)
        for term in self._terms:
            coarse[term.coarse].addcmul_(term.weight, fine[term.fine])
        return coarse


def _facing(dy: int, dx: int, size: tuple[int, int]) -> tuple[Index, Index]:
    """Where the pixels lie that have a neighbour at (dy, dx), and where those neighbours lie."""
    shifts = tuple(zip((dy, dx), size))
    here = (..., *(slice(max(0, -shift), length - max(0, shift)) for shift, length in shifts))
    there = (..., *(slice(max(0, shift), length - max(0, -shift)) for shift, length in shifts))
    return here, there


def _inverse_without(inverse: Tensor, along: Tensor) -> Tensor:
    """1 / (diagonal - along), or the inverse diagonal where nothing would be left; 0 stays 0."""
    left = 1 - along * inverse
    return torch.where(left > _NOTHING_ACROSS, inverse / left, inverse)


def _galerkin(level: _Level, transfer: _Transfer) -> _Coarse:
    """The coarse operator, read off its action on 9 combs of pixels that have no neighbour in common."""
    height, width = transfer._coarse_size
    rows = torch.arange(height, device=level.inverse.device)[:, None]
    columns = torch.arange(width, device=level.inverse.device)
    combs = torch.arange(9, device=level.inverse.device)[:, None, None] == rows % 3 * 3 + columns % 3
    n = level.inverse.shape[0]
    seen = transfer.down(level.apply(transfer.up(combs.to(level.inverse.dtype).expand(n, -1, -1, -1))))

    def entries(dy: int, dx: int) -> Tensor:
        comb = (rows + dy) % 3 * 3 + (columns + dx) % 3
        return seen.gather(1, comb.expand(n, 1, -1, -1))

    return _Coarse(entries(0, 0), {offset: -entries(*offset) for offset in _HALF})


def _dense_inverse(level: _Level) -> Tensor:
    """(N, 1, h * w, h * w): the inverse of the coarsest matrix, 0 in the rows of known pixels."""
    height, width = level.size
    inverse = level.inverse
    unit = torch.eye(height * width, dtype=inverse.dtype, device=inverse.device)
    columns = unit.reshape(1, -1, height, width).expand(inverse.shape[0], -1, -1, -1)
    unknown = torch.sign(inverse).flatten(2)  # (N, 1, h * w)
    matrix = level.apply(columns).flatten(2) * unknown * unknown.mT + unit * (1 - unknown)
    return (torch.linalg.inv(matrix) * unknown).unsqueeze(1)
