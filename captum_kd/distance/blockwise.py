"""Differentiable Gram matrices of features without n x n distance matrices.

The backward pass computes every tile of distances again and holds one tile at a time. With P and Q centered, the gradient
of <P, Q> with respect to the distances behind P is Q itself, since centering is a projection.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_int
from captum_kd.distance.block_sums import PairSums, block_side, population_sums, tiles
from captum_kd.distance.centering import Estimator, warn_of_no_geometry
from captum_kd.distance.gram import partial_correlation
from captum_kd.distance.pairwise import unchecked_distances
from captum_kd.distance.precision import MOST_DENSE
from captum_kd.distance.sources import DistanceSource, FeatureDistances, TensorFeatures

__all__ = ["block_correlation", "check_block_size", "chosen_block", "first_correlation", "noise_squares", "source_correlation"]


def check_block_size(block_size: Optional[int]) -> None:
    """Raises unless the value is None or a positive integer."""
    if block_size is not None:
        check_int(block_size, "block_size", 1, or_none=True)


def chosen_block(features: Tensor, block_size: Optional[int]) -> Optional[int]:
    """Inputs per side of a tile of the distances of features (n, d); None for whole matrices."""
    if block_size is None:
        return None if features.shape[0] <= MOST_DENSE else block_side(features.device)
    return block_size


def noise_squares(sums: PairSums, sources: Sequence[DistanceSource]) -> Tensor:
    """(k,) largest squared norms of centered matrices that count as rounding.

    Raises:
        ValueError: distances with non-finite values.
    """
    levels = sums.products.new_tensor([source.noise for source in sources])
    of_rounding = sums.products.new_tensor([2 * (sums.n * source.rounding) ** 2 for source in sources])
    raw = sums.raw_squares()
    noise = raw * torch.where(raw <= of_rounding, 1.0, levels.square())
    if not bool(torch.isfinite(noise).all()):
        raise ValueError("distances has non-finite values (NaN or infinity); all must be finite.")
    return noise


def first_correlation(gram: Tensor, noise: Tensor, x_given: Sequence[int], y_given: Sequence[int]) -> Tensor:
    """Correlation of the first two geometries of a Gram matrix; 0 with a warning if it is not defined."""
    value, defined = partial_correlation(gram, noise, 0, 1, x_given, y_given)
    if not bool(defined):
        warn_of_no_geometry()
    return value


def source_correlation(
    sources: Sequence[DistanceSource],
    estimator: Estimator,
    block_size: Optional[int],
    x_given: Sequence[int] = (),
    y_given: Sequence[int] = (),
) -> Tensor:
    """Correlation of the first two sources' geometries after removal of others, given by index; no gradient."""
    sums = population_sums(sources, block_size=block_size)
    noise = noise_squares(sums, sources)
    return first_correlation(sums.gram(estimator), noise, x_given, y_given)


def block_correlation(
    features: Sequence[Tensor],
    estimator: Estimator,
    block_size: int,
    x_given: Sequence[int] = (),
    y_given: Sequence[int] = (),
) -> Tensor:
    """:func:`source_correlation` of features (n, d) of one dtype, which is also the result's; differentiable once."""
    gram, noise = _BlockGram.apply(estimator, block_size, *features)
    return first_correlation(gram, noise, x_given, y_given).to(features[0].dtype)


class _BlockGram(torch.autograd.Function):
    """(k, k) inner products of the geometries of k sets of features, and the squared norms that count as rounding."""

    @staticmethod
    def forward(ctx: Any, estimator: Estimator, block_size: int, *features: Tensor) -> tuple[Tensor, Tensor]:
        sources = [FeatureDistances(TensorFeatures(each)) for each in features]
        sums = population_sums(sources, block_size=block_size)
        noise = noise_squares(sums, sources)
        ctx.block_size = block_size
        ctx.units = [(source.unit, source.dtype, source.all_far is True) for source in sources]
        ctx.save_for_backward(sums.u_shifts(estimator), *features)
        ctx.mark_non_differentiable(noise)
        return sums.gram(estimator), noise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Optional[Tensor], ...]:
        shifts, *features = ctx.saved_tensors
        weights = grad + grad.T
        wanted = [place for place, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        pulls: list[Optional[Tensor]] = [None] * len(features)
        for place in wanted:
            pulls[place] = torch.zeros_like(features[place])
        for rows, columns in tiles(shifts.shape[1], ctx.block_size):
            on_diagonal = rows == columns
            parts = (rows,) if on_diagonal else (rows, columns)
            leaves = [
                [(each[part].to(dtype) / unit).detach().requires_grad_() for part in parts]
                for each, (unit, dtype, _) in zip(features, ctx.units)
            ]
            with changed_state(torch.enable_grad()), interruptible():
                distances = [unchecked_distances(*each, all_far=all_far) for each, (_, _, all_far) in zip(leaves, ctx.units)]
            centered = torch.stack([each.detach().to(shifts.dtype) for each in distances])
            centered.sub_(shifts[:, rows, None]).sub_(shifts[:, None, columns])
            for place in wanted:
                # The sums count every pair twice. A tile on the diagonal holds both entries of a pair, other tiles hold one.
                slope = torch.tensordot(weights[place], centered, 1).mul_(1 if on_diagonal else 2)
                found = torch.autograd.grad(distances[place], leaves[place], slope.to(distances[place].dtype))
                pull = pulls[place]
                assert pull is not None
                for part, share in zip(parts, found):
                    pull[part] += share / ctx.units[place][0]
        return None, None, *pulls
