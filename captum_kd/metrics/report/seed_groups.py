"""Seed control in a report: the groups of models that are compared, and the results."""

from __future__ import annotations

from itertools import product
from math import isnan
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import short_repr
from captum_kd.metrics.inference import seed_control, single_pair_sentence
from captum_kd.metrics.inference.seed_tests import MOST_RELABELINGS, relabeling_count
from captum_kd.metrics.report.models import BASE, STUDENT, ComparedModel

__all__ = ["SeedGroup", "as_seed_groups", "control_seeds", "without_seed_control"]

LEAST_BASES = 2
"""The null compares Bases with each other."""


class SeedGroup(NamedTuple):
    """Students that are compared with all Bases.

    Attributes:
        name (str, optional): the group's, None where it is the only one.
        models (list of Subject): Students first, then Bases.
        students (int): number of Students.
        shared_seeds (list of (int, int)): (place among the Students, place among the Bases).
    """

    name: Optional[str]
    models: list[ComparedModel]
    students: int
    shared_seeds: list[tuple[int, int]]

    @property
    def keys(self) -> list[str]:
        return [model.key for model in self.models]

    def short_repr(self) -> dict[str, Any]:
        names = [model.name for model in self.models]
        students, bases = names[: self.students], names[self.students :]
        return {
            "group": self.name,
            "students": students,
            "bases": bases,
            "shared_seeds": [[students[s], bases[b]] for s, b in self.shared_seeds],
        }


def as_seed_groups(
    subjects: Sequence[ComparedModel],
    groups: Optional[Mapping[str, Sequence[str]]],
    shared_seeds: Sequence[tuple[str, str]],
    *,
    explained_in_pairs: bool,
) -> list[SeedGroup]:
    """The groups that can be tested; none without a second Base.

    Raises:
        TypeError: groups that are no mapping of names, shared seeds that are no pairs of names.
        ValueError: names of no Student or Base, a model in two pairs of shared seeds, too many relabelings, or
            groups and shared seeds where no seed control is possible.
    """
    students, bases = ({each.name: each for each in subjects if each.role == role} for role in (STUDENT, BASE))
    named = {None: list(students)} if groups is None else _checked_groups(groups, students)
    shared = _checked_seeds(shared_seeds, students, bases)
    if len(bases) < LEAST_BASES or explained_in_pairs:
        if groups is not None or shared:
            reason = "localize='unicam' allows none" if explained_in_pairs else "it needs two Bases of different seeds"
            raise ValueError(f"groups and shared_seeds are for seed control, but {reason}; leave them out.")
        return []
    found = []
    base_names = list(bases)
    for name, members in named.items():
        pairs = [(members.index(s), base_names.index(b)) for s, b in shared if s in members]
        count = relabeling_count(len(members), len(bases), len(pairs))
        if count > MOST_RELABELINGS:
            raise ValueError(
                f"{len(members)} Students and {len(bases)} Bases can be relabeled in {count} ways, more than seed control "
                f"counts one by one ({MOST_RELABELINGS}); leave some models out, or name fewer Students in groups."
            )
        models = [students[member] for member in members] + list(bases.values())
        found.append(SeedGroup(name, models, len(members), pairs))
    return found


def _checked_groups(
    groups: Mapping[str, Sequence[str]], students: Mapping[str, ComparedModel]
) -> dict[Optional[str], list[str]]:
    if not isinstance(groups, Mapping) or any(isinstance(members, str) for members in groups.values()):
        raise TypeError(
            f"groups must be {{name: names of Students}}, a list of names for each group, got {short_repr(groups)}."
        )
    if not groups:
        raise ValueError("groups is an empty mapping; leave it out, or name at least one group of Students.")
    for name, members in groups.items():
        if not isinstance(members, (list, tuple)):
            raise TypeError(f"groups[{name!r}] must be a list of Students' names, got {type(members).__name__}.")
        unknown = [member for member in members if member not in students]
        if unknown or not members or len(set(members)) < len(members):
            raise ValueError(
                f"groups[{name!r}] must name some of the Students {list(students)}, each once; got {list(members)}."
            )
    return {name: list(members) for name, members in groups.items()}


