"""Features and choices that are refused."""

import pytest
import torch

from captum_kd._utils.tensors import is_finite
from captum_kd.distance import (
    distance_correlation,
    euclidean_distances,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.distance.centering import center, geometry

X = torch.randn(6, 3)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (([[1.0]], X), TypeError, "x must be a tensor of shape .* got list"),
        ((X, X.numpy()), TypeError, "y must be a tensor .* got ndarray"),
        ((X, X.to(torch.complex64)), TypeError, "y must be real, got dtype torch.complex64"),
        ((X[:3], X[:3]), ValueError, r"x has shape \(3, 3\); .* at least 4"),
        ((X, torch.tensor(1.0)), ValueError, r"y has shape \(\)"),
        ((X, X[:5]), ValueError, "x has 6 inputs but y has 5"),
        ((X, X[:, :0]), ValueError, "y has shape .* at least one feature"),
        ((X, X.to("meta")), TypeError, "y must be an ordinary dense tensor.* 'meta'"),
        ((X, X.where(X != X[4, 1], torch.nan)), ValueError, "y has non-finite"),
        ((X.where(X != X[4, 1], -torch.inf), X), ValueError, "x has non-finite"),
    ],
)
def test_unfit_features_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        distance_correlation(*arguments)
    with pytest.raises(error, match=words):
        semipartial_distance_correlation(*arguments, X)


@pytest.mark.parametrize(
    "x, error, words",
    [
        ([[1.0]], TypeError, r"x must be a tensor of shape \(n, d\), got \[\[1.0\]\]"),
        (X.long(), TypeError, "x must be float32 or float64, got a tensor .* torch.int64"),
        (X.half(), TypeError, "x must be float32 or float64, got a tensor .* torch.float16"),
        (X.to(torch.complex64), TypeError, "x must be float32 or float64, .* torch.complex64"),
        (X.to_sparse(), TypeError, "x must be an ordinary dense tensor.* sparse"),
        (X.to("meta"), TypeError, "x must be an ordinary dense tensor.* 'meta'"),
        (torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), TypeError, "x must be an ordinary dense tensor.* quantized"),
        (torch.nested.nested_tensor([X, X[:3]]), TypeError, "x must be an ordinary dense tensor.* nested"),
        (X[0], ValueError, r"x must have shape \(n, d\) .* got shape \(3,\)"),
        (X[:0], ValueError, r"x must have shape \(n, d\) .* got shape \(0, 3\)"),
        (X[:, :0], ValueError, r"x must have shape \(n, d\) .* got shape \(6, 0\)"),
        (X.sign() * 3e38, ValueError, r"distances of x are too large for torch.float32; pass x.double\(\)"),
    ],
)
def test_unfit_features_have_no_distances(x, error, words):
    with pytest.raises(error, match=words):
        euclidean_distances(x)


def test_unfit_features_to_remove_are_refused_by_name():
    with pytest.raises(ValueError, match="given has 5"):
        semipartial_distance_correlation(X, X, X[:5])


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="estimator must be 'unbiased' or 'biased', got 'u'"):
        distance_correlation(X, X, estimator="u")
    with pytest.raises(ValueError, match="remove_from must be 'both' or 'x', got 'y'"):
        partial_distance_correlation(X, X, X, remove_from="y")


@pytest.mark.parametrize("centering", [geometry, lambda x, estimator: center(euclidean_distances(x), estimator)])
def test_an_unknown_estimator_is_never_taken_for_another(centering):
    with pytest.raises(ValueError, match="estimator must be 'unbiased' or 'biased', got 'u'"):
        centering(X, "u")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_distances_of_non_finite_features_are_refused(bad):
    x = X.clone()
    x[2, 1] = bad
    assert is_finite(X) and not is_finite(x)
    for function in (euclidean_distances, geometry):
        with pytest.raises(ValueError, match="non-finite"):
            function(x)
