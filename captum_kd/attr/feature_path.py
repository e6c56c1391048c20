r"""Straight paths of features from a baseline to where they are, and mean gradients along them.

The gradient at the features themselves tells what would raise the objective from there. The mean gradient on the way from a
baseline tells what raised it so far: multiplied by the way, it is the whole gain (Sundararajan et al. 2017, here between
features, so that no pass of a network is added).

At :math:`z = x - s (x - b)`, from s = 1 to s = 0, the squared distance to a reference f is a quadratic in s. Its coefficients
need the products of x and x - b with f, one matrix product for all points of the path. Distances at the features themselves do
not depend on b, so that a distant baseline costs them no digits. The gradient is :math:`\sum_j c_j (z - f_j)`, so that its mean
needs the means of :math:`\sum_j c_j`, :math:`s \sum_j c_j` and c, and one more product. All else is elementwise.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from captum_kd.attr.layer_reference import AddedRows
from captum_kd.attr.objective import Objectives, PopulationGram, reference_objectives
from captum_kd.distance.pairwise import CHUNK

Baseline = Union[None, str, Tensor]
"""Features at which a path begins: None for the population's mean, "zero", or (d,) features."""

# Numbers held at once for a part of the inputs: 8 MB of float64 for each intermediate result.
_PART = 2**20
# Squared distances below this fraction of the squared norms are rounding of equal features.
_EQUAL = 1e-13


class Steps(NamedTuple):
    """Points t in [0, 1] of the paths, and their weights in the mean.

    Attributes:
        points, weights (tuple of float): nodes and weights of the Gauss-Legendre quadrature, and t = 1 with the weight 0, where
            the objective must be defined.
        has_start (bool): True if t = 0 is the first point, with the weight 0.
    """

    points: tuple[float, ...]
    weights: tuple[float, ...]
    has_start: bool

    @classmethod
    def gauss_legendre(cls, n_steps: int, has_start: bool) -> "Steps":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        start = (0.0,) if has_start else ()
        return cls((*start, *((1 + nodes) / 2).tolist(), 1.0), (*start, *(weights / 2).tolist(), 0.0), has_start)


class Integral(NamedTuple):
    """Replaces the gradients at one layer by their means along paths.

    Attributes:
        steps (Steps): points of the paths.
        baselines (sequence): the baseline of each direction.
    """

    steps: Steps
    baselines: Sequence[Baseline]


class Surroundings(NamedTuple):
    """The population that each of N inputs is added to, in the geometry in which they move.

    Attributes:
        points (Tensor): (m, d) features of the population. In batch mode (N, d): the population of each input are the others.
        shifts (Tensor): (N, m) the vectors that center the populations' distances, float64 if the device has it.
        raw_squares (Tensor): (N, 1) squares of the scales that separate rounding from structure.
        others (Tensor, optional): (N, N - 1) the indices of the other inputs, in batch mode.
    """

    points: Tensor
    shifts: Tensor
    raw_squares: Tensor
    others: Optional[Tensor] = None


class FeatureGradients(NamedTuple):
    """Gradients at features, or the mean gradients on the way to them.

    Attributes:
        gradients (Tensor): (N, d).
        baselines (Tensor, optional): (N, d) or (1, d), the beginnings of the paths.
        gains (Tensor, optional): (N,) objectives at the features minus objectives at the baselines.
    """

    gradients: Tensor
    baselines: Optional[Tensor] = None
    gains: Optional[Tensor] = None


