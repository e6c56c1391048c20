"""FSS of all pairs of models of a report."""

import csv
import io
import json
import warnings
from typing import Any

import dcor
import pytest
import torch
from population import batches, compare, data, hooked, related
from torch import nn

from captum_kd.metrics import TransferReport

ROLES = {
    "kd 1": "student", "kd 2": "student", "base 1": "base", "base 2": "base", "teacher": "teacher", "placebo | 1": "placebo",
}  # fmt: skip
LAYERS = ["conv2", "conv3"]


def networks() -> dict[str, nn.Module]:
    return {name: related(seed) for seed, name in enumerate(ROLES, 1)}


def report_of(models: dict[str, nn.Module], size: int = 9, **kwargs: Any) -> TransferReport:
    by_role = {role: {name: models[name] for name in models if ROLES[name] == role} for role in ROLES.values()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(
            by_role["student"], by_role["base"], LAYERS, batches(size), teacher=by_role["teacher"].get("teacher"),
            placebo_teachers=by_role["placebo"] or None, **kwargs,
        )  # fmt: skip


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_every_pair_of_models_has_dcors_value(estimator):
    models = networks()
    found = report_of(models, estimator=estimator).similarities
    assert dict(zip(found["models"], found["roles"])) == ROLES and list(found["models"]) == list(ROLES)
    reference = dcor.u_distance_correlation_sqr if estimator == "unbiased" else dcor.distance_correlation_sqr
    for layer in LAYERS:
        features = [hooked(model, layer, data()[0]).numpy() for model in models.values()]
        for i, one in enumerate(features):
            for j, other in enumerate(features):
                assert found["layers"][layer][i][j] == pytest.approx(reference(one, other), abs=2e-6)


@pytest.mark.parametrize("options", [{}, {"estimator": "biased"}, {"population": "batch"}, {"block_size": 7}])
def test_values_are_those_of_the_rows(options):
    report = report_of(networks(), **options)
    found = report.similarities
    places = {name: place for place, name in enumerate(found["models"])}
    for row in report.rows:
        pair = {
            "fss": ("student", "base"), "fss_student_teacher": ("student", None), "fss_base_teacher": ("base", None),
        }.get(row["score"])  # fmt: skip
        if pair is not None:
            one, other = (places["teacher" if side is None else row[side]] for side in pair)
            matrix = found["layers"][row["layer"]]
            assert matrix[one][other] == pytest.approx(matrix[other][one], abs=1e-12) == pytest.approx(row["value"], abs=1e-12)


@pytest.mark.parametrize("population", ["all", "batch"])
def test_a_dead_layer_has_no_similarity(population):
    models = networks()
    torch.nn.init.zeros_(models["base 2"].conv3.weight)
    torch.nn.init.zeros_(models["base 2"].conv3.bias)
    found = report_of(models, population=population).similarities
    dead = found["models"].index("base 2")
    assert found["layers"]["conv3"][dead] == [None] * 6 == [row[dead] for row in found["layers"]["conv3"]]
    assert None not in found["layers"]["conv2"][dead]
    assert found["layers"]["conv3"][0][0] == pytest.approx(1.0)


def test_two_models_have_one_pair():
    found = report_of({name: model for name, model in networks().items() if name in ("kd 1", "base 1")}).similarities
    assert found["models"] == ["kd 1", "base 1"] and all(len(matrix) == 2 for matrix in found["layers"].values())


def test_maps_of_pairs_leave_it_undefined():
    pair = {name: model for name, model in networks().items() if name in ("kd 1", "base 1")}
    report = report_of(pair, localize="unicam", reference=data())
    assert report.similarities is None
    with pytest.raises(ValueError, match='no table .similarities.*localize="unicam"'):
        report.to_csv(table="similarities")
    assert "of all models at" not in report.to_markdown()


def test_tables_hold_each_pair_once(tmp_path):
    report = report_of(networks())
    text = report.to_csv(tmp_path / "similarities.csv", table="similarities")
    assert (tmp_path / "similarities.csv").read_bytes().decode() == text
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(records) == 15 * len(LAYERS)
    first = records[0]
    assert (first["layer"], first["model"], first["other"]) == ("conv2", "kd 1", "kd 2")
    assert float(first["fss"]) == report.similarities["layers"]["conv2"][0][1]
    assert json.loads(report.to_json())["similarities"] == report.similarities
    assert "**Similarity (FSS) of all models at conv3**" in report.to_markdown()
    assert r"| | kd 1 | kd 2 | base 1 | base 2 | teacher | placebo \| 1 |" in report.to_markdown()


def test_unknown_tables_are_refused():
    with pytest.raises(ValueError, match="table must be"):
        report_of(networks()).to_csv(table="pairs")
    with pytest.raises(TypeError, match="similarities must be a mapping or None"):
        TransferReport([], None, [], {}, similarities=[])


def test_markdown_leaves_out_tables_that_are_too_wide_for_a_page():
    def text(models: int) -> str:
        matrix = [[0.5] * models for _ in range(models)]
        found = {"models": [f"m {i}" for i in range(models)], "roles": ["student"] * models, "layers": {"conv": matrix}}
        return TransferReport([], None, [], {"class_counts": {}}, similarities=found).to_markdown()

    assert ["of all models at conv" in text(models) for models in (2, 3, 12, 13)] == [False, True, True, False]
