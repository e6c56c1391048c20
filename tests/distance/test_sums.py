"""Sums over blocks give the inner products of centered matrices, whatever was taken from the blocks before."""

from typing import Optional

import pytest
import torch
from torch import Tensor

from captum_kd.distance.block_sums import PairSums, population_sums, tiles
from captum_kd.distance.centering import CENTERINGS, center, u_shift
from captum_kd.distance.sources import MatrixDistances

N, K = 23, 3
SHIFTS = ("none", "any", "exact")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distances(n: int = N) -> list[Tensor]:
    return [torch.cdist(x, x).fill_diagonal_(0) for x in (random(n, width, seed=width) for width in range(1, K + 1))]


def shifts_of(kind: str, matrices: list[Tensor]) -> Tensor:
    n = len(matrices[0])
    if kind == "none":
        return torch.zeros(len(matrices), n, dtype=torch.float64)
    return random(len(matrices), n, seed=9) if kind == "any" else torch.stack([u_shift(each) for each in matrices])


def summed(matrices: list[Tensor], shifts: Tensor, size: int, by_row: bool = False) -> PairSums:
    sums = PairSums(shifts, by_row)
    for rows, columns in tiles(len(matrices[0]), size):
        sums.add([each[rows, columns] for each in matrices], rows, columns)
    return sums


def products(matrices: list[Tensor]) -> Tensor:
    flat = torch.stack(matrices).flatten(1)
    return flat @ flat.T


def without(matrix: Tensor, k: int) -> Tensor:
    rest = [i for i in range(len(matrix)) if i != k]
    return matrix[rest][:, rest]


@pytest.mark.parametrize("estimator", CENTERINGS)
@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("size", [5, N, 100])
def test_inner_products_do_not_depend_on_what_was_taken_before(size, kind, estimator):
    matrices = distances()
    sums = summed(matrices, shifts_of(kind, matrices), size)
    expected = products([center(each, estimator).matrix for each in matrices])
    torch.testing.assert_close(sums.gram(estimator), expected, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("size", [5, N])
def test_norms_of_the_raw_distances(size, kind):
    matrices = distances()
    sums = summed(matrices, shifts_of(kind, matrices), size)
    torch.testing.assert_close(sums.raw_squares(), torch.stack([each.square().sum() for each in matrices]))


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("estimator", CENTERINGS)
def test_shifts_that_center_exactly(estimator, kind):
    matrices = distances()
    found = summed(matrices, shifts_of(kind, matrices), 7).u_shifts(estimator)
    off_diagonal = ~torch.eye(N, dtype=torch.bool)
    for matrix, shift in zip(matrices, found):
        centered = matrix - shift[:, None] - shift
        torch.testing.assert_close(centered[off_diagonal], center(matrix, estimator).matrix[off_diagonal])


@pytest.mark.parametrize("size", [4, N])
def test_rows_and_products_are_sums_over_pairs_of_different_inputs(size):
    matrices, shifts = distances(), random(K, N, seed=9)
    sums = summed(matrices, shifts, size, by_row=True)
    shifted = torch.stack([each - shift[:, None] - shift for each, shift in zip(matrices, shifts)])
    shifted.diagonal(dim1=1, dim2=2).zero_()
    torch.testing.assert_close(sums.rows, shifted.sum(2))
    torch.testing.assert_close(sums.products, products(list(shifted)))
    assert sums.by_row is not None
    torch.testing.assert_close(sums.by_row, torch.einsum("aij,bij->iab", shifted, shifted))


@pytest.mark.parametrize("size", [5, N])
def test_inner_products_without_each_input(size):
    """By taking the input out of the distances and centering again."""
    matrices = distances()
    found = summed(matrices, shifts_of("exact", matrices), size, by_row=True).without_each()
    assert found.shape == (N, K, K)
    for k in range(N):
        left = [center(without(each, k)).matrix for each in matrices]
        torch.testing.assert_close(found[k], products(left) / ((N - 1) * (N - 4)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("place", range(K))
def test_one_of_several_geometries_by_itself(place):
    matrices, shifts = distances(), random(K, N, seed=9)
    sums = summed(matrices, shifts, 6)
    alone = summed(matrices[place : place + 1], shifts[place : place + 1], 6)
    one = sums.of(place)
    torch.testing.assert_close(one.gram(), alone.gram())
    torch.testing.assert_close(one.u_shifts(), alone.u_shifts())
    torch.testing.assert_close(one.raw_squares(), alone.raw_squares())


def test_work_in_parts_of_a_block_gives_the_same(monkeypatch):
    matrices, shifts = distances(), random(K, N, seed=9)
    whole = summed(matrices, shifts, 9, by_row=True)
    monkeypatch.setattr("captum_kd.distance.block_sums._CPU_WORK", 4 * K * 9)
    parts = summed(matrices, shifts, 9, by_row=True)
    torch.testing.assert_close(parts.rows, whole.rows)
    torch.testing.assert_close(parts.products, whole.products)
    torch.testing.assert_close(parts.by_row, whole.by_row)


class Guessed(MatrixDistances):
    """Distances whose shift is not the exact one, and that count how often their blocks are asked for."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__(matrix)
        self.guess, self.asked = shift, 0

    def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
        self.asked += 1
        return super().block(rows, columns, rechecks)

    def shift(self) -> tuple[Tensor, bool]:
        return self.guess, False


@pytest.mark.parametrize(
    ("guess", "by_row", "passes"),
    [(0.0, False, 1), (1e4, False, 2), (0.0, True, 2)],
    ids=["good guess", "bad guess", "by row"],
)
def test_a_second_pass_is_made_only_where_it_is_needed(guess, by_row, passes):
    matrix = distances()[2]
    source = Guessed(matrix, torch.full((N,), guess, dtype=torch.float64))
    sums = population_sums([source], by_row=by_row, block_size=8)
    assert source.asked == passes * 6
    torch.testing.assert_close(sums.gram(), products([center(matrix).matrix]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("by_row", [False, True])
def test_distances_that_are_held_are_read_once(by_row):
    reads = []

    class Counted(MatrixDistances):
        def block(self, rows: slice, columns: slice, rechecks: Optional[list[Tensor]] = None) -> Tensor:
            reads.append((rows, columns))
            return super().block(rows, columns, rechecks)

    matrices = distances()
    sums = population_sums([Counted(each) for each in matrices], by_row=by_row, block_size=8)
    assert len(reads) == K * 6
    assert (sums.by_row is not None) == by_row
    torch.testing.assert_close(sums.gram(), products([center(each).matrix for each in matrices]))


@pytest.mark.parametrize("take", [PairSums.gram, PairSums.u_shifts])
def test_an_estimator_without_a_centering_is_an_error(take):
    with pytest.raises(ValueError, match="unbiased"):
        take(PairSums(torch.zeros(2, 5, dtype=torch.float64)), "jackknifed")
