"""Seed control in a report: the groups of models that are compared, and the results."""

from __future__ import annotations

from itertools import product
from math import isnan
from statistics import mean
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._utils.validation import short_repr
from captum_kd.metrics.inference import LeftOutScores, seed_control, single_pair_sentence
from captum_kd.metrics.inference.seed_tests import MOST_RELABELINGS, relabeling_count
from captum_kd.metrics.report.models import ComparedModel
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import BASE, BY_NAME, STUDENT, ReportScore

SeedScores = Union[Tensor, list[LeftOutScores]]
"""Scores that seed control compares: of all ordered pairs of models, or of Students given several Bases by group."""

LEAST_BASES = 2
"""Under the null hypothesis, Students differ from Bases as Bases differ from each other."""


class SeedGroup(NamedTuple):
    """Students that are compared with all Bases.

    Attributes:
        name (str, optional): the group's name, None if there is only one group without a name.
        models (list of ComparedModel): Students first, then Bases.
        students (int): number of Students.
        shared_seeds (list of (int, int)): (index of the Student, index of the Base) for each shared seed.
    """

    name: Optional[str]
    models: list[ComparedModel]
    students: int
    shared_seeds: list[tuple[int, int]]

    @property
    def keys(self) -> list[str]:
        return [model.key for model in self.models]

    @property
    def student_names(self) -> list[str]:
        return [model.name for model in self.models[: self.students]]

    @property
    def bases(self) -> int:
        return len(self.models) - self.students

    def recorded(self) -> dict[str, Any]:
        names = [model.name for model in self.models]
        students, bases = names[: self.students], names[self.students :]
        return {
            "group": self.name,
            "students": students,
            "bases": bases,
            "shared_seeds": [[students[s], bases[b]] for s, b in self.shared_seeds],
        }


def as_seed_groups(models: Sequence[ComparedModel], settings: Settings) -> list[SeedGroup]:
    """The groups that can be tested. There are none without a second Base."""
    groups, shared_seeds = settings.comparisons.groups, settings.comparisons.shared_seeds
    students, bases = ({each.name: each for each in models if each.role == role} for role in (STUDENT, BASE))
    named: dict[Optional[str], list[str]] = {None: list(students)}
    if groups is not None:
        named = {name: list(members) for name, members in groups.items()}
        for name, members in named.items():
            if not members or len(set(members)) < len(members) or not set(members) <= set(students):
                raise ValueError(f"groups[{name!r}] must name some of the Students {list(students)}, each once; got {members}.")
    _check_seeds(shared_seeds, list(students), list(bases))
    if len(bases) < LEAST_BASES or settings.in_pairs:
        if groups is not None or shared_seeds:
            reason = '"unicam" maps do not allow it' if settings.in_pairs else "it needs two Bases of different seeds"
            raise ValueError(f"groups and shared_seeds belong to seed control, but {reason}; leave them out.")
        return []
    found = []
    base_names = list(bases)
    for name, members in named.items():
        pairs = [(members.index(s), base_names.index(b)) for s, b in shared_seeds if s in members]
        count = relabeling_count(len(members), len(bases), len(pairs))
        if count > MOST_RELABELINGS:
            raise ValueError(
                f"{len(members)} Students and {len(bases)} Bases can be relabeled in {count} ways, but seed control counts at "
                f"most {MOST_RELABELINGS}; leave some models out, or name fewer Students in groups."
            )
        found.append(SeedGroup(name, [students[member] for member in members] + list(bases.values()), len(members), pairs))
    return found


def _check_seeds(shared_seeds: Sequence[tuple[str, str]], students: list[str], bases: list[str]) -> None:
    for student, base in shared_seeds:
        if student not in students or base not in bases:
            pair = short_repr((student, base))
            raise ValueError(f"shared_seeds has the pair {pair}; expected a Student of {students} and a Base of {bases}.")
    for side, role in enumerate(("Student", "Base")):
        names = [pair[side] for pair in shared_seeds]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"shared_seeds names the {role} {twice[0]!r} twice; a seed is shared by one Student and one Base.")


