"""Distance correlations in 60 decimal digits, from the definitions, for small populations.

Floats become decimals without rounding; the result is rounded once, at the end.
"""

from decimal import Decimal, localcontext
from typing import Iterable

from torch import Tensor

DIGITS = 60

Matrix = list[list[Decimal]]


def unbiased(x: Tensor, y: Tensor) -> float:
    with localcontext() as context:
        context.prec = DIGITS
        return float(_r(_u_centered(_distances(x)), _u_centered(_distances(y))))


def biased(x: Tensor, y: Tensor) -> float:
    with localcontext() as context:
        context.prec = DIGITS
        return float(_r(_double_centered(_distances(x)), _double_centered(_distances(y))))


def semipartial(x: Tensor, y: Tensor, given: Tensor) -> float:
    """The given features are removed from x only."""
    with localcontext() as context:
        context.prec = DIGITS
        p, q, g = (_u_centered(_distances(features)) for features in (x, y, given))
        return float(_r(_without(p, g), q))


def _distances(x: Tensor) -> Matrix:
    rows = [[Decimal(value) for value in row] for row in x.double().reshape(len(x), -1).tolist()]
    return [[_sum((a - b) ** 2 for a, b in zip(p, q)).sqrt() for q in rows] for p in rows]


def _u_centered(d: Matrix) -> Matrix:
    n = len(d)
    sums = [_sum(row) for row in d]
    total = _sum(sums) / ((n - 1) * (n - 2))
    return [
        [Decimal(0) if i == j else d[i][j] - (sums[i] + sums[j]) / (n - 2) + total for j in range(n)] for i in range(n)
    ]


def _double_centered(d: Matrix) -> Matrix:
    n = len(d)
    means = [_sum(row) / n for row in d]
    mean = _sum(means) / n
    return [[d[i][j] - means[i] - means[j] + mean for j in range(n)] for i in range(n)]


def _inner(p: Matrix, q: Matrix) -> Decimal:
    return _sum(a * b for row, other in zip(p, q) for a, b in zip(row, other))


def _without(p: Matrix, q: Matrix) -> Matrix:
    slope = _inner(p, q) / _inner(q, q)
    return [[a - slope * b for a, b in zip(row, other)] for row, other in zip(p, q)]


def _r(p: Matrix, q: Matrix) -> Decimal:
    return _inner(p, q) / (_inner(p, p) * _inner(q, q)).sqrt()


def _sum(values: Iterable[Decimal]) -> Decimal:
    return sum(values, Decimal(0))
