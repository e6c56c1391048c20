"""Correlations as algebra on inner products are those of the geometries themselves."""

from typing import Optional

import pytest
import torch
from reference.geometries import correlation, inner_product, remove
from torch import Tensor

from captum_kd.distance.centering import Geometry, center
from captum_kd.distance.gram import correlation_slope, correlations_given, partial_correlation

N = 12
NO_NOISE = torch.zeros(4, dtype=torch.float64)


def geometries(seed: int = 0) -> list[Geometry]:
    draw = torch.Generator().manual_seed(seed)
    points = [torch.randn(N, 3, dtype=torch.float64, generator=draw) for _ in range(4)]
    return [center(torch.cdist(x, x).fill_diagonal_(0)) for x in points]


def gram_of(sides: list[Geometry]) -> Tensor:
    return torch.stack([torch.stack([inner_product(p, q) for q in sides]) for p in sides])


def left(sides: list[Geometry], of: int, given: Optional[int]) -> Geometry:
    return sides[of] if given is None else remove(sides[of], sides[given])


def given(place: Optional[int]) -> list[int]:
    return [] if place is None else [place]


@pytest.mark.parametrize(
    ("x", "y", "x_given", "y_given"),
    [(0, 1, None, None), (2, 0, None, None), (0, 1, 2, None), (0, 1, None, 3), (0, 1, 2, 2), (0, 1, 2, 3), (3, 0, 1, 2)],
)
def test_the_correlation_of_what_is_left(x, y, x_given, y_given):
    sides = geometries()
    value, defined = partial_correlation(gram_of(sides), NO_NOISE, x, y, given(x_given), given(y_given))
    expected = correlation(left(sides, x, x_given), left(sides, y, y_given))
    assert bool(defined)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_several_gram_matrices_at_once():
    grams = torch.stack([gram_of(geometries(seed)) for seed in range(3)])
    value, defined = partial_correlation(grams, NO_NOISE, 0, 1, [2])
    assert defined.tolist() == [True] * 3
    for found, gram in zip(value, grams):
        torch.testing.assert_close(found, partial_correlation(gram, NO_NOISE, 0, 1, [2])[0])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("share", "is_defined"), [(0.999, True), (1.0, False), (1.001, False)])
