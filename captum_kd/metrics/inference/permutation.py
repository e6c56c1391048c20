r"""Does a model's geometry follow the labels more than chance would have it?

Under the null hypothesis labels and features are independent, and any assignment of the
labels to the inputs is as likely as the one seen. Relabelling changes a relevance score
R(P, G) by its numerator alone, and there by sums over classes,

.. math::
    \langle P, G_\pi\rangle \propto \sum_{ab} E_{ab}\,(Y_\pi^T P\, Y_\pi)_{ab},

with E the distances between classes and Y the one-hot labels: nothing of size n x n is ever
permuted. Class sums are additions of whole rows of P, so a relabelling costs n^2 additions at
most, whatever the number of classes. P's rows sum to 0, so one class (the largest) can be the
origin: with E_ab - E_al - E_lb in place of E_ab its own sums are never needed.

For the whole model's score only. Permuting labels under a score of distilled features would
also break what ties the *removed* model to the labels, and reject far too often.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from captum_kd._values import as_count, check_dense, described
from captum_kd.distance import noise_level
from captum_kd.embeddings import MIN_LABEL_SHARE
from captum_kd.metrics.inference.rows import check_matrices, raw_norm, u_centred_row_blocks

__all__ = ["label_permutation_p_value"]

# Numbers of P in work at once: 1 MB, so that rows are added from a core's cache.
_BLOCK_NUMBERS = 1 << 18
# Sums of classes held at once.
_SUMS = 1 << 20
# Relabellings that give the same score must count as equal. In float32 their correlations differ
# by rounding, by up to 1.3 eps / sqrt(n) each where it was measured (n = 8 to 4,000, heavy tails, 2
# to 100 classes). Beside the spread of permuted scores (about 1 / n) this tolerance is nothing.
_TIE = 8


def label_permutation_p_value(
    distances: Tensor,
    labels: Tensor,
    class_distances: Tensor,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> float:
    r"""P-value of a model's relevance score under permutation of the labels, upper tail.

    .. math:: p = \frac{1 + \#\{R_\pi \ge R\}}{1 + m}

    for m random permutations: the relabelling that was observed is one of those possible, so p
    is never 0 and the test is exact at any m.

    Args:
        distances (Tensor): (n, n) distances of the model's features, float32 or float64.
        labels (Tensor): (n,) integers, rows of ``class_distances``.
        class_distances (Tensor): (c, c) distances between the class embeddings.
        permutations (int): m, at least 1.
        seed (int): of the permutations; the same seed gives the same relabellings for every
            model and layer. The global random state is neither used nor changed.

    Returns:
        float: in [1/(1 + m), 1]; 1 for constant features, whose score no relabelling changes.

    Raises:
        ValueError: shapes that do not belong together, labels outside the classes or without
            geometry (all relabellings score the same), non-finite distances, permutations < 1.
        TypeError: distances of another dtype, labels that are no integers.

    Source: docs/inference.md (p-values over inputs); Phipson & Smyth 2010 for the p-value.

    Example::

        >>> one_hot = 2 ** 0.5 * (1 - torch.eye(10))
        >>> label_permutation_p_value(euclidean_distances(features), labels, one_hot)
        0.000999000999000999
    """
    n = check_matrices([distances])
    seen = _classes(labels, class_distances, n)
    permutations, seed = as_count(permutations, "permutations", 1), as_count(seed, "seed")
    size = raw_norm(distances)
    if size == 0:
        return 1.0
    sums = _ClassSums(distances, seen, unit=size / n)
    if sums.norm <= noise_level(distances.dtype) * n:
        return 1.0
    tie = _TIE * torch.finfo(torch.float32).eps / n**0.5 * sums.norm * seen.norm
    observed = float(sums(torch.arange(n)[None]))
    generator = torch.Generator().manual_seed(seed)
    at_least = 0
    for start in range(0, permutations, sums.batch):
        count = min(sums.batch, permutations - start)
        orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(count)])
        at_least += int((sums(orders) >= observed - tie).sum())
    return (1 + at_least) / (1 + permutations)


class _Classes(NamedTuple):
    """The classes that occur.

    Attributes:
        place (Tensor): (n,) class of each input, counted from 0 without gaps.
        counts (Tensor): (c,) inputs of each.
        apart (Tensor): (c, c) distances between them in units of the largest, float64.
        norm (float): Frobenius norm of the U-centred (n, n) label distances.
    """

    place: Tensor
    counts: Tensor
    apart: Tensor
    norm: float


class _ClassSums:
    """<P, G> under relabellings, from sums of P's rows over classes.

    Attributes:
        norm (float): Frobenius norm of P, in the unit given.
        batch (int): relabellings to be asked for at once.
    """

    def __init__(self, distances: Tensor, classes: _Classes, unit: float = 1.0) -> None:
        n, device = distances.shape[0], distances.device
        origin = int(classes.counts.argmax())
        others = [each for each in range(len(classes.counts)) if each != origin]
        apart = classes.apart - classes.apart[:, origin, None] - classes.apart[origin]
        self.apart = apart[others].to(device, torch.float32)  # (c - 1, c); 0 for the origin
        self.place = classes.place.to(device)
        order = classes.place.argsort()
        self.members = order[classes.place[order] != origin].to(device)
        counts = classes.counts[others]
        self.starts = (counts.cumsum(0) - counts).to(device)
        # Blocks of columns, each contiguous. Centred in float64, float32 is enough for what follows.
        width = min(n, max(32, _BLOCK_NUMBERS // n))
        self.blocks = [torch.empty(n, min(width, n - s), device=device) for s in range(0, n, width)]
        square = 0.0
        for rows, block in u_centred_row_blocks([distances]):
            block = block / unit  # so that float32 holds it, whatever the features' scale
            square += float(block.square().sum())
            for target, part in zip(self.blocks, torch.split(block[:, 0], width, 1)):
                target[rows] = part
        self.norm = square**0.5
        self.batch = max(1, min(64, _SUMS // (len(others) * width)))

    def __call__(self, orders: Tensor) -> Tensor:
        """The statistic (batch,) where input ``orders[b, i]`` takes the label of input i."""
        orders = orders.to(self.place.device)
        batch, n = orders.shape
        rows = orders[:, self.members]
        first = torch.arange(batch, device=orders.device)[:, None] * rows.shape[1]
        starts = (first + self.starts).flatten()
        labels = torch.empty_like(orders).scatter_(1, orders, self.place.expand(batch, n))
        total = self.apart.new_zeros(batch, dtype=torch.float64)
        column = 0
        for block in self.blocks:
            width = block.shape[1]
            by_class = embedding_bag(rows.flatten(), block, starts, mode="sum").view(batch, -1, width)
            there = labels[:, column : column + width].flatten()
            weights = self.apart.index_select(1, there).view(-1, batch, width).transpose(0, 1)
            total += (by_class * weights).sum((1, 2))
            column += width
        return total


def _classes(labels: Tensor, class_distances: Tensor, n: int) -> _Classes:
    """Checks the labels and keeps the classes that occur."""
    for argument, value in (("labels", labels), ("class_distances", class_distances)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {described(value)}.")
        check_dense(value, argument)
    if labels.shape != (n,):
        raise ValueError(f"labels must be {n} labels, one an input; got shape {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}.")
    total = class_distances.shape[0] if class_distances.dim() else 0
    if class_distances.shape != (total, total) or total == 0:
        raise ValueError(f"class_distances must be square, got shape {tuple(class_distances.shape)}.")
    if not class_distances.is_floating_point():
        raise TypeError(f"class_distances must be floating point, got {class_distances.dtype}.")
    if int(labels.min()) < 0 or int(labels.max()) >= total:
        raise ValueError(
            f"labels must be classes of class_distances, but run from {int(labels.min())} to {int(labels.max())} where it has "
            f"{total} classes."
        )
    seen, place, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    apart = class_distances.detach().to("cpu", torch.float64)[seen][:, seen]
    apart = apart / apart.max().clamp(min=torch.finfo(torch.float64).tiny)
    if not bool(torch.isfinite(apart).all()):
        raise ValueError("class_distances has non-finite values (NaN or infinity); all must be finite.")
    norm, raw = _label_norms(apart, counts.double(), n)
    if norm <= MIN_LABEL_SHARE * raw:
        raise ValueError(
            "labels and class_distances have no geometry (labels of one label only, all distinct, or one against the rest of "
            "equals): every permutation scores the same. Use inputs of more classes, several a class."
        )
    return _Classes(place, counts, apart, norm)


def _label_norms(apart: Tensor, counts: Tensor, n: int) -> tuple[float, float]:
    """Frobenius norms of the (n, n) label distances, U-centred and raw, from the classes alone."""
    by_class = apart @ counts
    squares = counts @ apart.square() @ counts
    rows = counts @ by_class.square()
    total = counts @ by_class
    square = squares - 2 * rows / (n - 2) + total.square() / ((n - 1) * (n - 2))
    return float(square.clamp(min=0).sqrt()), float(squares.sqrt())
