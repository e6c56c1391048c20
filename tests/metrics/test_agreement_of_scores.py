"""Functions, metrics and reports give one number for one score."""

import pytest
import torch
from torch import Tensor, nn

from captum_kd import flatten
from captum_kd.distance import distance_correlation, semipartial_distance_correlation
from captum_kd.metrics import compare_transfer, feature_similarity_score, relevance_score


def model(seed: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh()).to(dtype).eval()


@pytest.mark.parametrize("n", [50, 500, 3000])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 2e-7)])
def test_functions_metrics_and_reports_agree(n: int, dtype: torch.dtype, digits: float) -> None:
    """A single value of float32 has 7 digits; the report's values are float64."""
    x, labels = torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype), torch.arange(n) % 3
    student, base = model(1, dtype), model(2, dtype)
    with torch.no_grad():
        features: list[Tensor] = [student(x), base(x), nn.functional.one_hot(labels).to(dtype)]
    functions = {
        "fss": distance_correlation(features[0], features[1]),
        "rs_student": distance_correlation(features[0], features[2]),
        "rs_distilled": semipartial_distance_correlation(features[0], features[2], features[1]),
        "rs_residual": semipartial_distance_correlation(features[1], features[2], features[0]),
    }
    metrics = {
        "fss": feature_similarity_score(student, "1", base, "1", x),
        "rs_student": relevance_score(student, "1", x, labels),
        "rs_distilled": relevance_score(student, "1", x, labels, given=(base, "1")),
        "rs_residual": relevance_score(base, "1", x, labels, given=(student, "1")),
    }
    report = compare_transfer(student, base, ["1"], [(x, labels)], feature_transform=flatten, show_progress=False)
    rows = {row["score"]: row["value"] for row in report.to_dict()["rows"]}
    for name in functions:
        assert float(functions[name]) == pytest.approx(rows[name], abs=digits)
        assert float(metrics[name]) == pytest.approx(rows[name], abs=digits)
