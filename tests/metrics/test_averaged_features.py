"""Scores of layers whose average over positions is nothing but rounding are 0, with a warning, and so is what is left of them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from averages import N, channels_pooled, net, x, y
from torch import Tensor, nn
from torch.testing import assert_close
from workers import Workers, of

from captum_kd import flatten, global_average_pool
from captum_kd._distributed import as_process_group
from captum_kd.metrics import Comparisons, Compute, compare_transfer, feature_similarity_score, relevance_score
from captum_kd.metrics.torchmetrics import FeatureSimilarityScore, LayerFeatures, RelevanceScore, TransferScores

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NO_GEOMETRY = "one side has no geometry"
POOLED: dict[str, Any] = {"feature_transform": global_average_pool}


@pytest.mark.parametrize("norm", ["instance", "affine", "group"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 7])
def test_functions(norm, dtype, block_size):
    nothing, varying, images = net(norm, 1, dtype), net("varying", 2, dtype), x(dtype=dtype)
    settings = {**POOLED, "block_size": block_size}
    for estimator in ("unbiased", "biased"):
        with pytest.warns(UserWarning, match=NO_GEOMETRY):
            assert feature_similarity_score(nothing, "norm", varying, "norm", images, estimator=estimator, **settings) == 0
        with pytest.warns(UserWarning, match=NO_GEOMETRY):
            assert relevance_score(nothing, "norm", images, y(), estimator=estimator, **settings) == 0
    with pytest.warns(UserWarning, match=NO_GEOMETRY):
        assert relevance_score(nothing, "norm", images, y(), given=(varying, "norm"), **settings) == 0
    expected = relevance_score(varying, "norm", images, y(), **settings)
    assert expected != 0
    for remove_from in ("x", "both"):
        given = relevance_score(varying, "norm", images, y(), given=(nothing, "norm"), remove_from=remove_from, **settings)
        assert_close(given, expected)


def test_a_transform_of_the_users_pools_over_channels():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(12)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(images)

    inputs = torch.rand(N, 5, 12) + torch.rand(N, 5, 1)
    tokens = lambda a: channels_pooled(a.transpose(1, 2))  # noqa: E731
    with pytest.warns(UserWarning, match=NO_GEOMETRY):
        found = relevance_score(Normed(), "norm", inputs, y(), feature_transform=tokens, channels_last=False)
    assert found == 0


WAYS: dict[str, dict[str, Any]] = {
    "held": {},
    "blocks": dict(compute=Compute(block_size=7)),
    "file": dict(compute=Compute(memory_limit=1)),
    "batches": dict(population="batch"),
    "inference": dict(confidence=0.9, n_permutations=30, comparisons=Comparisons(progression=True)),
}


def values(report: Any) -> dict[str, float]:
    return {row["score"]: row["value"] for row in report.rows}


def compared(student: nn.Module, base: nn.Module, **settings: Any) -> dict[str, float]:
    dtype = next(student.parameters()).dtype
    batches = list(zip(x(dtype=dtype).split(16), y().split(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values(compare_transfer(student, base, ["norm"], batches, show_progress=False, **POOLED, **settings))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reports(way, dtype):
    """Beside a Student whose features are rounding the Base's residual is all of its relevance."""
    found = compared(net("affine", 1, dtype), net("varying", 2, dtype), **WAYS[way])
    assert found["fss"] == found["rs_student"] == found["rs_distilled"] == 0
    assert found["rs_base"] != 0
    assert math.isclose(found["rs_residual"], found["rs_base"], rel_tol=1e-6)


def test_p_values_and_intervals_of_rounding_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = compare_transfer(
            net("instance", 1), net("varying", 2), ["norm"], [(x(), y())], confidence=0.9, n_permutations=30,
            show_progress=False, **POOLED,
        )  # fmt: skip
    rows = {row["score"]: row for row in report.rows}
    assert rows["rs_student"]["p_value"] in (None, 1.0)
    for name in ("fss", "rs_student", "rs_distilled"):
        assert rows[name]["low"] in (None, 0.0) and rows[name]["high"] in (None, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 3])
def test_torchmetrics(dtype, parts):
    nothing, varying = (LayerFeatures(net(kind, 1, dtype), "norm", **POOLED) for kind in ("affine", "varying"))
    fss, relevance, distilled, scores = FeatureSimilarityScore(), RelevanceScore(), RelevanceScore(), TransferScores()
    for images, target in zip(x(dtype=dtype).chunk(parts), y().chunk(parts)):
        fss.update(nothing(images), varying(images))
        relevance.update(nothing(images), target)
        distilled.update(varying(images), target, given=nothing(images))
        scores.update(nothing(images), varying(images), target)
    with pytest.warns(UserWarning, match=NO_GEOMETRY):
        assert fss.compute() == relevance.compute() == 0
        found = scores.compute()
    assert found["rs_student"] == found["rs_distilled"] == found["fss"] == 0
    assert found["rs_base"] != 0
    assert_close(found["rs_residual"], found["rs_base"])
    assert_close(distilled.compute(), found["rs_base"])


