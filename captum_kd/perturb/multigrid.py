"""One multigrid cycle for pixels that are the weighted mean of their 8 neighbors.

The unknown pixels solve ``D x - N x = b``. ``N`` sums the unknown neighbors, direct ones with weight 1, diagonal
ones with 1/2; ``D`` is the total weight of all neighbors inside the image. The matrix is symmetric, and positive
definite if the image has a known pixel. It is never stored: every step is a few operations on a whole batch of
images, each with its own mask.

The coarse grids are built from the equations, so that holes of any shape, thin walls and single known pixels are
represented on them: interpolation solves the equations locally (Dendy's black box multigrid), and each coarse operator
is the Galerkin product, which again couples 9 points. If only the mask were coarsened, known regions would grow and the
cycle would underestimate large errors. With this construction one cycle estimates the error reliably, and each step of
conjugate gradients reduces the error about tenfold.

Sources: Dendy, "Black box multigrid", J. Comput. Phys. 48, 1982; Tatebe, "The multigrid preconditioned
conjugate gradient method", 1993.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_kd.perturb.grids import (
    HALF, NEIGHBORS, PARITIES, Coarse, Index, Level, Offset, Pixels, by_parity, facing, from_parity,
    halved, parity_parts,
)  # fmt: skip

COARSEST = 8
"""Grids with at most this many pixels per side are solved directly."""

# A known coarse pixel is still used if its diagonal is not close to 0 (inside a hole it is about 5). Smaller diagonals do
# not help, and shrink to nothing from grid to grid.
_LEAST_DIAGONAL = 0.1


class Hierarchy:
    """Grids from the image's own size down to one that is solved directly.

    Args:
        finest (Pixels): the images' own grid.
    """

    def __init__(self, finest: Pixels) -> None:
        self.finest = finest
        self._levels: list[Level] = [self.finest]
        self._transfers: list[_Transfer] = []
        while max(self._levels[-1].size) > COARSEST:
            transfer = _Transfer(self._levels[-1])
            self._transfers.append(transfer)
            self._levels.append(transfer.coarse_level())
        self._inverse = _dense_inverse(self._levels[-1])

    def cycle(self, residual: Tensor, level: int = 0) -> Tensor:
        """An approximate solution for the right-hand side (N, C, 2, 2, h, w), 0 at known pixels.

        One V-cycle with one damped Jacobi sweep before and one after the coarse correction, a symmetric positive
        definite operator. The next call overwrites the result.
        """
        if level == len(self._transfers):
            # No matrix product: the caller's autocast would round it to half precision.
            return (self._inverse * residual.flatten(2).unsqueeze(2)).sum(-1).reshape(residual.shape)
        grid, transfer = self._levels[level], self._transfers[level]
        x = torch.mul(grid.sweep, residual, out=grid.buffers.like(residual, "x"))
        # D x is the damped residual itself, so the remaining residual is N x plus the undamped part.
        rest = grid.neighbors(x, out=grid.buffers.like(residual, "rest"))
        if grid.damping < 1:
            rest.add_(residual, alpha=1 - grid.damping)
        transfer.add_up(self.cycle(transfer.down(rest), level + 1), to=x)
        better = grid.neighbors(x, out=rest).add_(residual).mul_(grid.sweep)
        return better.add_(x, alpha=1 - grid.damping) if grid.damping < 1 else better


class _Transfer:
    """Interpolation from every second pixel in each direction, and its transpose.

    A pixel between two coarse pixels gets the value that solves its equation summed across their line; a pixel between
    four gets the value that solves its own equation. Corrections therefore decrease to 0 at known pixels and do not
    cross walls of known pixels.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self._coarse_size = halved(level.size)
        self._entries = level.weights()
        for parity, part in parity_parts(level.diagonal).items():
            self._entries[parity][0, 0] = -part
        unknown = parity_parts(torch.sign(level.inverse))
        self._weights = self._interpolation(unknown)
        product = self._galerkin_product()
        used = (unknown[0, 0] > 0) | (-product[0, 0] > _LEAST_DIAGONAL)
        self._product = self._restricted_to(used.to(level.inverse.dtype), product)
        # Weights that reach beyond the grid are 0 and are left out.
        self._terms: dict[Offset, list[tuple[Index, Index, Tensor]]] = {}
        for parity, corners in self._weights.items():
            self._terms[parity] = []
            for corner, weight in corners.items():
                here, there = facing(corner, self._coarse_size)
                self._terms[parity].append((here, there, weight[here].contiguous()))

    def _interpolation(self, unknown: dict[Offset, Tensor]) -> dict[Offset, dict[Offset, Tensor]]:
        """By parity and corner: the weights of the coarse pixels i + corner for the pixels 2 i + parity."""
        # Coarse matrices may have a few entries of the wrong sign. They are ignored here: they would make weights large
        # and negative, and the next matrix nearly singular.
        at = {offset: entry.clamp(min=0) for offset, entry in self._entries[0, 1].items()}
        west, east = at[-1, -1] + at[0, -1] + at[1, -1], at[-1, 1] + at[0, 1] + at[1, 1]
        across = -self._entries[0, 1][0, 0] - at[-1, 0] - at[1, 0]
        west, east = _shares(across, unknown[0, 1], west, east)
        at = {offset: entry.clamp(min=0) for offset, entry in self._entries[1, 0].items()}
        north, south = at[-1, -1] + at[-1, 0] + at[-1, 1], at[1, -1] + at[1, 0] + at[1, 1]
        across = -self._entries[1, 0][0, 0] - at[0, -1] - at[0, 1]
        north, south = _shares(across, unknown[1, 0], north, south)
        around = self._entries[1, 1]
        near = [around[offset].clamp(min=0) for offset in NEIGHBORS]
        at = dict(zip(NEIGHBORS, _shares(-around[0, 0], unknown[1, 1], *near)))
        below, right = (0, 0, -1, 1), (-1, 1)
        amid = {
            (0, 0): at[-1, -1] + at[-1, 0] * west + at[0, -1] * north,
            (0, 1): at[-1, 1] + at[-1, 0] * east + at[0, 1] * pad(north, right),
            (1, 0): at[1, -1] + at[1, 0] * pad(west, below) + at[0, -1] * south,
            (1, 1): at[1, 1] + at[1, 0] * pad(east, below) + at[0, 1] * pad(south, right),
        }
        return {
            (0, 0): {(0, 0): unknown[0, 0].clone()},
            (0, 1): {(0, 0): west, (0, 1): east},
            (1, 0): {(0, 0): north, (1, 0): south},
            (1, 1): amid,
        }

    def add_up(self, coarse: Tensor, to: Tensor) -> None:
        """Adds the interpolation of (N, C, h, w) to a tensor of the level."""
        split = to if isinstance(self._level, Pixels) else by_parity(to)
        for (y, x), terms in self._terms.items():
            for here, there, weight in terms:
                split[:, :, y, x][here].addcmul_(weight, coarse[there])
        if split is not to:
            to.copy_(from_parity(split, self._level.size))

    def down(self, fine: Tensor) -> Tensor:
        """The transpose of the interpolation. The next call overwrites the result."""
        parts = parity_parts(fine)
        coarse = self._level.buffers.like(parts[0, 0], "coarse").zero_()
        for parity, terms in self._terms.items():
            for here, there, weight in terms:
                coarse[there].addcmul_(weight, parts[parity][here])
        return coarse

    def coarse_level(self) -> Coarse:
        """The grid of every second pixel."""
        weights = {offset: self._product[offset] for offset in HALF}
        return Coarse(-self._product[0, 0], weights, self._level.buffers)

    def _restricted_to(self, used: Tensor, product: dict[Offset, Tensor]) -> dict[Offset, Tensor]:
        """Removes unused coarse pixels from the interpolation and its product, in place."""
        for corners in self._weights.values():
            for corner, weight in corners.items():
                here, there = facing(corner, self._coarse_size)
                weight[here] *= used[there]
        for offset, entry in product.items():
            here, there = facing(offset, self._coarse_size)
            entry *= used
            entry[here] *= used[there]
        return product

    def _galerkin_product(self) -> dict[Offset, Tensor]:
        """The Galerkin product P' A P of the interpolation P and the level's matrix A, entry by entry."""
        zeros = torch.zeros_like(self._weights[0, 0][0, 0])
        product = {offset: zeros.clone() for offset in ((0, 0), *HALF)}
        for parity in PARITIES:
            through = self._neighbors_of_interpolation(parity, zeros)
            for (cy, cx), weight in self._weights[parity].items():
                here, there = facing((cy, cx), self._coarse_size)
                weight = weight[here]
                for (dy, dx), total in product.items():
                    if (cy + dy, cx + dx) in through:
                        total[there].addcmul_(weight, through[cy + dy, cx + dx][here])
        return product

    def _neighbors_of_interpolation(self, parity: Offset, zeros: Tensor) -> dict[Offset, Tensor]:
        """-A P in the rows of pixels 2 i + parity, by the offset of the coarse pixel from i."""
        through: dict[Offset, Tensor] = {}
        for (dy, dx), entry in self._entries[parity].items():
            y, x = parity[0] + dy, parity[1] + dx
            here, there = facing((y // 2, x // 2), self._coarse_size)
            for (cy, cx), weight in self._weights[y % 2, x % 2].items():
                total = through.setdefault((y // 2 + cy, x // 2 + cx), zeros)
                if total is zeros:
                    total = through[y // 2 + cy, x // 2 + cx] = zeros.clone()
                total[here].addcmul_(entry[here], weight[there])
        return through


def _shares(whole: Tensor, unknown: Tensor, *parts: Tensor) -> list[Tensor]:
    """Each part divided by the whole, or by the sum of the parts where that is larger; 0 at known pixels."""
    total = torch.maximum(whole, sum(parts[1:], parts[0]))
    scale = torch.where(total > 0, unknown / total, 0)
    return [part * scale for part in parts]


def _dense_inverse(level: Level) -> Tensor:
    """(N, 1, pixels, pixels): the inverse of the coarsest matrix, 0 in the rows of known pixels."""
    inverse = level.inverse
    n, pixels = inverse.shape[0], inverse[0].numel()
    unit = torch.eye(pixels, dtype=inverse.dtype, device=inverse.device)
    columns = unit.reshape(1, pixels, *inverse.shape[2:]).repeat(n, *[1] * (inverse.dim() - 1))
    unknown = torch.sign(inverse).flatten(2)  # (N, 1, pixels)
    matrix = level.apply(columns, out=torch.empty_like(columns)).flatten(2) * unknown * unknown.mT + unit * (1 - unknown)
    inverted, failed = torch.linalg.inv_ex(matrix)
    # Two coarse pixels may represent the same fine ones. Such a matrix is singular, or invertible only by rounding.
    size = matrix.diagonal(dim1=1, dim2=2).amax(1) * inverted.flatten(1).abs().amax(1)
    singular = (failed != 0) | ~(size < 0.01 / torch.finfo(matrix.dtype).eps)
    if bool(singular.any()):
        inverted[singular] = torch.linalg.pinv(matrix[singular], rtol=1e-5, hermitian=True)
    solved: Tensor = (inverted * unknown).unsqueeze(1)
    return solved