class FeaturePath(NamedTuple):
    """Paths of N inputs, with features relative to the population's mean.

    Attributes:
        end (Tensor): (N, d) the features.
        way (Tensor): (N, d) from the baselines to the features.
        squares (tuple of Tensor): (N, m), (N, m), (N, 1): squared distances to the population are the first, plus s times
            the second, plus the square of s times the third, with s = 1 - t.
        least (Tensor): (N, m) squared distances that are rounding at s = 0.
        around (Surroundings): the population.
        mean (Tensor): (1, d) the mean of its points.
    """

    end: Tensor
    way: Tensor
    squares: tuple[Tensor, Tensor, Tensor]
    least: Tensor
    around: Surroundings
    mean: Tensor

    @classmethod
    def of(cls, features: Tensor, baseline: Baseline, around: Surroundings) -> "FeaturePath":
        like, columns = around.shifts, around.points.split(CHUNK, 1)
        mean = torch.cat([chunk.to(like).mean(0, keepdim=True) for chunk in columns], 1)
        x = features.to(like) - mean
        if isinstance(baseline, Tensor):
            if len(baseline) != x.shape[1]:
                raise ValueError(
                    f"feature_baselines has {len(baseline)} entries, and the inputs have {x.shape[1]} features at this layer; "
                    "pass one entry for each feature."
                )
            start = (baseline.to(mean) - mean).expand_as(x)
        elif baseline == "zero":
            start = (-mean).expand_as(x)
        else:  # the mean of the population or, in batch mode, of the others
            start = torch.zeros_like(x) if around.others is None else -x / (len(x) - 1)
        way = x - start
        by_end, by_way, norms = 0.0, 0.0, x.square().sum(1, keepdim=True)
        for chunk, center, *parts in zip(columns, *(each.split(CHUNK, 1) for each in (mean, x, way))):
            points = chunk.to(like) - center
            of_end, of_way = (torch.cat(parts) @ points.T).chunk(2)
            by_end, by_way, norms = by_end + of_end, by_way + of_way, norms + points.square().sum(1)
        between, of_way = (x * way).sum(1, keepdim=True), way.square().sum(1, keepdim=True)
        constant, slope, least = norms - 2 * by_end, 2 * (by_way - between), _EQUAL * norms
        if around.others is not None:
            constant, slope, least = (each.gather(1, around.others) for each in (constant, slope, least))
        return cls(x, way, (constant, slope, of_way), least, around, mean)

    def distances(self, rows: slice, points: Tensor) -> Tensor:
        """Distances (n, s, m) of some inputs at all points (s,) of their paths; rounding is set to 0."""
        constant, slope, curve = (each[rows, None] for each in self.squares)
        s = 1 - points[:, None]
        behind = curve * s.square()
        squares = torch.addcmul(constant + behind, slope, s)
        return torch.where(squares > torch.add(self.least[rows, None], behind, alpha=_EQUAL), squares, 0.0).sqrt_()

    def mean_gradients(self, pulls: Tensor, totals: Tensor, points: Tensor) -> Tensor:
        """Mean gradients (N, d).

        Args:
            pulls (Tensor): (N, m) weighted sums over the path of the gradients with respect to the distances, divided by the
                distances.
            totals (Tensor): (N, s) sums of the same over the population.
            points (Tensor): (s,) points of the path.
        """
        if self.around.others is not None:
            pulls = pulls.new_zeros(len(pulls), len(pulls)).scatter_(1, self.around.others, pulls)
        found = totals.sum(1, keepdim=True) * self.end - (totals @ (1 - points))[:, None] * self.way
        for columns, chunk, center in zip(*(each.split(CHUNK, 1) for each in (found, self.around.points, self.mean))):
            columns.sub_(pulls @ (chunk.to(center) - center))
        return found


def integrate(
    path: FeaturePath,
    steps: Steps,
    population: PopulationGram,
    added: AddedRows,
    explained: int,
    noise_share: float,
    unit: float,
) -> tuple[FeatureGradients, Objectives]:
    """Mean gradients of one direction's objective along the paths of the explained features; all other features stay.

    Args:
        path (FeaturePath): the paths, with features and distances divided by ``unit``.
        steps (Steps): points of the paths.
        population (PopulationGram): of the direction, with one Gram matrix for each input.
        added (AddedRows): the inputs where they are.
        explained (int): index of the explained geometry in ``added``.
        noise_share (float): squared norms up to this fraction of the raw squares are rounding.
        unit (float): a power of two.

    Returns:
        tuple: the gradients with respect to features that are divided by ``unit``, with baselines in the features' own unit;
        and the objectives at the features themselves, without slopes. Where they are not defined, gradients and gains are 0.
    """
    like, (n, _, m) = added.rows, added.rows.shape
    points, weights = (torch.tensor(each, dtype=like.dtype, device=like.device) for each in steps[:2])
    around, pulls, totals, found = path.around, [], [], []
    for rows in row_parts(n, max(1, _PART // (len(points) * m))):
        distances = path.distances(rows, points)
        own = distances * unit if unit != 1 else distances
        raw = around.raw_squares[rows] + 2 * own.square().sum(2)
        own = own - around.shifts[rows, None]
        own = own - own.mean(2, keepdim=True)
        objectives = reference_objectives(
            population._replace(gram=population.gram[rows]),
            added.rows[rows],
            noise_share * added.raw_squares[rows],
            (own, noise_share * raw),
        )
        pull = torch.where(distances > 0, objectives.slopes[0] / distances, 0.0).mul_(weights[:, None])
        pulls.append(pull.sum(1))
        totals.append(pull.sum(2))
        found.append(objectives._replace(slopes=objectives.values))
    joined = Objectives(*(torch.cat(each, 1) for each in zip(*found)))
    at_features = Objectives(*(each[..., -1] for each in joined))
    is_defined = (at_features.is_left & at_features.has_target)[0]
    gradients = path.mean_gradients(torch.cat(pulls), torch.cat(totals), points) * is_defined[:, None]
    gains = (joined.values[0, :, -1] - joined.values[0, :, 0]) * is_defined if steps.has_start else None
    return FeatureGradients(gradients, (path.end - path.way + path.mean) * unit, gains), at_features


def row_parts(n: int, size: int) -> list[slice]:
    """Slices of at most ``size`` rows that make up n rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