def test_a_metric_forgets_rounding_with_its_features():
    scores = RelevanceScore()
    scores.update(LayerFeatures(net("affine"), "norm", **POOLED)(x()), y())
    with pytest.warns(UserWarning, match=NO_GEOMETRY):
        assert scores.compute() == 0
    scores.reset()
    small = torch.randn(N, 8, generator=torch.Generator().manual_seed(0)) * 1e-8
    scores.update(small, y())
    expected = RelevanceScore()
    expected.update(small * 2.0**30, y())
    assert_close(scores.compute(), expected.compute())


def shared(group: Any) -> dict[str, float]:
    torch.set_num_threads(1)
    rank = 0 if group is None else as_process_group(group).rank
    rows = slice(None) if group is None else (slice(0, 17), slice(17, None))[rank]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = compare_transfer(
            net("affine", 1), net("varying", 2), ["norm"], [(x()[rows], y()[rows])],
            compute=Compute(process_group=group, block_size=6), show_progress=False, **POOLED,
        )  # fmt: skip
    metric = TransferScores(process_group=group) if group is not None else TransferScores()
    nothing, varying = (LayerFeatures(net(kind, seed), "norm", **POOLED) for kind, seed in (("affine", 1), ("varying", 2)))
    metric.update(nothing(x()[rows]), varying(x()[rows]), y()[rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {f"metric {name}": float(value) for name, value in metric.compute().items()}
    return {**values(report), **found}


@pytest.mark.slow
def test_several_processes(workers: Workers) -> None:
    alone = shared(None)
    assert alone["rs_student"] == alone["metric rs_student"] == 0 and alone["rs_residual"] != 0
    for found in of(workers.run(2, shared)):
        assert found == pytest.approx(alone, abs=1e-6)
        assert found["rs_student"] == found["metric rs_student"] == found["rs_distilled"] == found["metric fss"] == 0


@pytest.mark.parametrize("norm", ["affine", "instance"])
def test_localized_reports(norm):
    found = compared(net(norm, 1), net("varying", 2), localize="gradcam", keep=0.5)
    assert found["fss"] == found["rs_student"] == found["rs_distilled"] == 0
    assert math.isclose(found["rs_residual"], found["rs_base"], rel_tol=1e-6)


# ------------------------------------------------------------------------------ what stays as it is


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_pooled_features_of_any_scale_keep_their_scores(factor):
    varying, other = net("varying", 1), net("varying", 2)

    def scaled(activations: Tensor) -> Tensor:
        return activations.mean((2, 3)) * factor

    expected = feature_similarity_score(varying.double(), "norm", other.double(), "norm", x(dtype=torch.float64), **POOLED)
    found = feature_similarity_score(varying.float(), "norm", other.float(), "norm", x(), feature_transform=scaled)
    assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("constant_channel", [False, True])
def test_a_small_spread_around_a_large_mean_keeps_its_score(block_size, constant_channel):
    draw = torch.Generator().manual_seed(0)
    shift = 1e-5 * torch.randn(N, 24, 1, 1, generator=draw, dtype=torch.float64)
    shift[:, :, :, :] += 1e-5 * y().double()[:, None, None, None]
    if constant_channel:
        shift[:, 3] = 0
    inputs = ((1 + shift) * torch.ones(6, 6, dtype=torch.float64)).float()

    def score(dtype: torch.dtype) -> Tensor:
        layer = nn.Sequential(nn.Identity())
        return relevance_score(layer, "0", inputs.to(dtype), y(), block_size=block_size, **POOLED)

    assert score(torch.float64) > 0.05
    assert_close(score(torch.float32).double(), score(torch.float64), rtol=0.02, atol=0.01)


def test_one_constant_channel_is_no_reason():
    """ReLU's dead channels, and a mean over positions that is one number in some channels."""
    inputs = torch.rand(N, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    inputs[:, :2] = 1000.0
    without = inputs.clone()
    without[:, :2] = 0
    layer = nn.Sequential(nn.Identity())
    found, expected = (relevance_score(layer, "0", each, y(), **POOLED) for each in (inputs, without))
    assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_flattened_features_are_no_averages():
    """What InstanceNorm gives has a geometry of its own."""
    own, other = net("instance", 1), net("instance", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = feature_similarity_score(own, "norm", other, "norm", x(), feature_transform=flatten)
    assert found > 0.1
