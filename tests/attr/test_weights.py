"""How gradients weigh activations: means, each at its position, or means of windows."""

from typing import Any, Optional

import pytest
import torch
from conv_pairs import M, N, inputs, pair, relative_difference
from models import TinyTransformer, activations, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, flatten, global_average_pool
from captum_kd._models.cam import WEIGHTS, weighted_activations

STUDENT, BASE = pair()
X, Y = inputs(N), labels(N)
REFERENCES, REFERENCE_LABELS = inputs(M, seed=5), labels(M)
ROOM = {"rtol": 1e-9, "atol": 1e-12}

on_modes = pytest.mark.parametrize("mode", ["batch", "reference"])

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def found(weights: str, mode: str = "batch", n_steps: Optional[int] = None, **arguments: Any) -> Any:
    unicam = UniCAM(STUDENT, "conv2", BASE, weights=weights, **arguments)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS) if mode == "reference" else None
    return unicam.attribute_transfer(X, Y, reference=population, n_steps=n_steps)


def window_means(gradient: Tensor) -> Tensor:
    """Means over windows of 2 x 2, and at each position the mean of the nearest windows by distance, in loops."""
    n, channels, height, width = gradient.shape
    rows, columns = height // 2, width // 2
    pooled = torch.zeros(n, channels, rows, columns, dtype=gradient.dtype)
    for i in range(rows):
        for j in range(columns):
            pooled[:, :, i, j] = gradient[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
    result = torch.zeros_like(gradient)
    for i in range(height):
        for j in range(width):
            for y, share_y in between((i + 0.5) * rows / height - 0.5, rows):
                for x, share_x in between((j + 0.5) * columns / width - 0.5, columns):
                    result[:, :, i, j] += share_y * share_x * pooled[:, :, y, x]
    return result


def between(place: float, count: int) -> list[tuple[int, float]]:
    place = max(place, 0.0)
    first = int(place)
    second = min(first + 1, count - 1)
    return [(first, 1 - (place - first)), (second, place - first)]


def literal_map(weights: str, other: nn.Module = BASE) -> Tensor:
    a = activations(STUDENT, "conv2", X).double().requires_grad_()
    objective = literal.objective(a.flatten(1), activations(other, "conv2", X).flatten(1), Y)
    (gradient,) = torch.autograd.grad(objective, a)
    if weights == "mean":
        gradient = gradient.mean((2, 3), keepdim=True)
    elif weights == "pooled":
        gradient = window_means(gradient)
    return (gradient * a).sum(1, keepdim=True).detach()


@pytest.mark.parametrize("n_steps", [None, 4])
@on_modes
def test_with_averaged_features_all_weights_give_the_same_bits(mode, n_steps):
    first, *others = (found(weights, mode, n_steps) for weights in WEIGHTS)
    for maps in others:
        assert torch.equal(maps.distilled, first.distilled) and torch.equal(maps.residual, first.residual)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_flattened_features_against_the_definition(weights):
    assert relative_difference(found(weights, feature_transform=flatten).distilled, literal_map(weights)) < 1e-9


def test_flattened_features_tell_the_weights_apart():
    maps = [found(weights, feature_transform=flatten).distilled for weights in WEIGHTS]
    assert all(relative_difference(maps[i], maps[j]) > 0.05 for i in range(3) for j in range(i))


@pytest.mark.parametrize("weights", ["elementwise", "pooled"])
def test_a_deeper_feature_layer_against_the_definition(weights):
    unicam = UniCAM(STUDENT, "conv1", BASE, feature_layer="conv2", weights=weights)
    a = activations(STUDENT, "conv1", X).double().requires_grad_()
    own = global_average_pool(STUDENT.conv2(torch.relu(a)))
    objective = literal.objective(own, global_average_pool(activations(BASE, "conv2", X)), Y)
    (gradient,) = torch.autograd.grad(objective, a)
    gradient = gradient if weights == "elementwise" else window_means(gradient)
    expected = (gradient * a).sum(1, keepdim=True).detach()
    assert relative_difference(unicam.attribute(X, Y), expected) < 1e-9


@on_modes
def test_elementwise_integrated_maps_of_flattened_features_add_up_to_the_gain(mode):
    arguments = {"weights": "elementwise", "feature_transform": flatten}
    unicam = UniCAM(STUDENT, "conv2", BASE, **arguments)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS) if mode == "reference" else None
    settings = {"reference": population, "n_steps": 32, "return_convergence_delta": True}
    maps, deltas = unicam.attribute_transfer(X, Y, **settings)
    assert maps.has_unit and maps.net.shape == maps.distilled.shape
    for single, delta in zip(maps, deltas):
        assert delta.abs().max() < 1e-4 * single.flatten(1).abs().sum(1).max()
    # The same path with means as weights has no such sum.
    other, far = UniCAM(STUDENT, "conv2", BASE, feature_transform=flatten).attribute_transfer(X, Y, **settings)
    assert not other.has_unit and far[0].abs().max() > 100 * deltas[0].abs().max()


