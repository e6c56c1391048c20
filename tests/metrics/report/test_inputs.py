"""Each input's parts in a report."""

from typing import Any

import pytest
import torch
from population import N, batches, compare, data, related

from captum_kd.metrics.report.inputs import _agreement, _reliability

STUDENTS = {f"s{i}": related(i) for i in range(3)}
BASES = {f"b{i}": related(10 + i) for i in range(4)}
TEACHER = related(20, width=9)
COLUMNS = {
    "distilled": "rs_distilled", "residual": "rs_residual", "teacher_distilled": "teacher_distilled",
    "teacher_residual": "teacher_residual",
}  # fmt: skip


@pytest.fixture(scope="module")
def report() -> Any:
    groups = {"kd": ["s0", "s1"], "hints": ["s2"]}
    return compare(STUDENTS, BASES, ["conv1", "conv2"], batches(8), teacher=TEACHER, by_input=True, groups=groups)


@pytest.mark.parametrize(("group", "members"), [("kd", ("s0", "s1")), ("hints", ("s2",))])
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_the_parts_add_up_to_the_mean_score_of_the_pairs(report: Any, group: str, members: Any, layer: str) -> None:
    rows = [row for row in report.inputs["rows"] if (row["group_of_students"], row["layer"]) == (group, layer)]
    assert [row["input"] for row in rows] == list(range(N))
    assert [row["label"] for row in rows] == data()[1].tolist()
    for column, score in COLUMNS.items():
        own = [
            row["value"]
            for row in report.rows
            if row["layer"] == layer and row["score"] == score and row["student"] in members
        ]
        assert sum(row[column] for row in rows) == pytest.approx(sum(own) / len(own), abs=1e-12)


def test_reliability_is_between_pairs_without_a_common_seed(report: Any) -> None:
    found = {(each["group_of_students"], each["layer"], each["score"]): each for each in report.inputs["reliability"]}
    assert len(found) == 2 * 2 * 2
    kd, hints = found["kd", "conv2", "teacher_distilled"], found["hints", "conv2", "teacher_distilled"]
    assert kd["comparisons"] == 12  # of 8 pairs: the other Student with three other Bases
    assert kd["null_comparisons"] == 12  # of 12 ordered pairs of Bases: two others, in both orders
    assert -1 <= kd["correlation"] <= 1 and f"{kd['correlation']:.2f}" in kd["sentence"]
    assert hints["correlation"] is hints["reliability"] is None and "unknown" in hints["sentence"]


def test_shared_seeds_are_common_ones() -> None:
    shared = [("s0", "b0"), ("s1", "b1")]
    found = compare(STUDENTS, BASES, "conv2", batches(8), by_input=True, shared_seeds=shared)
    (each,) = found.inputs["reliability"]
    # Pairs (s, b) of two seeds: s0 3, s1 3, s2 4. Disjoint seeds among them:
    pairs = [(s, b) for s in range(3) for b in range(4) if (s, b) not in ((0, 0), (1, 1))]
    seeds = [{s if s < 2 else 9, b if b < 2 else 10 + b} for s, b in pairs]
    expected = sum(not one & other for i, one in enumerate(seeds) for other in seeds[:i])
    assert each["comparisons"] == expected


def test_agreement_against_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    common = torch.rand(40, generator=draw, dtype=torch.float64)
    parts = {
        (f"s{i}", f"b{j}"): common + torch.randn(40, generator=draw, dtype=torch.float64)
        for i in range(3)
        for j in range(3)
    }
    seeds = {name: place for place, name in enumerate(["s0", "s1", "s2", "b0", "b1", "b2"])}
    correlation, share, count = _agreement(parts, seeds)
    apart = [(one, other) for one in parts for other in parts if one[0] != other[0] and one[1] != other[1]]
    expected = [torch.corrcoef(torch.stack([parts[one], parts[other]]))[0, 1] for one, other in apart]
    assert count == 18 and correlation == pytest.approx(float(sum(expected)) / 36)
    tops = [(parts[other][parts[one].topk(4).indices].sum(), parts[other].sum()) for one, other in apart]
    assert share == pytest.approx(float(sum(t for t, _ in tops) / sum(w for _, w in tops)))


