r"""Gram matrices of a population, and of the population with each input left out.

Every score is a function of the inner products of a few geometries (Student, Base, labels, Teacher). Leave-one-out scores are
the same functions of the inner products without each input, which take one pass over the matrices and not one pass per
input (:meth:`captum_kd.distance.block_sums.PairSums.without_each`). Distances may be matrices, or sources that compute them
tile by tile.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._utils.validation import check_int, check_bool, check_str, check_mapping, short_repr
from captum_kd.distance.block_sums import PairSums, population_sums
from captum_kd.distance.blockwise import noise_squares
from captum_kd.distance.gram import partial_correlation
from captum_kd.distance.sources import DistanceSource
from captum_kd.metrics.inference.matrices import as_sources
from captum_kd.metrics.scores_table import BASE, BASES, LABELS, STUDENT, TEACHER, scores_of_pair

__all__ = ["Products", "Score", "Side", "geometry_products", "pair_scores", "products_of", "transfer_scores"]

Side = Union[str, tuple[str, ...]]
"""One side of a score: a geometry's name, or (name, given, ...) for its remainder after removal of the given ones."""

# A squared norm below this fraction of the original one counts as rounding: it is the difference of two numbers that agree
# to 12 digits.
LEFT_OUT_SHARE = 1e-12


class Score(NamedTuple):
    """The two sides of a correlation, for example ``Score(("student", "base"), "labels")`` for RS(S|B)."""

    x: Side
    y: Side


def transfer_scores(
    student: str = "student", base: str | Sequence[str] = "base", *, labels: str | None = "labels", teacher: str | None = None
) -> dict[str, Score]:
    """The scores of one pair of models in the report, or of a Student and several Bases, with the names of their geometries.

    Args:
        student (str): name of the Student's geometry in the products.
        base (str or sequence of str): name of the Base model's geometry; or names of several, whose span is removed from the
            Student's geometry.
        labels (str, optional): name of the labels' geometry; with None, scores with the labels are left out.
        teacher (str, optional): name of the Teacher's geometry; without it, scores with the Teacher are left out.

    Returns:
        dict of str to Score: the five scores of a pair, or twelve with a Teacher. With a sequence of Bases the scores of the
        Student given all of them: one, or three with a Teacher. Without labels one or five, and none or one.

    Example::

        >>> transfer_scores("kd seed 1", "base seed 1")["rs_distilled"]
        Score(x=('kd seed 1', 'base seed 1'), y='labels')
    """
    bases = as_names(base, "base")
    for argument, name in (("student", student), *(("base", each) for each in bases)):
        check_str(name, argument, or_none=False)
    check_str(labels, "labels")
    check_str(teacher, "teacher")
    names = {STUDENT: (student,), BASE: bases, BASES: bases, LABELS: (labels or "",), TEACHER: (teacher or "",)}

    def side(roles: tuple[str, ...]) -> Side:
        chosen = tuple(name for role in roles for name in names[role])
        return chosen if len(chosen) > 1 else chosen[0]

    scores = scores_of_pair(teacher is not None, all_bases=not isinstance(base, str), has_labels=labels is not None)
    return {each.name: Score(side(each.x), side(each.y)) for each in scores}


