"""Reports of docs/recipes.md, in which other networks than Students and Bases take their places."""

from typing import Any

import pytest
import torch
from torch import nn

from captum_kd.metrics import Comparisons, compare_transfer, relevance_score

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(40) % 3


def network(seed: int, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()).double().eval()


def values(report: Any, score: str) -> dict[tuple[str, str, str], float]:
    return {(row["student"], row["base"], row["layer"]): row["value"] for row in report.rows if row["score"] == score}


def compare(*args: Any, **given: Any) -> Any:
    return compare_transfer(*args, [(INPUTS, LABELS)], show_progress=False, **given)


@pytest.mark.filterwarnings("ignore:Near chance")
def test_one_network_is_compared_with_an_untrained_one() -> None:
    report = compare({"network": network(1)}, {"untrained": network(2)}, ["1", "3"], comparisons=Comparisons(progression=True))
    expected = float(relevance_score(network(1), "1", INPUTS, LABELS, given=(network(2), "1")))
    assert values(report, "rs_distilled")["network", "untrained", "1"] == pytest.approx(expected, abs=1e-12)
    assert values(report, "progression_student")["network", "untrained", "3"] == pytest.approx(1)
    assert "Student: network. Base: untrained." in str(report)


@pytest.mark.filterwarnings("ignore:Near chance")
def test_two_techniques_have_both_directions_in_one_report() -> None:
    one, other = {f"a {seed}": network(seed) for seed in (1, 2)}, {f"b {seed}": network(seed) for seed in (3, 4)}
    report, reverse = compare(one, other, "3"), compare(other, one, "3")
    swapped = {(student, base, layer): value for (base, student, layer), value in values(reverse, "rs_distilled").items()}
    assert values(report, "rs_residual") == pytest.approx({key: swapped[key] for key in values(report, "rs_residual")})


@pytest.mark.filterwarnings("ignore:Near chance")
def test_a_wider_teacher_takes_the_place_of_the_student() -> None:
    teacher, students = network(5, width=9), {"student 1": network(1), "student 2": network(2)}
    report = compare({"teacher": teacher}, students, {"last": {"teacher": "3", "base": "1"}})
    expected = float(relevance_score(teacher, "3", INPUTS, LABELS, given=(students["student 2"], "1")))
    assert values(report, "rs_distilled")["teacher", "student 2", "last"] == pytest.approx(expected, abs=1e-12)
    assert "Students: teacher. Bases: student 1, student 2." in str(report)
