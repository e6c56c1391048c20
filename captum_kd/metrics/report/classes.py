"""The part of a report on classes, or other groups of inputs: records, Holm's correction over groups, seed control."""

from __future__ import annotations

from statistics import mean
from typing import Any, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.metrics.inference import holm, seed_control
from captum_kd.metrics.report.group_scores import RELEVANCE_OF_GROUP, SHARES_OF_GROUP, GroupScores
from captum_kd.metrics.report.input_groups import InputGroups
from captum_kd.metrics.report.means import InputValues, estimates_of, mean_matrices
from captum_kd.metrics.report.models import Pair
from captum_kd.metrics.report.seed_groups import SeedGroup, mean_likeness
from captum_kd.metrics.scores_table import BASE, BY_NAME

Row = dict[str, Any]


def class_report(
    groups: InputGroups,
    by_layer: Mapping[str, Mapping[int, GroupScores]],
    means: Sequence[InputValues],
    pairs: Sequence[Pair],
    seed_groups: Sequence[SeedGroup],
    compared: Sequence[str],
    confidence: Optional[float],
    has_teacher: bool,
    has_placebos: bool,
) -> dict[str, Any]:
    """The scores of all groups.

    Args:
        groups (InputGroups): the groups of all inputs.
        by_layer (mapping): the scores of each layer and group.
        means (sequence of InputValues): values of single inputs, such as those of predictions, for means within groups.
        pairs (sequence of Pair): the pairs with one Base.
        seed_groups, compared: the groups of models and the models that seed control compares.
        confidence (float, optional): nominal coverage of the intervals of means.
        has_teacher, has_placebos (bool): whether there are such models.
    """
    rows: list[Row] = []
    scores = [*RELEVANCE_OF_GROUP, *SHARES_OF_GROUP]
    selections = [groups.members(name).nonzero()[:, 0] for name in groups.large]
    for place, pair in enumerate(pairs):
        names = {"student": pair.student.of.name, "base": pair.base_name}
        for layer, of_layer in by_layer.items():
            for score in (each for each in scores if has_teacher or not BY_NAME[each].needs_teacher):
                family = []
                for name, size in groups.sizes.items():
                    found = of_layer[name].estimates[place].get(score) if name in of_layer else None
                    key = {**names, "layer": layer, "score": score, "group": name}
                    if found is None:
                        family.append(_row(key, None, None, None, None, size))
                    else:
                        family.append(_row(key, found.value, found.low, found.high, found.p_value, size))
                rows += _corrected(family)
        for of, layer, measure in ((of, layer, measure) for of in means for layer in of.layers for measure in of.scores):
            family = []
            estimates = dict(zip(groups.large, estimates_of(of, measure, layer, pair, confidence, selections)))
            for name, size in groups.sizes.items():
                key = {**names, "layer": layer, "score": measure.name, "group": name}
                family.append(_row(key, *estimates.get(name, (None, None, None, None, size))))
            rows += _corrected(family)
    matrices = _matrices(groups, by_layer, means, compared, selections)
    listed = [{"group": name, "inputs": size, "note": groups.note_of(name)} for name, size in groups.sizes.items()]
    tests = _tests(groups, matrices, by_layer, rows, seed_groups, compared, has_placebos)
    return {"of": groups.word, "groups": listed, "rows": rows, "nulls": _nulls(matrices, compared), "tests": tests}


def _row(
    key: Row, value: Optional[float], low: Optional[float], high: Optional[float], p_value: Optional[float], n: int
) -> Row:
    return {**key, "value": value, "low": low, "high": high, "p_value": p_value, "adjusted_p_value": None, "n": n}


def _corrected(family: list[Row]) -> list[Row]:
    """Adds the p-values after Holm's correction over the groups."""
    tested = [row for row in family if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested])):
        row["adjusted_p_value"] = adjusted
    return family


def _matrices(
    groups: InputGroups,
    by_layer: Mapping[str, Mapping[int, GroupScores]],
    means: Sequence[InputValues],
    compared: Sequence[str],
    selections: Sequence[Tensor],
) -> dict[tuple[str, str], dict[int, Tensor]]:
    """By layer and question, the scores of each group that seed control compares."""
    found: dict[tuple[str, str], dict[int, Tensor]] = {}
    if not compared:
        return found
    for layer, of_layer in by_layer.items():
        for name, of_group in of_layer.items():
            for question, matrix in of_group.matrices.items():
                found.setdefault((layer, question), {})[name] = matrix
    for of in means:
        for question, of_layers in mean_matrices(of, compared, selections).items():
            for layer, of_groups in of_layers.items():
                found[layer, question] = dict(zip(groups.large, of_groups))
    return found


def _nulls(matrices: Mapping[tuple[str, str], Mapping[int, Tensor]], compared: Sequence[str]) -> list[Row]:
    """The mean score of a Base given another Base, for each layer, question and group; without undefined ones."""
    places = [place for place, key in enumerate(compared) if key.startswith(f"{BASE}:")]
    found = []
    for (layer, question), of_groups in matrices.items():
        for name, matrix in of_groups.items():
            between = matrix[places][:, places]
            value = float(between[~torch.eye(len(places), dtype=torch.bool, device="cpu")].mean())
            if value == value:
                found.append({"layer": layer, "score": question, "group": name, "value": value})
    return found


def _tests(
    groups: InputGroups,
    matrices: Mapping[tuple[str, str], Mapping[int, Tensor]],
    by_layer: Mapping[str, Mapping[int, GroupScores]],
    rows: Sequence[Row],
    seed_groups: Sequence[SeedGroup],
    compared: Sequence[str],
    has_placebos: bool,
) -> list[Row]:
    """Seed control of each group, corrected over the groups of a layer."""
    tests = []
    for seed_group in seed_groups:
        places = torch.tensor([list(compared).index(key) for key in seed_group.keys], device="cpu")
        for (layer, question), of_groups in matrices.items():
            titles = {f"{layer}, {groups.word} {name}": name for name in of_groups}
            likeness = None
            if question in SHARES_OF_GROUP:
                likeness = {
                    title: _likeness(by_layer[layer][name].likeness, seed_group) for title, name in titles.items()
                }
            elif BY_NAME[question].needs_likeness:
                likeness = {
                    title: mean_likeness(rows, BY_NAME[question], {"layer": layer, "group": name}, seed_group.student_names)
                    for title, name in titles.items()
                }
            verdicts = seed_control(
                {title: of_groups[name][places][:, places] for title, name in titles.items()},
                seed_group.students,
                question,
                shared_seeds=seed_group.shared_seeds,
                likeness=likeness,
                has_placebos=has_placebos,
                over=groups.plural,
            )
            for verdict in verdicts:
                start = "" if seed_group.name is None else f"{seed_group.name}, "
                found = {**verdict._asdict(), "layer": layer, "sentence": start + verdict.sentence}
                tests.append({"group_of_students": seed_group.name, "group": titles[verdict.layer], **found})
    return tests


def _likeness(similarity: Mapping[str, float], group: SeedGroup) -> tuple[float, float]:
    """Mean similarity to the Teacher of the Students and of the Bases, within a group's rows."""
    students, bases = ([similarity[each.key] for each in group.models if (each.role == BASE) == is_base] for is_base in (0, 1))
    return mean(students), mean(bases)
