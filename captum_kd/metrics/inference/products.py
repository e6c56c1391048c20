r"""Inner products of geometries over a population, and over it with each input left out.

Every score of this package is algebra on the inner products of a few geometries (Student,
Base, labels, Teacher). So is every leave-one-out score, once the inner products without each
input are known; they cost one pass over the matrices, not one per input.

For U-centred matrices P and Q of n inputs let :math:`e_k = \sum_j P_{kj} Q_{kj}`. Leaving
input k out and centring what is left again gives

.. math::
    \langle P, Q\rangle_{(k)} =
    \frac{\sum_i e_i - 2\,\frac{n-2}{n-3}\, e_k}{(n-1)(n-4)}

exactly. For raw distances the formula has terms in row sums as well, which here are 0: U-centring
takes away whatever has the form u_i + u_j, so a submatrix of P and a submatrix of D centre to the
same matrix, and the rows of P without column k sum to
:math:`-P_{ik}`. Starting from P, no large sums cancel.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Union

import torch
from torch import Tensor

from captum_kd._values import as_flag, as_text, check_mapping, described
from captum_kd.distance import noise_level
from captum_kd.metrics.inference.rows import check_matrices, raw_norm, u_centred_row_blocks

__all__ = ["Products", "Score", "Side", "geometry_products", "pair_scores", "transfer_scores"]

Side = Union[str, tuple[str, str]]
"""One side of a score: a geometry's name, or (name, given) for what is left once given is removed."""

# A squared norm that fell to this share of what it was computed from is rounding: the
# difference of two numbers that agree to 12 digits (an input left out) or to 10 (a geometry
# removed, whose slope is itself rounded).
_LEFT_OUT_SHARE = 1e-12
_REMOVED_SHARE = 1e-10


class Score(NamedTuple):
    """A correlation of two sides, e.g. ``Score(("student", "base"), "labels")`` for RS(S|B)."""

    x: Side
    y: Side


def transfer_scores(
    student: str = "student", base: str = "base", *, labels: str = "labels", teacher: str | None = None
) -> dict[str, Score]:
    """The report's scores of one pair of models, by the names of their geometries.

    Args:
        student (str): the Student's geometry among the products.
        base (str): the Base model's.
        labels (str): the class embeddings'.
        teacher (str): the Teacher's; without one its scores are left out.

    Returns:
        dict of str to Score: the five scores of a pair, with a Teacher the twelve.

    Example::

        >>> transfer_scores("kd seed 1", "base seed 1")["rs_distilled"]
        Score(x=('kd seed 1', 'base seed 1'), y='labels')
    """
    for argument, name in (("student", student), ("base", base), ("labels", labels)):
        as_text(name, argument, or_none=False)
    as_text(teacher, "teacher")
    distilled, residual = (student, base), (base, student)
    scores = {
        "fss": Score(student, base),
        "rs_student": Score(student, labels),
        "rs_base": Score(base, labels),
        "rs_distilled": Score(distilled, labels),
        "rs_residual": Score(residual, labels),
    }
    if teacher is not None:
        scores |= {
            "rs_teacher": Score(teacher, labels),
            "fss_student_teacher": Score(student, teacher),
            "fss_base_teacher": Score(base, teacher),
            "teacher_distilled": Score(distilled, teacher),
            "teacher_residual": Score(residual, teacher),
            "teacher_only_distilled": Score(distilled, (teacher, labels)),
            "teacher_only_residual": Score(residual, (teacher, labels)),
        }
    return scores