class Products(NamedTuple):
    """Inner products of k named geometries of the same n inputs.

    Attributes:
        names (tuple of str): the geometries, in the order of the tensors' last dimensions.
        full (Tensor): (k, k), over all inputs, float64.
        without (Tensor): (n, k, k), entry i with input i left out, float64; (0, k, k) if made with ``leave_one_out=False``.
        noise (Tensor): (k,), the largest squared norms that count as rounding.
    """

    names: tuple[str, ...]
    full: Tensor
    without: Tensor
    noise: Tensor

    def score(self, score: Score) -> tuple[float, bool]:
        """A score over all inputs, and whether it is defined; an undefined score is 0.

        A score is undefined if one side has no geometry: constant features, or features that were removed.
        """
        check_score(self, score)
        value, defined = self._correlation(self.full, self.noise, Score(*score))
        return float(value), bool(defined)

    def leave_one_out(self, score: Score) -> tuple[Tensor, bool]:
        """The score without each input, (n,) float64, and whether all of them are defined."""
        check_score(self, score)
        score = Score(*score)
        noise = torch.maximum(self.noise, LEFT_OUT_SHARE * self.full.diagonal())
        values, defined = self._correlation(self.without, noise, score)
        for side in score:
            for place in self._places(side)[1:]:
                # A geometry to remove may vanish when an input is left out; the score would then be another quantity.
                if bool(self.full[place, place] > self.noise[place]):
                    defined = defined & (self.without[:, place, place] > noise[place])
        return values, bool(defined.all())

    def _of(self, names: Sequence[str]) -> "Products":
        """The products of some geometries."""
        places = [self.names.index(name) for name in names]
        gram = self.full[places][:, places], self.without[:, places][:, :, places]
        return Products(tuple(names), *gram, self.noise[places])

    def rows(self) -> Tensor:
        """(n, k, k) inner products within each input's row. They add up to ``full``.

        Raises:
            ValueError: products without leave-one-out values.
        """
        n = len(self.without)
        if n == 0:
            raise ValueError("products has no leave-one-out values; make it by geometry_products(..., leave_one_out=True).")
        # The mean of the products without each input is the full product. Deviations from it keep the digits of the sum.
        return self.full / n + (self.without.mean(0) - self.without) * ((n - 1) * (n - 4) / (2 * n * (n - 2)))

    def unique_share(self, of: str, given: Union[str, Sequence[str]]) -> Optional[float]:
        """Unique share: the fraction of a geometry's squared norm that is left after removal of others.

        It is 1 - FSS^2 for one removed geometry. Each further one takes the squared partial correlation off what is left.
        None if the geometry, or all of the removed ones, are constant.
        """
        removed = as_names(given, "given")
        for argument, name in (("of", of), *(("given", each) for each in removed)):
            check_score(self, Score(check_str(name, argument, or_none=False) or "", name), argument)
        share, is_known = 1.0, False
        for place, name in enumerate(removed):
            correlation, defined = self.score(Score((of, *removed[:place]), (name, *removed[:place])))
            share, is_known = share * (1.0 - correlation**2), is_known or defined
        return share if is_known else None

    def _correlation(self, gram: Tensor, noise: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        x, *x_given = self._places(score.x)
        y, *y_given = self._places(score.y)
        return partial_correlation(gram, noise, x, y, x_given, y_given)

    def _places(self, side: Side) -> list[int]:
        """Indices of a side's geometry and of those that are removed from it."""
        return [self.names.index(name) for name in ((side,) if isinstance(side, str) else side)]


def geometry_products(
    distances: Mapping[str, Union[Tensor, DistanceSource]], *, leave_one_out: bool = True, block_size: Optional[int] = None
) -> Products:
    """Inner products of all pairs of geometries, over all inputs and with each input left out.

    Takes O(k^2 n^2) operations; only a tile of each matrix is converted to float64 at a time. U-centered matrices give the
    same result as raw ones.

    Distances in float32 give scores with an error up to 1e-6, or up to 1e-5 if the unique share is below 0.002. Distances
    in float64 (:func:`~captum_kd.distance.euclidean_distances` of ``features.double()``) give errors up to 1e-11 in both
    cases.

    Args:
        distances (mapping of str to Tensor or DistanceSource): k raw Euclidean distance matrices of the same
            inputs, (n, n), float32 or float64, by the names of their geometries; or sources that compute
            them tile by tile.
        leave_one_out (bool): also compute the products without each input.
        block_size (int, optional): inputs per side of a tile; default: 512 on the CPU, 4,096 on a GPU.

    Returns:
        Products: float64, on the matrices' device.

    Raises:
        ValueError: matrices of different sizes or with non-finite values; fewer than 4 inputs, or
            fewer than 5 with ``leave_one_out``.
        TypeError: matrices that are not float32 or float64.

    Source: docs/inference.md (intervals); Szekely & Rizzo 2014 for the inner product.

    Example::

        >>> products = geometry_products({"student": d_s, "base": d_b, "labels": d_g})
        >>> products.score(transfer_scores()["rs_distilled"])
        (0.109, True)
        >>> values, defined = products.leave_one_out(transfer_scores()["rs_distilled"])
        >>> values.shape
        torch.Size([1000])
    """
    check_mapping(distances, "distances", "a mapping from names to (n, n) tensors")
    leave_one_out = check_bool(leave_one_out, "leave_one_out")
    block_size = None if block_size is None else check_int(block_size, "block_size", 1)
    for name in distances:
        check_str(name, "Each name in distances", or_none=False)
    sources = as_sources(list(distances.values()))
    n = sources[0].n
    if leave_one_out and n < 5:
        raise ValueError(f"distances must be of at least 5 inputs if leave_one_out is True, got {n}.")
    return products_of(tuple(distances), sources, population_sums(sources, by_row=leave_one_out, block_size=block_size))


def products_of(names: tuple[str, ...], sources: Sequence[DistanceSource], sums: PairSums) -> Products:
    """Products from sums over pairs of inputs.

    Raises:
        ValueError: distances with non-finite values.
    """
    noise = noise_squares(sums, sources)
    pairs, k = sums.n * (sums.n - 3), len(names)
    without = sums.products.new_empty((0, k, k)) if sums.by_row is None else sums.without_each()
    return Products(names, sums.gram() / pairs, without, noise / pairs)


def as_names(given: Union[str, Sequence[str]], argument: str) -> tuple[str, ...]:
    """One name or several as a tuple.

    Raises:
        TypeError: neither a string nor a list of them.
    """
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a name (str) or a list of names, got {short_repr(given)}.")
    return tuple(names)


def check_products(products: object) -> None:
    """Raises a TypeError unless the value is a result of :func:`geometry_products`."""
    if not isinstance(products, Products):
        raise TypeError(f"products must be Products, made by geometry_products(), got {short_repr(products)}.")


def check_scores(products: Products, score: object, minus: object) -> None:
    """Checks a score, and a list of scores that are subtracted from it, as :func:`check_score` does."""
    check_score(products, score)
    if not isinstance(minus, (list, tuple)):
        raise TypeError(f"minus must be a list of scores, got {short_repr(minus)}.")
    for each in minus:
        check_score(products, each, "minus")


def check_score(products: Products, score: object, argument: str = "score") -> None:
    """Checks that both sides of a score name geometries of the products.

    Raises:
        TypeError: not a pair of sides.
        ValueError: an unknown geometry.
    """
    if not isinstance(score, tuple) or len(score) != 2:
        raise TypeError(f"{argument} must be a Score, a pair of sides, got {short_repr(score)}.")
    for side in score:
        names = (side,) if isinstance(side, str) else side
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{argument} must hold names of geometries or tuples (name, given, ...), got {short_repr(side)}.")
        for name in names:
            if name not in products.names:
                raise ValueError(
                    f"{argument} must name geometries of the products ({', '.join(products.names)}), got {short_repr(name)}."
                )


def pair_scores(products: Products, models: list[str], target: Side | None = None) -> Tensor:
    """A score of every ordered pair of models, for seed control.

    Args:
        products (Products): products of the geometries of all models and of the target.
        models (list of str): the models' names, Students first, then Bases.
        target (str or tuple, optional): None for FSS; ``"labels"`` for RS(i|j); ``"teacher"`` for
            R(P_{i|j}, P_T); ``("teacher", "labels")`` for the same with the labels removed from the Teacher.

    Returns:
        Tensor: (models, models) float64 on the CPU. Entry (i, j) is the score of model i after model j was removed
        from it (FSS: of i and j), or NaN if it is not defined (constant features, one model a copy of the other).
        The diagonal is 0 (FSS: 1).

    Example::

        >>> pair_scores(products, ["student 1", "student 2", "base 1", "base 2"], "labels").shape
        torch.Size([4, 4])
    """
    check_products(products)
    if not isinstance(models, (list, tuple)) or not all(isinstance(model, str) for model in models):
        raise TypeError(f"models must be a list of names of geometries, got {short_repr(models)}.")
    if target is not None:
        check_score(products, Score(target, target), "target")
    for model in models:
        check_score(products, Score(model, model), "models")
    scores = torch.eye(len(models), dtype=torch.float64, device="cpu") * (target is None)
    for i, first in enumerate(models):
        for j, second in enumerate(models):
            if i != j:
                score = Score(first, second) if target is None else Score((first, second), target)
                value, defined = products.score(score)
                scores[i, j] = value if defined else float("nan")
    return scores
