"""Which holes the diagonal solves, and that its residual bounds the error there."""

from typing import Optional

import pytest
import torch
from torch import Tensor

from captum_kd.perturb.grids import Buffers, Pixels, by_parity
from captum_kd.perturb.scattered import Scattered


def scattered(removed: Tensor) -> Optional[Scattered]:
    parts, buffers = by_parity(removed), Buffers()
    size = (removed.shape[-2], removed.shape[-1])
    return Scattered.of(Pixels(parts, size, buffers.part(0)), parts, buffers)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_no_error_is_larger_than_the_residual_allows(share, seed):
    draw, found = torch.Generator().manual_seed(seed), None
    while found is None:  # a hole may be too large by chance
        removed = (torch.rand(1, 1, 20, 23, generator=draw) < share).double()
        found = scattered(removed)
    pixels = removed.numel()
    unit = by_parity(torch.eye(pixels, dtype=torch.float64).reshape(1, pixels, 20, 23) * removed)
    applied = found.cycle(found.finest.apply(unit, out=torch.empty_like(unit))).flatten(2)[0]
    holes = torch.nonzero(by_parity(removed).flatten()).flatten()
    of = torch.nonzero(removed.flatten()).flatten()
    inverse = torch.linalg.inv(applied[of][:, holes].T)
    assert float(inverse.abs().sum(1).max()) - 1 <= float(found.safety) + 1e-9


def test_large_holes_are_left_to_coarse_grids():
    removed = torch.zeros(2, 1, 40, 40)
    removed[:, :, ::2, ::2] = 1
    assert scattered(removed) is not None
    removed[1, :, 10:25, 10:25] = 1
    assert scattered(removed) is None
