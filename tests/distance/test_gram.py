"""Correlations as algebra on inner products are those of the geometries themselves."""

from typing import Optional

import pytest
import torch
from torch import Tensor

from captum_kd.distance.centering import Geometry, center, correlation, inner_product, remove
from captum_kd.distance.gram import gram_correlation

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


@pytest.mark.parametrize(
    ("x", "y", "x_given", "y_given"),
    [(0, 1, None, None), (2, 0, None, None), (0, 1, 2, None), (0, 1, None, 3), (0, 1, 2, 2), (0, 1, 2, 3), (3, 0, 1, 2)],
)
def test_the_correlation_of_what_is_left(x, y, x_given, y_given):
    sides = geometries()
    value, defined = gram_correlation(gram_of(sides), NO_NOISE, x, y, x_given, y_given)
    expected = correlation(left(sides, x, x_given), left(sides, y, y_given))
    assert bool(defined)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_several_gram_matrices_at_once():
    grams = torch.stack([gram_of(geometries(seed)) for seed in range(3)])
    value, defined = gram_correlation(grams, NO_NOISE, 0, 1, 2)
    assert defined.tolist() == [True] * 3
    for found, gram in zip(value, grams):
        torch.testing.assert_close(found, gram_correlation(gram, NO_NOISE, 0, 1, 2)[0])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("share", "is_defined"), [(0.999, True), (1.0, False), (1.001, False)])
def test_a_norm_up_to_the_noise_is_none(share, is_defined, place):
    gram = torch.tensor([[4.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
    noise = torch.zeros(2, dtype=torch.float64)
    noise[place] = share * gram[place, place]
    value, defined = gram_correlation(gram, noise, 0, 1)
    assert bool(defined) == is_defined
    assert float(value) == pytest.approx(1 / 6 if is_defined else 0, abs=1e-15)


@pytest.mark.parametrize(("noise", "expected"), [(3.9, (3 - 1 * 2 / 4) / (5 - 1 / 4) ** 0.5 / 10**0.5), (4.0, 3 / 50**0.5)])
def test_what_is_nothing_but_noise_removes_nothing(noise, expected):
    gram = torch.tensor([[5.0, 3.0, 1.0], [3.0, 10.0, 2.0], [1.0, 2.0, 4.0]], dtype=torch.float64)
    levels = torch.tensor([0.0, 0.0, noise], dtype=torch.float64)
    value, defined = gram_correlation(gram, levels, 0, 1, 2)
    assert bool(defined) and float(value) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("share", "is_defined"), [(1e-9, True), (1e-11, False)])
@pytest.mark.parametrize("side", ["x", "y"])
def test_a_remainder_below_a_share_of_the_whole_is_none(side, share, is_defined, scale):
    """The share is of what was there before removal, whatever its size."""
    remainder = share
    gram = scale * torch.tensor([[1.0, 0.5, 1.0], [0.5, 1.0, 0.0], [1.0, 0.0, 1 / (1 - remainder)]], dtype=torch.float64)
    places = (0, 1, 2, None) if side == "x" else (1, 0, None, 2)
    value, defined = gram_correlation(gram, NO_NOISE[:3], *places)
    assert bool(defined) == is_defined
    assert (float(value) != 0) == is_defined


def test_a_remainder_up_to_the_noise_of_the_whole_is_none():
    gram = torch.tensor([[5.0, 3.0, 4.0], [3.0, 10.0, 2.0], [4.0, 2.0, 4.0]], dtype=torch.float64)  # leaves 1 of 5
    for noise, is_defined in ((0.99, True), (1.0, False)):
        levels = torch.tensor([noise, 0.0, 0.0], dtype=torch.float64)
        assert bool(gram_correlation(gram, levels, 0, 1, 2)[1]) == is_defined


def test_values_stay_between_minus_one_and_one():
    gram = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    assert float(gram_correlation(gram, NO_NOISE[:2], 0, 1)[0]) == 1
    gram = torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    assert float(gram_correlation(gram, NO_NOISE[:2], 0, 1)[0]) == -1


def test_gradients_are_zero_and_finite_where_nothing_is_defined():
    gram = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    value, defined = gram_correlation(gram, NO_NOISE[:3], 0, 1, 2, 2)
    value.backward()
    assert not bool(defined) and gram.grad is not None and gram.grad.count_nonzero() == 0


def test_gradients():
    gram = gram_of(geometries()).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gram_correlation(g, NO_NOISE, 0, 1, 2, 3)[0], gram)
