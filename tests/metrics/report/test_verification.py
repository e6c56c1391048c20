"""Scores that dcor recomputes on a sample of the inputs."""

import importlib.metadata
import math

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
    version = importlib.metadata.version("dcor")
    largest = f"{found['largest_difference']:.1g}"
    foot = f"Checked by dcor {version} on 20 of 60 inputs: {scores} correlations, largest difference {largest}."
    assert report.notes[-1] == foot and report.to_markdown().rstrip().endswith(foot.replace("_", r"\_"))
    assert " ".join(str(report).rsplit("- ", 1)[1].split()) == foot


@pytest.mark.parametrize("error", [0.02, 2e-4, float("nan")])
def test_a_wrong_score_is_the_first_thing_that_a_report_says(monkeypatch, error):
    of_pair = verification.LayerScores.of_pair

    def wrong(self, pair):
        found = of_pair(self, pair)
        is_wrong = pair.student.of.name == "b" and next(places) >= 1  # only at the second layer
        score = found["rs_residual"]
        return {**found, "rs_residual": score._replace(value=score.value + error)} if is_wrong else found

    places = iter(range(9))
    monkeypatch.setattr(verification.LayerScores, "of_pair", wrong)
    with pytest.warns(UserWarning, match="Failed check"):
        report = compare(20)
    found = report.settings["verification"]
    assert found["where"] == "rs_residual at 3 (b, base)"
    assert found["largest_difference"] == pytest.approx(2 if math.isnan(error) else error)
    caution = "Failed check: dcor"
    assert report.notes[0].startswith(caution) and "rs_residual at 3 (b, base)" in report.notes[0]
    assert str(report).startswith("Verdict\n- Caution: do not use this report, since dcor differs from it by up to")
    assert f"\n\nCautions\n- {caution}" in str(report) and str(report).count(caution) == 1
    assert f"- {caution}" in report.to_markdown()


def test_rounding_is_no_failed_check():
    found = {"dcor": "0.7", "inputs": 20, "scores": 5, "largest_difference": verification.ROUNDING, "where": "fss at 3 (a, b)"}
    assert not verification.failed_check(found) and not verification.failed_check(None)
    assert verification.failed_check({**found, "largest_difference": 1.01e-4})


def test_true_stands_for_500_inputs():
    assert Compute(verify=True) == Compute(verify=500)
    assert Compute(verify=False) == Compute()
    assert compare(True).settings["verification"]["inputs"] == N


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
