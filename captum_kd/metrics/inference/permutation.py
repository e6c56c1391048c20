r"""Permutation test of the correlation between a model's distances and the labels.

Under the null hypothesis labels and features are independent, and every assignment of the labels to the inputs is equally
likely. Relabeling changes only the numerator of a relevance score R(P, G), which is a combination of sums over classes,

.. math::
    \langle P, G_\pi\rangle \propto \sum_{ab} E_{ab}\,(Y_\pi^T P\, Y_\pi)_{ab},

with E the distances between classes and Y the one-hot labels. No n x n matrix is permuted. Class sums are sums of rows of P,
so a relabeling takes n^2 additions at most, for any number of classes. P is computed tile by tile, and each tile is used for
all relabelings before the next one is computed. The rows of P sum to 0, so that the sums of one class, the origin l, are not
needed if E_ab - E_al - E_lb replaces E_ab. The largest class is the origin.

The test is valid for the score of a whole model only. For a score of distilled features, a permutation would also break the
relation between the labels and the *removed* model, and the test would reject far too often.
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

# Inputs per side of a tile of P: many more than classes, since the class sums are multiplied once per tile.
_TILE = 4096
# Numbers of P processed at once: 1 MB, which stay in a core's cache.
_STRIP_NUMBERS = 1 << 18
# Class sums held at once.
_SUMS = 1 << 20
# Relabelings with the same score must count as equal. In float32 their correlations differ by rounding, by up to
# 1.3 eps / sqrt(n) in measurements (n = 8 to 4,000, heavy tails, 2 to 100 classes). The tolerance is negligible beside the
# standard deviation of permuted scores, about 1 / n.
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

    for m random permutations. The observed labels count as one of the relabelings, so p is never 0 and the test is exact
    for any m.

    Args:
        distances (Tensor or DistanceSource): (n, n) distances of the model's features, float32 or float64, or a source that
            computes them tile by tile.
        labels (Tensor): (n,) integers, indices of rows of ``class_distances``.
        class_distances (Tensor): (c, c) distances between the class embeddings.
        permutations (int): m, at least 1.
        seed (int): seed of the permutations; the same seed gives the same relabelings for every
            model and layer. The global random state is neither used nor changed.
        sums (PairSums, optional): the sums of these distances, if they were computed before.
        tile_iterator (TileIterator): iterates over the tiles; another one for populations that are sharded over ranks.

    Returns:
        float: in [1/(1 + m), 1]; 1 for constant features, for which all relabelings have the same score.

    Raises:
        ValueError: shapes that do not match, labels outside the classes or without
            geometry (all relabelings have the same score), non-finite distances, permutations < 1.
        TypeError: distances of another dtype, labels that are not integers.

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
        raise TypeError(f"sums must be the result of population_sums() for these distances, or None; got {short_repr(sums)}.")
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
    """The classes that occur in the labels.

    Attributes:
        place (Tensor): (n,) class of each input, numbered from 0 without gaps.
        counts (Tensor): (c,) number of inputs of each class.
        apart (Tensor): (c, c) distances between the classes, divided by the largest, float64.
        norm (float): Frobenius norm of the U-centered (n, n) label distances.
    """

    place: Tensor
    counts: Tensor
    apart: Tensor
    norm: float


class _ClassSums:
    """<P, G> under relabelings, from sums of P's rows over classes.

    Args:
        source (DistanceSource): the raw distances that P is computed from.
        classes (_Classes): the classes that G is computed from.
        sums (PairSums): the sums of this source only.

    Attributes:
        norm (float): Frobenius norm of P, in units of the raw distances' norm over n.
        is_noise (bool): True if P is only rounding.
        batch (int): number of relabelings in a batch.

    Raises:
        ValueError: the distances have non-finite values.
    """

    def __init__(self, source: DistanceSource, classes: _Classes, sums: PairSums) -> None:
        n, device = source.n, source.device
        noise = float(noise_squares(sums, [source])[0])
        raw = float(sums.raw_squares()[0].clamp(min=0).sqrt())
        self._source = source
        self._shift = sums.u_shifts()[0]
        self._unit = raw / n or 1.0  # float32 then holds P for any scale of the features
        square = float(sums.gram()[0, 0].clamp(min=0))
        self.norm, self.is_noise = square**0.5 / self._unit, square <= noise
        origin = int(classes.counts.argmax())
        others = [each for each in range(len(classes.counts)) if each != origin]
        apart = classes.apart - classes.apart[:, origin, None] - classes.apart[origin]
        self._apart = apart[others].to(device, torch.float32)  # (c - 1, c), 0 for the origin
        self._place = classes.place.to(device)
        order = classes.place.argsort()
        self._members = order[classes.place[order] != origin].to(device)  # by class
        counts = classes.counts[others]
        self._starts = (counts.cumsum(0) - counts).to(device)
        width = min(n, _strip_width(min(n, _TILE)))
        self.batch = max(1, min(64, _SUMS // (len(others) * width)))

    def __call__(self, orders: Callable[[], Iterator[Tensor]], number: int, tile_iterator: TileIterator = LocalTiles()) -> Tensor:
        """The statistic of each relabeling, (relabelings,), float64. Input ``order[i]`` takes the label of input i.

        Args:
            orders (callable): yields all orders, the same at each call, in batches (batch, n).
            number (int): number of relabelings.
            tile_iterator (TileIterator): iterates over the tiles.
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
        """A tile of P as contiguous strips of columns. Centering takes float64; float32 is enough afterwards."""
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
        """One tile's contribution to the statistic of a batch of relabelings."""
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
    """Checks the labels and selects the classes that occur."""
    for argument, value in (("labels", labels), ("class_distances", class_distances)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {short_repr(value)}.")
        check_dense(value, argument)
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one label per input; got shape {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}.")
    total = class_distances.shape[0] if class_distances.dim() else 0
    if class_distances.shape != (total, total) or total == 0:
        raise ValueError(f"class_distances must be square, got shape {tuple(class_distances.shape)}.")
    if not class_distances.is_floating_point():
        raise TypeError(f"class_distances must be floating point, got {class_distances.dtype}.")
    if int(labels.min()) < 0 or int(labels.max()) >= total:
        raise ValueError(
            f"labels must be classes of class_distances, 0 to {total - 1}, but are between {int(labels.min())} and "
            f"{int(labels.max())}."
        )
    seen, place, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    apart = class_distances.detach().to("cpu", torch.float64)[seen][:, seen]
    apart = apart / apart.max().clamp(min=torch.finfo(torch.float64).tiny)
    if not bool(torch.isfinite(apart).all()):
        raise ValueError("class_distances has non-finite values (NaN or infinity); all must be finite.")
    norm, raw = label_norms(apart, counts.double())
    if norm <= MIN_LABEL_SHARE * raw:
        raise ValueError(
            "labels and class_distances have no geometry: all labels are equal, all are distinct, or one differs from the "
            "rest, which are equal. Every permutation has the same score. Use several inputs of each of several classes."
        )
    return _Classes(place, counts, apart, norm)