def test_a_norm_up_to_the_noise_is_none(share, is_defined, place):
    gram = torch.tensor([[4.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
    noise = torch.zeros(2, dtype=torch.float64)
    noise[place] = share * gram[place, place]
    value, defined = partial_correlation(gram, noise, 0, 1)
    assert bool(defined) == is_defined
    assert float(value) == pytest.approx(1 / 6 if is_defined else 0, abs=1e-15)


@pytest.mark.parametrize(("noise", "expected"), [(3.9, (3 - 1 * 2 / 4) / (5 - 1 / 4) ** 0.5 / 10**0.5), (4.0, 3 / 50**0.5)])
def test_what_is_nothing_but_noise_removes_nothing(noise, expected):
    gram = torch.tensor([[5.0, 3.0, 1.0], [3.0, 10.0, 2.0], [1.0, 2.0, 4.0]], dtype=torch.float64)
    levels = torch.tensor([0.0, 0.0, noise], dtype=torch.float64)
    value, defined = partial_correlation(gram, levels, 0, 1, [2])
    assert bool(defined) and float(value) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("share", "is_defined"), [(1e-9, True), (1e-11, False)])
@pytest.mark.parametrize("side", ["x", "y"])
def test_a_remainder_below_a_share_of_the_whole_is_none(side, share, is_defined, scale):
    """The share is of what was there before removal, whatever its size."""
    remainder = share
    gram = scale * torch.tensor([[1.0, 0.5, 1.0], [0.5, 1.0, 0.0], [1.0, 0.0, 1 / (1 - remainder)]], dtype=torch.float64)
    places = (0, 1, [2], []) if side == "x" else (1, 0, [], [2])
    value, defined = partial_correlation(gram, NO_NOISE[:3], *places)
    assert bool(defined) == is_defined
    assert (float(value) != 0) == is_defined


def test_a_remainder_up_to_the_noise_of_the_whole_is_none():
    gram = torch.tensor([[5.0, 3.0, 4.0], [3.0, 10.0, 2.0], [4.0, 2.0, 4.0]], dtype=torch.float64)  # leaves 1 of 5
    for noise, is_defined in ((0.99, True), (1.0, False)):
        levels = torch.tensor([noise, 0.0, 0.0], dtype=torch.float64)
        assert bool(partial_correlation(gram, levels, 0, 1, [2])[1]) == is_defined


def test_values_stay_between_minus_one_and_one():
    gram = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    assert float(partial_correlation(gram, NO_NOISE[:2], 0, 1)[0]) == 1
    gram = torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    assert float(partial_correlation(gram, NO_NOISE[:2], 0, 1)[0]) == -1


def test_gradients_are_zero_and_finite_where_nothing_is_defined():
    gram = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    value, defined = partial_correlation(gram, NO_NOISE[:3], 0, 1, [2], [2])
    value.backward()
    assert not bool(defined) and gram.grad is not None and gram.grad.count_nonzero() == 0


def test_gradients():
    gram = gram_of(geometries()).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: partial_correlation(g, NO_NOISE, 0, 1, [2], [3])[0], gram)


def projected(side: Tensor, others: list[Tensor]) -> Tensor:
    """What least squares leaves of a matrix once the span of others is removed."""
    columns = torch.stack([other.flatten() for other in others], 1)
    return side - (columns @ torch.linalg.lstsq(columns, side.flatten()[:, None]).solution).reshape(side.shape)


@pytest.mark.parametrize(("x_given", "y_given"), [([2, 3], []), ([3, 2], [2]), ([2, 3, 4], [3, 4]), ([2], [3, 4])])
def test_the_span_of_several_is_removed(x_given, y_given):
    sides = [*geometries(), *geometries(7)[:1]]
    gram = gram_of(sides)
    value, defined = partial_correlation(gram, torch.zeros(5, dtype=torch.float64), 0, 1, x_given, y_given)
    left, right = (
        projected(sides[of].matrix, [sides[z].matrix for z in removed]) if removed else sides[of].matrix
        for of, removed in ((0, x_given), (1, y_given))
    )
    assert bool(defined)
    assert float(value) == pytest.approx(float((left * right).sum() / left.norm() / right.norm()), abs=1e-12)


def test_a_geometry_that_the_others_span_removes_nothing_more():
    first, second, third, *_ = (side.matrix for side in geometries())
    sides = torch.stack([first, geometries(5)[0].matrix, second, third, second + 2 * third]).flatten(1)
    gram = sides @ sides.T
    noise = torch.zeros(5, dtype=torch.float64)
    both = partial_correlation(gram, noise, 0, 1, [2, 3])[0]
    for given_all in ([2, 3, 4], [4, 2, 3], [2, 3, 2]):
        assert float(partial_correlation(gram, noise, 0, 1, given_all)[0]) == pytest.approx(float(both), abs=1e-9)


@pytest.mark.parametrize(("x_given", "y_given"), [([], []), ([2], []), ([2], [3]), ([2, 3], []), ([2, 3], [3])])
def test_the_slope_is_the_gradient_with_respect_to_the_geometry(x_given, y_given):
    matrices = torch.stack([side.matrix for side in geometries()])
    own = matrices[0].clone().requires_grad_()
    sides = torch.stack([own, *matrices[1:]]).flatten(1)
    value = partial_correlation(sides @ sides.T, NO_NOISE, 0, 1, x_given, y_given)[0]
    (expected,) = torch.autograd.grad(value, own)
    found = correlation_slope((sides @ sides.T).detach(), NO_NOISE, 0, 1, x_given, y_given)
    torch.testing.assert_close(found.values, value.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.tensordot(found.coefficients, matrices, 1), expected, rtol=1e-10, atol=1e-12)


def test_slopes_of_several_gram_matrices_at_once():
    grams = torch.stack([gram_of(geometries(seed)) for seed in range(3)])
    found = correlation_slope(grams, NO_NOISE, 0, 1, [2, 3])
    for row, gram in enumerate(grams):
        for each, alone in zip(found, correlation_slope(gram, NO_NOISE, 0, 1, [2, 3])):
            torch.testing.assert_close(each[row], alone)


@pytest.mark.parametrize("target", ["removed", "constant", "own"])
def test_a_slope_that_is_rounding_is_zero(target):
    """The target is the removed geometry, there is none, or the correlation is 1 already."""
    first, second, *_ = (side.matrix for side in geometries())
    own = 2 * projected(first, [second])
    aim = {"removed": 3 * second, "constant": 0 * first, "own": own}[target]
    sides = torch.stack([first, aim, second]).flatten(1)
    found = correlation_slope(sides @ sides.T, NO_NOISE[:3], 0, 1, [2])
    assert found.coefficients.count_nonzero() == 0
    assert bool(found.is_left) and bool(found.has_target) == (target == "own")


def test_correlations_given_are_partial_correlations_of_every_geometry() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 40, generator=draw, dtype=torch.float64)
    rows[5] = rows[0] - 2 * rows[1]  # in the span of the removed ones
    gram, noise = rows @ rows.mT, torch.full((7,), 1e-20, dtype=torch.float64)
    values, defined = correlations_given(gram.expand(2, 7, 7), noise, 6, [0, 1, 2])
    assert defined[0].tolist() == [False, False, False, True, True, False, True]
    for x in (3, 4, 6):
        expected, _ = partial_correlation(gram, noise, x, 6, [0, 1, 2])
        assert values[:, x].tolist() == pytest.approx([float(expected)] * 2, abs=1e-12)
    assert values[0, ~defined[0]].tolist() == [0] * 4


def test_correlations_with_a_geometry_of_rounding_are_undefined() -> None:
    gram = torch.eye(3, dtype=torch.float64)
    assert not correlations_given(gram, torch.tensor([0.0, 0.0, 2.0]), 2, [0])[1].any()