def control_seeds(
    matrices: Mapping[str, Mapping[str, SeedScores]],
    groups: Sequence[SeedGroup],
    compared: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    has_placebos: bool = False,
) -> Optional[dict[str, Any]]:
    """The tests of all groups and the scores that they compare, or None without groups.

    The matrices hold, by question and layer, the scores of all ordered pairs of the compared models, or those of Students given
    several Bases by group; the rows are the report's.
    """
    if not groups:
        return None
    tests = []
    for number, group in enumerate(groups):
        places = torch.tensor([compared.index(key) for key in group.keys], device="cpu")
        for name, by_layer in matrices.items():
            scores = {
                label: each[places][:, places] if isinstance(each, Tensor) else each[number] for label, each in by_layer.items()
            }
            verdicts = seed_control(
                scores,
                group.students,
                name,
                shared_seeds=group.shared_seeds,
                likeness=_likeness(rows, group, BY_NAME[name], list(scores)) if BY_NAME[name].needs_likeness else None,
                has_placebos=has_placebos,
            )
            for verdict in verdicts:
                sentence = verdict.sentence if group.name is None else f"{group.name}, {verdict.sentence}"
                tests.append({"group": group.name, **verdict._asdict(), "sentence": sentence})
    return {
        "tests": tests,
        "groups": [group.recorded() for group in groups],
        "pairs": _pair_rows(matrices, groups, compared),
        "left_out": _left_out_rows(matrices, groups),
    }


def _left_out_rows(
    matrices: Mapping[str, Mapping[str, SeedScores]], groups: Sequence[SeedGroup]
) -> list[dict[str, Any]]:
    """One record for each question, layer, Base left out, and model that is scored given the other Bases."""
    rows: dict[tuple[str, str, str, str], float] = {}
    for score, by_layer in matrices.items():
        for layer, each in by_layer.items():
            for group, found in zip(groups, [] if isinstance(each, Tensor) else each):
                names = [model.name for model in group.models]
                for (place, name), base in product(enumerate(names), range(group.bases)):
                    if place < group.students or place == group.students + base:
                        rows[score, layer, name, names[group.students + base]] = float(found.scores[place, base])
    return [
        {"score": score, "layer": layer, "model": model, "left_out": base, "value": None if isnan(value) else value}
        for (score, layer, model, base), value in rows.items()
    ]


def _likeness(
    rows: Sequence[Mapping[str, Any]], group: SeedGroup, score: ReportScore, layers: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """By layer, the mean similarity of the group's Students and the Teacher, and of the Bases and the Teacher, over all pairs."""
    return {layer: mean_likeness(rows, score, {"layer": layer}, group.student_names) for layer in layers}


def mean_likeness(
    rows: Sequence[Mapping[str, Any]], score: ReportScore, key: Mapping[str, Any], students: Sequence[str]
) -> tuple[float, float]:
    """The means of a score's :attr:`ReportScore.likeness` over the rows of these Students that have the key."""
    of_students, of_bases = (
        [row["value"] for row in rows if row["score"] == name and row["student"] in students and key.items() <= row.items()]
        for name in score.likeness
    )
    known = [[value for value in values if value is not None] or [0.0] for values in (of_students, of_bases)]
    return float(mean(known[0])), float(mean(known[1]))


def _pair_rows(
    matrices: Mapping[str, Mapping[str, SeedScores]], groups: Sequence[SeedGroup], compared: Sequence[str]
) -> list[dict[str, Any]]:
    """One record for each question, layer and ordered pair of models that a test compares."""
    compared_names: dict[tuple[str, str], tuple[str, str]] = {}
    for group in groups:
        for model, given in product(group.models, repeat=2):
            if model.key != given.key and (model.role == BASE or given.role == BASE):
                compared_names[model.key, given.key] = model.name, given.name
    rows = []
    for score, by_layer in matrices.items():
        for layer, matrix in by_layer.items():
            if not isinstance(matrix, Tensor):
                continue
            for (key, given_key), (name, given_name) in compared_names.items():
                value = float(matrix[compared.index(key), compared.index(given_key)])
                found = None if isnan(value) else value
                rows.append({"score": score, "layer": layer, "model": name, "given": given_name, "value": found})
    return rows


def without_seed_control(models: Sequence[ComparedModel], explained_in_pairs: bool) -> str:
    """A note about the limits of a report without seed control."""
    if explained_in_pairs:
        return (
            "There is no seed control and no score given all Bases, because the features of a model differ between its pairs "
            'with localize="unicam". '
            "These rows hold for these trained models only. Use whole images or Grad-CAM to test whether another seed would "
            "have given the same result."
        )
    students, bases = (sum(each.role == role for each in models) for role in (STUDENT, BASE))
    return single_pair_sentence(students, bases)
