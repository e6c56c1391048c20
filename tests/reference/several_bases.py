"""Scores given several Bases, formula by formula: least squares on U-centered matrices, in float64."""

from itertools import combinations
from typing import Optional, Sequence

import torch
from torch import Tensor

from reference.literal import distances, inner, r, u_centered


def centered(features: Tensor) -> Tensor:
    return u_centered(distances(features.double().flatten(1)))


def left_of(p: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The residual of a regression, without intercept, of one matrix on others."""
    columns = torch.stack([each.flatten() for each in others], 1)
    solution = torch.linalg.lstsq(columns, p.flatten()[:, None], driver="gelsd").solution
    return p - (columns @ solution)[:, 0].view_as(p)


def joint_scores(
    student: Tensor, bases: Sequence[Tensor], labels: Tensor, teacher: Optional[Tensor] = None
) -> dict[str, float]:
    """All from features (n, ...); ``unique`` is the share of the Student's squared norm that is left."""
    s, g = centered(student), centered(labels)
    left = left_of(s, [centered(base) for base in bases])
    found = {"unique": inner(left, left) / inner(s, s), "rs_distilled_all": r(left, g)}
    if teacher is not None:
        t = centered(teacher)
        found["teacher_distilled_all"] = r(left, t)
        found["teacher_only_distilled_all"] = r(left, left_of(t, [g]))
    return {name: float(value) for name, value in found.items()}


def leave_one_out_statistic(
    models: Sequence[Tensor], students: Sequence[int], target: Tensor, partner: Optional[dict[int, int]] = None
) -> float:
    """Mean score of a Student given all Bases but one, minus that of the Base left out; all from centered matrices.

    A Student is left out where the Base of its own seed, its partner, is among those removed.
    """
    partner = partner or {}
    bases = [model for model in range(len(models)) if model not in students]
    own, null = [], []
    for b in bases:
        removed = [base for base in bases if base != b]
        null.append(r(left_of(models[b], [models[z] for z in removed]), target))
        own += [r(left_of(models[s], [models[z] for z in removed]), target) for s in students if partner.get(s) not in removed]
    return float(sum(own) / len(own) - sum(null) / len(null))


def leave_one_out_p_value(models: Sequence[Tensor], students: int, target: Tensor) -> tuple[float, float]:
    """The statistic of the first models as Students, and its place among all choices of Students."""
    every = [
        leave_one_out_statistic(models, chosen, target) for chosen in combinations(range(len(models)), students)
    ]
    return every[0], sum(value >= every[0] - 1e-10 for value in every) / len(every)