@pytest.mark.parametrize("noise, repeated", [(1.0, True), (2.0, False)])
def test_reliability_is_that_of_the_means_over_pairs(noise: float, repeated: bool) -> None:
    """Parts with effects of the Student and of the Base: means of other networks correlate as predicted."""
    draw = torch.Generator().manual_seed(0)
    common, *effects = torch.randn(13, 20_000, generator=draw, dtype=torch.float64)
    names = [f"{role}{place}" for role in "sb" for place in range(6)]
    own = dict(zip(names, effects))
    parts = {(s, b): common + noise * (own[s] + own[b]) for s in names[:6] for b in names[6:]}
    seeds = {name: place for place, name in enumerate(names)}

    def half(first: bool) -> dict[tuple[str, str], torch.Tensor]:
        return {key: each for key, each in parts.items() if all((int(name[1]) < 3) is first for name in key)}

    means = torch.stack([torch.stack(list(half(first).values())).mean(0) for first in (True, False)])
    found = _reliability(None, "x", "distilled", half(True), {}, seeds)
    assert found["reliability"] == pytest.approx(float(torch.corrcoef(means)[0, 1]), abs=0.03)
    assert found["reliability"] == pytest.approx(1 / (1 + 2 * noise**2 / 3), abs=0.03)  # closed form
    assert found["is_repeated"] is repeated
    assert ("Most of the differences between inputs come from the seeds" in found["sentence"]) is not repeated


def test_texts_and_tables(report: Any) -> None:
    assert report.to_csv(table="inputs").splitlines()[0].split(",")[:4] == ["group_of_students", "layer", "input", "label"]
    assert "Inputs: does another seed" in str(report) and "Inputs: does another seed" in report.to_markdown()
    assert max(map(len, str(report).split("\n"))) <= 100
    assert any("Parts of inputs add up" in note for note in report.notes)


def test_every_label_has_its_name() -> None:
    names = ["cat", "dog", "eel", "fox"]
    found = compare(STUDENTS, BASES, "conv2", batches(8), by_input=True, class_names=names)
    table = found.to_markdown().split("Largest parts of inputs")[1].split("\n\n")[1]
    labels = [line.split(" | ")[1] for line in table.splitlines()[2:]]
    assert any(label == "0 cat" for label in labels) and all(label.split()[1] in names for label in labels)


def test_without_labels_and_teacher() -> None:
    x, _ = data()
    found = compare(STUDENTS, BASES, "conv2", [x[:16], x[16:]], labels=False, by_input=True, teacher=TEACHER)
    assert set(found.inputs["rows"][0]) == {
        "group_of_students", "layer", "input", "label", "teacher_distilled", "teacher_residual",
    }  # fmt: skip
    assert found.inputs["rows"][0]["label"] is None
    found = compare(STUDENTS["s0"], BASES["b0"], "conv2", batches(8), by_input=True)
    assert "teacher_distilled" not in found.inputs["rows"][0]
    assert found.inputs["reliability"][0]["correlation"] is None


def test_maps_of_pairs_have_parts_too() -> None:
    from captum_kd import ReferencePopulation  # noqa: F401

    x, y = data()
    found = compare(
        STUDENTS["s0"], BASES, "conv2", batches(8), by_input=True, by_class=True, localize="unicam", reference=(x, y)
    )
    whole = [row["value"] for row in found.rows if row["score"] == "rs_distilled"]
    assert sum(row["distilled"] for row in found.inputs["rows"]) == pytest.approx(sum(whole) / len(whole), abs=1e-12)
    assert found.classes["tests"] == []
