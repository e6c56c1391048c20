"""Scores that dcor recomputes on a sample of the inputs."""

import pytest
import torch
from torch import Tensor, nn

from captum_kd.metrics import Compute, compare_transfer
from captum_kd.metrics.report import verification

N = 60


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.Tanh()).double().eval()


def compare(verify: int, **given):
    x = torch.randn(N, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    students = {"a": model(1), "b": model(2)}
    data: list[tuple[Tensor, Tensor]] = [(x, torch.arange(N) % 3)]
    return compare_transfer(
        students, model(3), ["1", "3"], data, compute=Compute(verify=verify), **{"show_progress": False, **given}
    )


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        ({}, 20),
        ({"estimator": "biased"}, 20),
        ({"teacher": model(4)}, 48),
        ({"class_embeddings": torch.randn(3, 5), "confidence": 0.95, "n_permutations": 9}, 20),
    ],
)
def test_scores_are_those_of_dcor(given, scores):
    plain, report = compare(0, **given), compare(20, **given)
    assert report.to_dict()["rows"] == plain.to_dict()["rows"]
    assert plain.to_dict()["settings"]["verification"] is None
    found = report.to_dict()["settings"]["verification"]
    assert (found["inputs"], found["scores"]) == (20, scores) and found["largest_difference"] < 1e-10
    assert any(f"dcor recomputed {scores} scores on 20 of the 60 inputs" in note for note in report.to_dict()["notes"])


def test_a_wrong_score_is_seen(monkeypatch):
    of_pair = verification.LayerScores.of_pair
    monkeypatch.setattr(
        verification.LayerScores, "of_pair", lambda self, pair: {
            name: each._replace(value=each.value + 0.02) for name, each in of_pair(self, pair).items()
        }
    )
    assert compare(20).to_dict()["settings"]["verification"]["largest_difference"] > 0.01


@pytest.mark.parametrize("n", [7, 60, 61, 1000])
def test_samples_are_random_and_repeatable(n):
    rows = verification.sample_of(n, 20, seed=1)
    assert len(set(rows)) == len(rows) == min(n, 20) and rows == sorted(rows) and rows[-1] < n
    assert rows == verification.sample_of(n, 20, seed=1)


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match="verify must be 0 or at least 5 inputs, got 3"):
        Compute(verify=3)
    with pytest.raises(ValueError, match="verify belongs to population"):
        compare(20, population="batch")
