"""The scores of classes, or other groups of inputs, at one layer."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd.metrics.inference import Score, transfer_scores
from captum_kd.metrics.inference.class_products import ONE_CLASS, OneAgainstRest
from captum_kd.metrics.inference.class_shares import ClassRows, left_out_rows
from captum_kd.metrics.inference.class_sides import Sides
from captum_kd.metrics.inference.jackknife import JackknifeEstimate, estimate_of, leaves_room
from captum_kd.metrics.report.models import TEACHER_KEY, Pair
from captum_kd.metrics.report.scores import LayerScores
from captum_kd.metrics.scores_table import BY_NAME

RELEVANCE_OF_GROUP = ("rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_teacher")
"""Scores of one group against the rest."""
SHARES_OF_GROUP = ("teacher_distilled", "teacher_residual")
"""Scores within the group's rows."""
QUESTIONS_OF_GROUP = ("rs_distilled", "teacher_distilled")
"""Scores that seed control compares."""
OfGroup = Union[OneAgainstRest, ClassRows]


class GroupScores(NamedTuple):
    """The scores of one group at one layer.

    Attributes:
        estimates (list of dict): the estimates of each pair with one Base, by the score's name; without undefined scores.
        matrices (dict): scores of all ordered pairs of models that seed control compares, by question.
        likeness (dict): within the group's rows, the similarity of each compared model and the Teacher, by the model's key.
    """

    estimates: list[dict[str, JackknifeEstimate]]
    matrices: dict[str, Tensor]
    likeness: dict[str, float]


def group_scores(layer: LayerScores, pairs: Sequence[Pair], compared: Sequence[str]) -> dict[int, GroupScores]:
    """The scores of each group that is large enough.

    Args:
        layer (LayerScores): the layer's products and sums.
        pairs (sequence of Pair): the pairs with one Base.
        compared (sequence of str): keys of the models that seed control compares.
    """
    groups = layer.input_groups
    if groups is None or not groups.large:
        return {}
    keys = list(dict.fromkeys(each.key for pair in pairs for each in (pair.student, *pair.bases)))
    keys += [TEACHER_KEY] * layer.has_teacher
    products = layer.products._of(keys)
    sums = layer.sums.of(*(layer.products.names.index(key) for key in keys))
    assert sums.by_class is not None
    sides = Sides(products)
    without: Iterator[Tensor] = iter(())
    if layer.has_teacher and layer.settings.confidence is not None:
        sources, columns = [layer.sources[key] for key in keys], groups.columns(products.full.device)
        without = left_out_rows(sources, sums, columns, block_size=layer.block_size, tile_iterator=layer.tile_iterator)
    found = {}
    for place, name in enumerate(groups.large):
        members = groups.members(name).to(products.full.device)
        scored: list[tuple[tuple[str, ...], OfGroup]] = []
        if groups.has_rest(name):
            scored.append((RELEVANCE_OF_GROUP, OneAgainstRest(sides, sums.by_class[..., place], members)))
        if layer.has_teacher:
            scored.append((SHARES_OF_GROUP, ClassRows(sides, members, next(without, None))))
        found[name] = _scores_of_group(layer, scored, pairs, compared)
    return found


def _scores_of_group(
    layer: LayerScores,
    scored: Sequence[tuple[tuple[str, ...], OfGroup]],
    pairs: Sequence[Pair],
    compared: Sequence[str],
) -> GroupScores:
    estimates: list[dict[str, JackknifeEstimate]] = [{} for _ in pairs]
    matrices: dict[str, Tensor] = {}
    likeness: dict[str, float] = {}
    known: dict[Score, Optional[JackknifeEstimate]] = {}  # all pairs of a model share its own scores
    for names, of_group in scored:
        for found, pair in zip(estimates, pairs):
            teacher = TEACHER_KEY if layer.has_teacher else None
            sides = transfer_scores(pair.student.key, pair.base, labels=ONE_CLASS, teacher=teacher)
            for name in (each for each in names if each in sides):
                score = sides[name]
                if score not in known:
                    known[score] = _estimate(layer, of_group, score, BY_NAME[name].test == "jackknife")
                if (estimate := known[score]) is not None:
                    found[name] = estimate
        for name in (each for each in QUESTIONS_OF_GROUP if each in names and compared):
            target = ONE_CLASS if isinstance(of_group, OneAgainstRest) else TEACHER_KEY
            matrices[name] = torch.zeros(len(compared), len(compared), dtype=torch.float64, device="cpu")
            for i, first in enumerate(compared):
                if target == TEACHER_KEY:
                    likeness[first] = of_group.score(Score(first, TEACHER_KEY))[0]
                for j, second in enumerate(compared):
                    if i != j:
                        value, defined = of_group.score(Score((first, second), target))
                        matrices[name][i, j] = value if defined else float("nan")
    return GroupScores(estimates, matrices, likeness)


def _estimate(layer: LayerScores, of_group: OfGroup, score: Score, tested: bool) -> Optional[JackknifeEstimate]:
    """None if the score is undefined."""
    value, defined = of_group.score(score)
    if not defined:
        return None
    found, confidence = JackknifeEstimate(value, None, None, None, None), layer.settings.confidence
    if confidence is not None:
        values, all_defined = of_group.leave_one_out(score)
        if all_defined and leaves_room(len(values), score):
            found = estimate_of(value, values, confidence, 1.0, layer.dependent)
    return found if tested and not layer.settings.maps_use_labels else found._replace(p_value=None)