def test_the_gain_is_the_objective_at_the_input_minus_that_at_the_mean():
    unicam = UniCAM(STUDENT, "conv2", BASE, weights="elementwise", feature_transform=flatten)
    population = unicam.reference(REFERENCES, REFERENCE_LABELS)
    maps = unicam.attribute(X, Y, reference=population, n_steps=64)
    own, references = (activations(STUDENT, "conv2", each).flatten(1) for each in (X, REFERENCES))
    other, other_references = (activations(BASE, "conv2", each).flatten(1) for each in (X, REFERENCES))
    for i in range(N):
        together = torch.cat([Y[i : i + 1], REFERENCE_LABELS])
        of_base = torch.cat([other[i : i + 1], other_references])
        at_input, at_mean = (
            literal.added_objective(torch.cat([row, references]), of_base, together)
            for row in (own[i : i + 1], references.mean(0, keepdim=True))
        )
        torch.testing.assert_close(maps[i].sum(), at_input - at_mean, rtol=1e-4, atol=1e-6)


def test_residual_maps_and_several_layers_keep_the_weights():
    arguments = {"weights": "elementwise", "feature_transform": flatten}
    unicam = UniCAM(STUDENT, ["conv1", "conv2"], BASE, **arguments)
    maps = unicam.attribute_transfer(X, Y)
    torch.testing.assert_close(unicam.residual().attribute(X, Y), maps.residual, rtol=0, atol=0)
    assert unicam.residual().weights == "elementwise"
    torch.testing.assert_close(maps.distilled[1], found("elementwise", feature_transform=flatten).distilled, **ROOM)


@pytest.mark.parametrize("weights", ["elementwise", "pooled"])
def test_tokens_are_weighted_on_their_grid(weights):
    student, base = (TinyTransformer(seed=seed).double() for seed in (1, 2))
    unicam = UniCAM(student, "block", base, feature_transform=flatten, weights=weights)
    maps = unicam.attribute(X, Y)
    assert maps.dim() == 4 and maps.shape[-1] > 1
    mean = UniCAM(student, "block", base, feature_transform=flatten).attribute(X, Y)
    assert relative_difference(maps, mean) > 0.01


@pytest.mark.parametrize("grid", [(7,), (4,), (1,), (6, 4), (7, 5), (1, 6), (4, 3, 2), ()])
def test_pooled_weights_of_any_grid(grid):
    generator = torch.Generator().manual_seed(1)
    gradient, a = torch.randn(2, 2, 3, *grid, generator=generator, dtype=torch.float64)
    maps = weighted_activations(gradient, a, False, weights="pooled")
    assert maps.shape == a.shape and maps.isfinite().all()
    if len(grid) == 2 and min(grid) > 1:
        torch.testing.assert_close(maps, window_means(gradient) * a, **ROOM)
    # Of the same gradient everywhere windows take the same.
    even = gradient.reshape(2, 3, -1)[..., 0].reshape(2, 3, *[1] * len(grid)).expand_as(a).contiguous()
    torch.testing.assert_close(weighted_activations(even, a, False, weights="pooled"), even * a, **ROOM)


def test_sentences_have_no_windows():
    gradient, mask = torch.randn(2, 3, 5), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match='"mean" or "elementwise"'):
        weighted_activations(gradient, gradient, True, token_mask=mask, weights="pooled")


@pytest.mark.parametrize("weights", ["hirescam", "", None, 1])
def test_other_weights_are_refused(weights):
    with pytest.raises((ValueError, TypeError), match="weights must be 'mean', 'elementwise' or 'pooled'"):
        UniCAM(STUDENT, "conv2", BASE, weights=weights)
