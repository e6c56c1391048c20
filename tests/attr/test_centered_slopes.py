"""Distances that are all about as large round far above what tells them apart: gradients keep their digits all the same."""

import pytest
import torch
from feature_gradients import batch_gradients

from captum_kd._utils.tensors import largest_of
from captum_kd.attr.gradients import ScaledFeatures
from captum_kd.distance.centering import Geometry
from reference import literal

WIDTH = 4096


def features(n: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(n, WIDTH, dtype=torch.float64)


# Of 8 inputs the bound tells whether the slopes are centered a last time. Of 40 the rounding of the matrix products depends on
# the processor: 3e-14 to 1.1e-13 were seen.
@pytest.mark.parametrize(("n", "bound"), [(8, 5e-14), (40, 4e-13)])
@pytest.mark.parametrize("target", ["teacher", "labels", "none"])
def test_gradients_of_wide_features_are_exact(target, n, bound):
    own, other, teacher = (features(n, seed) for seed in range(3))
    own, teacher = own + other / 2, teacher + own / 2
    labels = torch.arange(n) % 3
    leaf = own.clone().requires_grad_()
    if target == "teacher":
        objective = literal.teacher_objective(leaf, other, teacher)
    else:
        objective = literal.objective(leaf, other, labels if target == "labels" else None)
    (expected,) = torch.autograd.grad(objective, leaf)
    measured = [ScaledFeatures(each, largest_of(each)) for each in (own, other, teacher)]
    distances = literal.distances(literal.embedded(labels, None))
    geometry = Geometry(literal.u_centered(distances), distances.norm())
    (found,) = batch_gradients(
        (measured[0], measured[1]),
        measured[2] if target == "teacher" else None,
        geometry if target == "labels" else None,
        both=False,
    )
    assert float((found - expected).norm()) < bound * float(expected.norm())
