"""Rows of U-centred distance matrices, a block at a time and in float64.

Inference needs more digits than a score does (leave-one-out values differ from each other
in the third digit and later) but must not double the memory of a population that was kept
in float32. So the matrices stay as they are, and only the rows in work are widened.
"""

from __future__ import annotations

import math
from typing import Iterator, Sequence

import torch
from torch import Tensor

from captum_kd._values import check_dense, described
from captum_kd.distance import MIN_INPUTS, u_shift

# Numbers of float64 in work at once: 2 MB, which stays in a core's cache.
_BLOCK_NUMBERS = 1 << 18


def check_matrices(distances: Sequence[Tensor]) -> int:
    """Checks that the matrices describe one population and returns its size n.

    Raises:
        ValueError: no matrix, not square, of different sizes, or fewer than 4 inputs.
        TypeError: a matrix is not float32 or float64.
    """
    if not distances:
        raise ValueError("distances is empty; at least one matrix is needed.")
    for matrix in distances:
        if not isinstance(matrix, Tensor):
            raise TypeError(f"distances must be tensors (n, n), got {described(matrix)}.")
        check_dense(matrix, "distances")
    n = distances[0].shape[0] if distances[0].dim() else 0
    for matrix in distances:
        if tuple(matrix.shape) != (n, n):
            raise ValueError(
                f"distances must be matrices of one population, each of shape (n, n); got shapes "
                f"{[tuple(each.shape) for each in distances]}."
            )
        if matrix.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"distances must be float32 or float64, got {matrix.dtype}.")
    if n < MIN_INPUTS:
        raise ValueError(f"distances must be of at least {MIN_INPUTS} inputs, got {n}.")
    return n


def raw_norm(distances: Tensor) -> float:
    """Frobenius norm of a matrix, summed in float64 so that squares of float32 cannot overflow.

    Raises:
        ValueError: the matrix has non-finite values: no comparison with them would ever be true, and
            a p-value counted by comparisons would come out smallest.
    """
    step = max(1, _BLOCK_NUMBERS // distances.shape[0])
    squares = sum(float(rows.double().square().sum()) for rows in distances.split(step))
    if not math.isfinite(squares):
        raise ValueError("distances has non-finite values (NaN or infinity); all must be finite.")
    return math.sqrt(squares)


def u_centred_row_blocks(
    distances: Sequence[Tensor], *, rows_per_block: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Streams the rows of several U-centred matrices side by side.

    Centring is idempotent, so matrices that were U-centred before pass through unchanged.

    Args:
        distances (sequence of Tensor): k symmetric (n, n) matrices with zero diagonals,
            float32 or float64, on one device.
        rows_per_block (int): rows in work at once; by default as many as fit a core's cache.

    Yields:
        (slice, Tensor): the rows' places and their values, (rows, k, n), float64.

    Source: U-centring, Szekely & Rizzo 2014.
    """
    n = distances[0].shape[0]
    shift = torch.stack([u_shift(matrix, torch.float64) for matrix in distances])  # (k, n)
    step = rows_per_block or max(1, _BLOCK_NUMBERS // (n * len(distances)))
    work = shift.new_empty((min(step, n), len(distances), n))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        block = work[: rows.stop - start]
        for place, matrix in enumerate(distances):
            block[:, place].copy_(matrix[rows])
        block.sub_(shift[:, rows].T[:, :, None]).sub_(shift)
        block.diagonal(offset=start, dim1=0, dim2=2).zero_()
        yield rows, block