def _checked_seeds(
    shared_seeds: Sequence[tuple[str, str]], students: Mapping[str, ComparedModel], bases: Mapping[str, ComparedModel]
) -> list[tuple[str, str]]:
    if not isinstance(shared_seeds, (list, tuple)):
        raise TypeError(
            f"shared_seeds must be a list of pairs (Student, Base) of names, got {type(shared_seeds).__name__}."
        )
    checked = []
    for pair in shared_seeds:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"shared_seeds must hold pairs (name of a Student, name of a Base), got {pair!r}.")
        if pair[0] not in students or pair[1] not in bases:
            raise ValueError(
                f"shared_seeds has the pair {short_repr(tuple(pair))}; expected a Student of {list(students)} and a Base of "
                f"{list(bases)}."
            )
        checked.append((pair[0], pair[1]))
    for side, role in enumerate(("Student", "Base")):
        names = [pair[side] for pair in checked]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"shared_seeds names the {role} {twice[0]!r} twice; a seed is shared by one Student and one Base.")
    return checked


def control_seeds(
    matrices: Mapping[str, Mapping[str, Tensor]], groups: Sequence[SeedGroup], compared: Sequence[str]
) -> Optional[dict[str, Any]]:
    """The tests of all groups and the scores that they compare, None where there are no groups.

    Args:
        matrices (mapping): by question and layer, the scores of all ordered pairs of models.
        groups (sequence of SeedGroup): from :func:`as_seed_groups`.
        compared (sequence of str): keys of the matrices' models, in their order.
    """
    if not groups:
        return None
    tests = []
    for group in groups:
        places = torch.tensor([compared.index(key) for key in group.keys], device="cpu")
        for name, by_layer in matrices.items():
            scores = {label: matrix[places][:, places] for label, matrix in by_layer.items()}
            for verdict in seed_control(scores, group.students, name, shared_seeds=group.shared_seeds):
                sentence = verdict.sentence if group.name is None else f"{group.name}, {verdict.sentence}"
                tests.append({"group": group.name, **verdict._asdict(), "sentence": sentence})
    return {
        "tests": tests,
        "groups": [group.short_repr() for group in groups],
        "pairs": _pair_rows(matrices, groups, compared),
    }


def _pair_rows(
    matrices: Mapping[str, Mapping[str, Tensor]], groups: Sequence[SeedGroup], compared: Sequence[str]
) -> list[dict[str, Any]]:
    """One record for each question, layer and ordered pair of models that a test compares."""
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for group in groups:
        for model, given in product(group.models, repeat=2):
            if model.key != given.key and (model.role == BASE or given.role == BASE):
                asked[model.key, given.key] = model.name, given.name
    rows = []
    for score, by_layer in matrices.items():
        for layer, matrix in by_layer.items():
            for (key, given_key), (name, given_name) in asked.items():
                value = float(matrix[compared.index(key), compared.index(given_key)])
                found = None if isnan(value) else value
                rows.append({"score": score, "layer": layer, "model": name, "given": given_name, "value": found})
    return rows


def without_seed_control(subjects: Sequence[ComparedModel], explained_in_pairs: bool) -> str:
    """What a report without seed control does not show, in one sentence."""
    if explained_in_pairs:
        return (
            'No seed control: with localize="unicam" each model is explained anew beside every other one, so its '
            "features differ from pair to pair. These rows hold for these trained models alone; use whole images or "
            "Grad-CAM to ask whether another seed would have shown the same."
        )
    students, bases = (sum(each.role == role for each in subjects) for role in (STUDENT, BASE))
    return single_pair_sentence(students, bases)