class Products(NamedTuple):
    """Inner products of k named geometries of the same n inputs.

    Attributes:
        names (tuple of str): the geometries, in the order of the tensors' last dimensions.
        full (Tensor): (k, k), over all inputs, float64.
        without (Tensor): (n, k, k), entry i with input i left out, float64; (0, k, k) where
            leave-one-out values were not asked for.
        noise (Tensor): (k,), squared norms that are rounding and nothing else.
    """

    names: tuple[str, ...]
    full: Tensor
    without: Tensor
    noise: Tensor

    def score(self, score: Score) -> tuple[float, bool]:
        """A score over all inputs and whether it is defined; undefined ones are 0.

        Undefined: one side has no geometry (constant features, or a copy of what is removed).
        """
        check_score(self, score)
        value, defined = self._correlation(self.full, self.noise, Score(*score))
        return float(value), bool(defined)

    def leave_one_out(self, score: Score) -> tuple[Tensor, bool]:
        """The score without each input, (n,) float64, and whether all of them are defined."""
        check_score(self, score)
        score = Score(*score)
        noise = torch.maximum(self.noise, _LEFT_OUT_SHARE * self.full.diagonal())
        values, defined = self._correlation(self.without, noise, score)
        for side in score:
            if not isinstance(side, str):
                place = self._places(side)[1]
                # What is removed may vanish with an input; what would then be left is another quantity.
                if bool(self.full[place, place] > self.noise[place]):
                    defined = defined & (self.without[:, place, place] > noise[place])
        return values, bool(defined.all())

    def unique_share(self, of: str, given: str) -> Optional[float]:
        """Share of a geometry that is left after removal, 1 - FSS^2; None where one of the two has none."""
        for argument, name in (("of", of), ("given", given)):
            check_score(self, Score(as_text(name, argument, or_none=False) or "", name), argument)
        similarity, defined = self.score(Score(of, given))
        return 1.0 - similarity**2 if defined else None

    def _correlation(self, gram: Tensor, noise: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        x, z = self._places(score.x)
        y, w = self._places(score.y)
        slope_x = _slope(gram, noise, x, z)
        slope_y = _slope(gram, noise, y, w)
        # <x - a z, y - b w>; without removal the slope is 0 and the place does not matter.
        product = gram[..., x, y] - slope_x * gram[..., z, y]
        product = product - slope_y * (gram[..., x, w] - slope_x * gram[..., z, w])
        square_x, defined_x = _squared_norm(gram, noise, x, z, slope_x)
        square_y, defined_y = _squared_norm(gram, noise, y, w, slope_y)
        defined = defined_x & defined_y
        norms = torch.where(defined, square_x, 1.0).sqrt() * torch.where(defined, square_y, 1.0).sqrt()
        return torch.where(defined, product / norms, 0.0).clamp(-1, 1), defined

    def _places(self, side: Side) -> tuple[int, int]:
        name, given = (side, side) if isinstance(side, str) else side
        return self.names.index(name), self.names.index(given)


def _slope(gram: Tensor, noise: Tensor, of: int, given: int) -> Tensor:
    """Coefficient of what is removed; 0 where nothing is, or where it has no geometry."""
    square = gram[..., given, given]
    if of == given:
        return torch.zeros_like(square)
    present = square > noise[given]
    return torch.where(present, gram[..., of, given] / torch.where(present, square, 1.0), 0.0)


def _squared_norm(
    gram: Tensor, noise: Tensor, of: int, given: int, slope: Tensor
) -> tuple[Tensor, Tensor]:
    whole = gram[..., of, of]
    if of == given:
        return whole, whole > noise[of]
    square = whole - slope * gram[..., of, given]
    return square, square > torch.maximum(noise[of], _REMOVED_SHARE * whole)


def geometry_products(distances: Mapping[str, Tensor], *, leave_one_out: bool = True) -> Products:
    """Inner products of all pairs of geometries, with each input left out as well.

    O(k^2 n^2) operations; of each matrix only a block of rows is ever widened to float64. Matrices
    that are U-centred already give the same result.

    Distances rounded to float32 give scores that are right to 1e-6, except what is left after nearly
    everything is removed: where the unique share is below 0.002, up to 1e-5. Distances in float64
    (:func:`~captum_kd.distance.euclidean_distances` of ``features.double()``) give 1e-11 there too.

    Args:
        distances (mapping of str to Tensor): k raw Euclidean distance matrices of the same
            inputs, (n, n), float32 or float64, by the name of what they were taken from.
        leave_one_out (bool): whether the products without each input are needed.

    Returns:
        Products: float64, on the matrices' device.

    Raises:
        ValueError: matrices of different sizes or with non-finite values; fewer than 4 inputs, or 5
            where one is left out.
        TypeError: matrices that are not float32 or float64.

    Source: docs/inference.md (intervals); Szekely & Rizzo 2014
    for the inner product and its invariance.

    Example::

        >>> products = geometry_products({"student": d_s, "base": d_b, "labels": d_g})
        >>> products.score(transfer_scores()["rs_distilled"])
        (0.109, True)
        >>> values, defined = products.leave_one_out(transfer_scores()["rs_distilled"])
        >>> values.shape
        torch.Size([1000])
    """
    check_mapping(distances, "distances", "a mapping from names to (n, n) tensors")
    leave_one_out = as_flag(leave_one_out, "leave_one_out")
    for name in distances:
        as_text(name, "Each name in distances", or_none=False)
    matrices = list(distances.values())
    n, k = check_matrices(matrices), len(matrices)
    if leave_one_out and n < 5:
        raise ValueError(f"distances must be of at least 5 inputs where leave_one_out is True, got {n}.")
    norms = [raw_norm(matrix) for matrix in matrices]
    by_row = matrices[0].new_empty((n, k, k), dtype=torch.float64)
    for rows, block in u_centred_row_blocks(matrices):
        torch.bmm(block, block.mT, out=by_row[rows])
    total = by_row.sum(0)
    if leave_one_out:
        without = (total - by_row.mul_(2 * (n - 2) / (n - 3))) / ((n - 1) * (n - 4))
    else:
        without = by_row[:0]
    pairs = n * (n - 3)
    # Rounding of the distances themselves, in the unit of a squared norm.
    levels = [noise_level(matrix.dtype) * norm for matrix, norm in zip(matrices, norms)]
    noise = total.new_tensor(levels).square() / pairs
    return Products(tuple(distances), total / pairs, without, noise)


def check_products(products: object) -> None:
    """Raises a TypeError for anything but what :func:`geometry_products` returns."""
    if not isinstance(products, Products):
        raise TypeError(f"products must be Products, made by geometry_products(), got {described(products)}.")


def check_score(products: Products, score: object, argument: str = "score") -> None:
    """Raises unless both sides of a score are geometries that there are, or pairs of them.

    Raises:
        TypeError: no pair of sides.
        ValueError: a side that there is not.
    """
    if not isinstance(score, tuple) or len(score) != 2:
        raise TypeError(f"{argument} must be a Score, a pair of sides, got {described(score)}.")
    for side in score:
        names = (side, side) if isinstance(side, str) else side
        if not isinstance(names, tuple) or len(names) != 2 or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{argument} must hold names of geometries or pairs (name, given), got {described(side)}.")
        for name in names:
            if name not in products.names:
                raise ValueError(
                    f"{argument} names the geometry {described(name)}, which is none of those there are: "
                    f"{', '.join(products.names)}."
                )


def pair_scores(products: Products, models: list[str], target: Side | None = None) -> Tensor:
    """A score of every ordered pair of models: what seed control compares.

    Args:
        products (Products): with all models among its geometries, and the target.
        models (list of str): the models' names, Students first, then Bases.
        target (str or tuple): None for FSS; ``"labels"`` for RS(i|j); ``"teacher"`` for
            R(P_{i|j}, P_T); ``("teacher", "labels")`` for the Teacher's beyond the labels.

    Returns:
        Tensor: (models, models) float64 on the CPU; entry (i, j) is the score of i given j, NaN
        where it is not defined (constant features, one model a copy of the other). The diagonal, a
        model given itself, is 0 (FSS: 1).

    Example::

        >>> pair_scores(products, ["student 1", "student 2", "base 1", "base 2"], "labels").shape
        torch.Size([4, 4])
    """
    check_products(products)
    if not isinstance(models, (list, tuple)) or not all(isinstance(model, str) for model in models):
        raise TypeError(f"models must be a list of names of geometries, got {described(models)}.")
    if target is not None:
        check_score(products, Score(target, target), "target")
    for model in models:
        check_score(products, Score(model, model), "models")
    scores = torch.eye(len(models), dtype=torch.float64) * (target is None)
    for i, first in enumerate(models):
        for j, second in enumerate(models):
            if i != j:
                score = Score(first, second) if target is None else Score((first, second), target)
                value, defined = products.score(score)
                scores[i, j] = value if defined else float("nan")
    return scores
