r"""Permutation test of the correlation between a model's distances and the labels.

Under the null hypothesis labels and features are independent, and any assignment of the
labels to the inputs is as likely as the one seen. Relabeling changes a relevance score
R(P, G) by its numerator alone, and there by sums over classes,

.. math::
    \langle P, G_\pi\rangle \propto \sum_{ab} E_{ab}\,(Y_\pi^T P\, Y_\pi)_{ab},

with E the distances between classes and Y the one-hot labels: nothing of size n x n is ever
permuted. Class sums are additions of rows of P, so a relabeling costs n^2 additions at most,
whatever the number of classes. P is computed tile by tile, and each tile serves all relabelings
before the next one is computed. The rows of P sum to 0, so one class (the largest) can be the
origin: with E_ab - E_al - E_lb in place of E_ab its own sums are never needed.

For the whole model's score only. Permuting labels under a score of distilled features would
also break what ties the *removed* model to the labels, and reject far too often.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from captum_kd._utils.validation import check_int, check_dense, short_repr
from captum_kd.distance.block_sums import LocalTiles, PairSums, TileIterator, parts, population_sums
from captum_kd.distance.blockwise import noise_squares
from captum_kd.distance.labels import MIN_LABEL_SHARE, label_norms
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics.inference.matrices import as_sources

__all__ = ["label_permutation_p_value"]

# Inputs a side of a tile of P: large beside the number of classes, whose sums are multiplied once per tile.
_TILE = 4096
# Numbers of P in work at once: 1 MB, so that rows are added from a core's cache.
_STRIP_NUMBERS = 1 << 18
# Sums of classes held at once.
_SUMS = 1 << 20
# Relabelings that give the same score must count as equal. In float32 their correlations differ
# by rounding, by up to 1.3 eps / sqrt(n) each where it was measured (n = 8 to 4,000, heavy tails, 2
# to 100 classes). Beside the spread of permuted scores (about 1 / n) this tolerance is nothing.
_TIE = 8


def label_permutation_p_value(
    distances: Union[Tensor, DistanceSource],
    labels: Tensor,
    class_distances: Tensor,
    *,
    permutations: int = 1000,
    seed: int = 0,
    sums: Optional[PairSums] = None,
    tile_iterator: TileIterator = LocalTiles(),
) -> float:
    r"""P-value of a model's relevance score under permutation of the labels, upper tail.

    .. math:: p = \frac{1 + \#\{R_\pi \ge R\}}{1 + m}

    for m random permutations: the relabeling that was observed is one of those possible, so p
    is never 0 and the test is exact at any m.

    Args:
        distances (Tensor or DistanceSource): (n, n) distances of the model's features, float32 or float64, or what
            gives them block by block.
        labels (Tensor): (n,) integers, rows of ``class_distances``.
        class_distances (Tensor): (c, c) distances between the class embeddings.
        permutations (int): m, at least 1.
        seed (int): of the permutations; the same seed gives the same relabelings for every
            model and layer. The global random state is neither used nor changed.
        sums (PairSums, optional): of these distances alone, where they were taken already.
        tile_iterator (TileIterator): of this rank, where several share the inputs.

    Returns:
        float: in [1/(1 + m), 1]; 1 for constant features, whose score no relabeling changes.

    Raises:
        ValueError: shapes that do not belong together, labels outside the classes or without
            geometry (all relabelings score the same), non-finite distances, permutations < 1.
        TypeError: distances of another dtype, labels that are no integers.

    Source: docs/inference.md (p-values over inputs); Phipson & Smyth 2010 for the p-value.

    Example::

        >>> one_hot = 2 ** 0.5 * (1 - torch.eye(10))
        >>> label_permutation_p_value(euclidean_distances(features), labels, one_hot)
        0.000999000999000999
    """
    source = as_sources([distances])[0]
    n = source.n
    seen = _classes(labels, class_distances, n)
    if not (sums is None or isinstance(sums, PairSums)):
        raise TypeError(f"sums must be what population_sums() gave for these distances, or None; got {short_repr(sums)}.")
    if not callable(getattr(tile_iterator, "each", None)):
        raise TypeError(f"tile_iterator must be a TileIterator such as LocalTiles(), got {short_repr(tile_iterator)}.")
    permutations, seed = check_int(permutations, "permutations", 1), check_int(seed, "seed")
    found = _ClassSums(source, seen, population_sums([source], tile_iterator=tile_iterator) if sums is None else sums)
    if found.is_noise:
        return 1.0

    def orders() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        yield torch.arange(n, device="cpu")[None]
        for start in range(0, permutations, found.batch):
            count = min(found.batch, permutations - start)
            yield torch.stack([torch.randperm(n, generator=generator, device="cpu") for _ in range(count)])

    scores: list[float] = found(orders, permutations + 1, tile_iterator).tolist()
    observed, *relabeled = scores
    tie: float = _TIE * torch.finfo(torch.float32).eps / n**0.5 * found.norm * seen.norm
    return (1 + sum(value >= observed - tie for value in relabeled)) / (1 + permutations)


class _Classes(NamedTuple):
    """The classes that occur.

    Attributes:
        place (Tensor): (n,) class of each input, counted from 0 without gaps.
        counts (Tensor): (c,) inputs of each.
        apart (Tensor): (c, c) distances between them in units of the largest, float64.
        norm (float): Frobenius norm of the U-centered (n, n) label distances.
    """

    place: Tensor
    counts: Tensor
    apart: Tensor
    norm: float


class _ClassSums:
    """<P, G> under relabelings, from sums of P's rows over classes.

    Args:
        source (DistanceSource): the raw distances behind P.
        classes (_Classes): behind G.
        sums (PairSums): of the source alone.

    Attributes:
        norm (float): Frobenius norm of P, in units of the raw distances' norm over n.
        is_noise (bool): whether P is nothing but rounding.
        batch (int): relabelings to be asked for at once.

    Raises:
        ValueError: the distances have non-finite values: a p-value counted by comparisons would come out smallest.
    """

    def __init__(self, source: DistanceSource, classes: _Classes, sums: PairSums) -> None:
        n, device = source.n, source.device
        noise = float(noise_squares(sums, [source])[0])
        raw = float(sums.raw_squares()[0].clamp(min=0).sqrt())
        self._source = source
        self._shift = sums.u_shifts()[0]
        self._unit = raw / n or 1.0  # so that float32 holds P, whatever the features' scale
        square = float(sums.gram()[0, 0].clamp(min=0))
        self.norm, self.is_noise = square**0.5 / self._unit, square <= noise
        origin = int(classes.counts.argmax())
        others = [each for each in range(len(classes.counts)) if each != origin]
        apart = classes.apart - classes.apart[:, origin, None] - classes.apart[origin]
        self._apart = apart[others].to(device, torch.float32)  # (c - 1, c); 0 for the origin
        self._place = classes.place.to(device)
        order = classes.place.argsort()
        self._members = order[classes.place[order] != origin].to(device)  # by class
        counts = classes.counts[others]
        self._starts = (counts.cumsum(0) - counts).to(device)
        width = min(n, _strip_width(min(n, _TILE)))
        self.batch = max(1, min(64, _SUMS // (len(others) * width)))

    def __call__(self, orders: Callable[[], Iterator[Tensor]], number: int, tile_iterator: TileIterator = LocalTiles()) -> Tensor:
        """The statistic (relabelings,), float64, where input ``order[i]`` takes the label of input i.

        Args:
            orders (callable): gives all orders anew, in batches (batch, n).
            number (int): of relabelings.
            tile_iterator (TileIterator): gives the tiles.
        """
        total = self._shift.new_zeros(number)

        def add(rows: slice, columns: slice) -> None:
            strips = self._strips(rows, columns)
            found = torch.cat([self._of_tile(order.to(total.device), strips, rows, columns) for order in orders()])
            total.add_(found, alpha=1 if rows == columns else 2)  # both (i, j) and (j, i)

        tile_iterator.each([self._source], _TILE, add)
        tile_iterator.all_reduce_sum(total)
        return total.cpu()

    def _strips(self, rows: slice, columns: slice) -> list[Tensor]:
        """A tile of P as contiguous strips of columns. Centered in float64, float32 is enough for what follows."""
        distances = self._source.block(rows, columns)
        width = _strip_width(len(distances))
        strips = [distances.new_empty(each.shape, dtype=torch.float32) for each in distances.split(width, 1)]
        for part in parts(slice(0, len(distances)), max(1, _STRIP_NUMBERS // distances.shape[1])):
            here = slice(rows.start + part.start, rows.start + part.stop)
            centered = distances[part].to(self._shift.dtype) - self._shift[here, None]
            centered.sub_(self._shift[columns]).div_(self._unit)
            if rows == columns:
                centered[:, part].fill_diagonal_(0)
            for strip, values in zip(strips, centered.split(width, 1)):
                strip[part] = values
        return strips

    def _of_tile(self, orders: Tensor, strips: Sequence[Tensor], rows: slice, columns: slice) -> Tensor:
        """One tile's share of the statistic of a batch of relabelings."""
        batch = len(orders)
        labels = torch.empty_like(orders).scatter_(1, orders, self._place.expand(orders.shape))
        members = orders[:, self._members]
        firsts = torch.arange(batch, device=orders.device)[:, None] * members.shape[1]
        starts, members = (firsts + self._starts).flatten(), members.flatten()
        if rows.stop - rows.start < orders.shape[1]:
            inside = (members >= rows.start) & (members < rows.stop)
            starts = (inside.cumsum(0) - inside.long())[starts]
            members = members[inside] - rows.start
        total, column = self._shift.new_zeros(batch), columns.start
        for strip in strips:
            width = strip.shape[1]
            by_class = embedding_bag(members, strip, starts, mode="sum").view(batch, -1, width)
            there = labels[:, column : column + width].flatten()
            weights = self._apart.index_select(1, there).view(-1, batch, width).transpose(0, 1)
            total += (by_class * weights).sum((1, 2))
            column += width
        return total


def _strip_width(rows: int) -> int:
    return max(32, _STRIP_NUMBERS // rows)


def _classes(labels: Tensor, class_distances: Tensor, n: int) -> _Classes:
    """Checks the labels and keeps the classes that occur."""
    for argument, value in (("labels", labels), ("class_distances", class_distances)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {short_repr(value)}.")
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
    norm, raw = label_norms(apart, counts.double())
    if norm <= MIN_LABEL_SHARE * raw:
        raise ValueError(
            "labels and class_distances have no geometry (labels of one label only, all distinct, or one against the rest of "
            "equals): every permutation scores the same. Use inputs of more classes, several a class."
        )
    return _Classes(place, counts, apart, norm)
