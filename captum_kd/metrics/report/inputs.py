"""The part of a report on single inputs: their parts in the scores, and whether another seed repeats them."""

from __future__ import annotations

from itertools import product
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.metrics.inference import Score
from captum_kd.metrics.inference.input_parts import score_parts
from captum_kd.metrics.report.models import TEACHER_KEY, ComparedModel, Pair
from captum_kd.metrics.report.scores import LayerScores
from captum_kd.metrics.scores_table import BASE, LABELS, STUDENT

TARGETS = {"distilled": ("residual", LABELS), "teacher_distilled": ("teacher_residual", TEACHER_KEY)}
"""Columns of the parts of distilled features: the column of residual ones, and the target of both."""
REPEATED = 0.5
"""Below this reliability, most of the differences between inputs are those of the seeds."""
TOP = 0.1
PARTS_OF_INPUTS = (
    "Parts of inputs add up to the score; a part is no score of its own. Read an order of inputs only if another seed repeats it."
)
OF_SHUFFLED_INPUTS = (
    "Inputs are numbered in the order in which the loader yielded them, and it shuffles: these numbers are not the places in the "
    "data set. Use shuffle=False to find an input."
)

Parts = dict[str, dict[tuple[str, str], Tensor]]
"""By target, the parts (n,) of all inputs in the score of a model given another one, by their keys; undefined ones are absent."""


class StudentGroup(NamedTuple):
    """Students whose parts are averaged."""

    name: Optional[str]
    students: Sequence[str]


def layer_parts(layer: LayerScores, pairs: Sequence[Pair]) -> Parts:
    """The parts of all inputs at a layer, for each Student and Base in both directions, and for each two Bases."""
    ordered = dict.fromkeys(
        each for pair in pairs for each in ((pair.student.key, pair.bases[0].key), (pair.bases[0].key, pair.student.key))
    )
    if all(pair.student.given is None for pair in pairs):
        bases = list(dict.fromkeys(pair.bases[0].key for pair in pairs))
        ordered |= dict.fromkeys((one, other) for one, other in product(bases, repeat=2) if one != other)
    found: Parts = {}
    rows = layer.products.rows()
    for target in [LABELS] * layer.has_labels + [TEACHER_KEY] * layer.has_teacher:
        found[target] = {}
        for key in ordered:
            if (parts := score_parts(layer.products, rows, Score(key, target))) is not None:
                found[target][key] = parts.cpu()
    return found


def input_report(
    by_layer: Mapping[str, Parts],
    pairs: Sequence[Pair],
    groups: Optional[Mapping[str, Sequence[str]]],
    shared_seeds: Sequence[tuple[str, str]],
    labels: Optional[Tensor],
    n: int,
) -> dict[str, Any]:
    """Each input's mean parts over the pairs of each group of Students, and their agreement between seeds.

    Args:
        by_layer (mapping): the parts at each layer.
        pairs (sequence of Pair): the pairs with one Base.
        groups (mapping, optional): names of Students by group; None for one group of all.
        shared_seeds (sequence of (str, str)): (Student, Base) of the same seed.
        labels (Tensor, optional): (n,) labels of all inputs.
        n (int): number of inputs.
    """
    names = list(dict.fromkeys(pair.student.of.name for pair in pairs))
    of_groups = [StudentGroup(None, names)] if groups is None else [StudentGroup(*each) for each in groups.items()]
    seeds = _seeds([each for pair in pairs for each in (pair.student.of, pair.bases[0].of)], shared_seeds)
    rows: list[dict[str, Any]] = []
    reliability: list[dict[str, Any]] = []
    label_of = [None] * n if labels is None else labels.tolist()
    for group, (layer, parts) in product(of_groups, by_layer.items()):
        own = [pair for pair in pairs if pair.student.of.name in group.students]
        columns: dict[str, list[Optional[float]]] = {}
        for column, (reverse, target) in TARGETS.items():
            if target not in parts:
                continue
            distilled = {(pair.student.of.key, pair.bases[0].of.key): (pair.student.key, pair.bases[0].key) for pair in own}
            chosen = {key: parts[target][place] for key, place in distilled.items() if place in parts[target]}
            residual = [parts[target][place[::-1]] for place in distilled.values() if place[::-1] in parts[target]]
            columns[column], columns[reverse] = _mean(list(chosen.values()), n), _mean(residual, n)
            null = {key: each for key, each in parts[target].items() if all(name.startswith(f"{BASE}:") for name in key)}
            reliability.append(_reliability(group.name, layer, column, chosen, null, seeds))
        start = {"group_of_students": group.name, "layer": layer}
        rows += [
            {**start, "input": place, "label": label, **{name: values[place] for name, values in columns.items()}}
            for place, label in enumerate(label_of)
        ]
    return {"rows": rows, "reliability": reliability}


def _mean(parts: Sequence[Tensor], n: int) -> list[Optional[float]]:
    """Mean parts over pairs; None without a pair whose score is defined."""
    return torch.stack(list(parts)).mean(0).tolist() if parts else [None] * n


def _seeds(models: Sequence[ComparedModel], shared: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The number of each model's seed, by key; a Student and a Base that share a seed have one number."""
    found = {key: place for place, key in enumerate(dict.fromkeys(each.key for each in models))}
    for student, base in shared:
        found[f"{STUDENT}:{student}"] = found[f"{BASE}:{base}"]
    return found


def _reliability(
    group: Optional[str],
    layer: str,
    column: str,
    parts: Mapping[tuple[str, str], Tensor],
    null: Mapping[tuple[str, str], Tensor],
    seeds: Mapping[str, int],
) -> dict[str, Any]:
    """The agreement of the parts between pairs of models without a common seed; of two Bases as null.

    The rows hold means over pairs, which are more reliable than single pairs. With m disjoint pairs of single correlation r, the
    formula of Spearman (1910) gives m r / (1 + (m - 1) r) for their mean. A mean over all pairs is at least as reliable.
    """
    correlation, top_share, count = _agreement(parts, seeds)
    null_correlation, null_top_share, null_count = _agreement(null, seeds)
    reliability = null_reliability = None
    if correlation is not None:
        disjoint = min(len(set(names)) for names in zip(*parts))
        reliability = _of_mean(correlation, disjoint)
        null_reliability = None if null_correlation is None else _of_mean(null_correlation, disjoint)
    found: dict[str, Any] = {
        "group_of_students": group,
        "layer": layer,
        "score": column,
        "correlation": correlation,
        "reliability": reliability,
        "comparisons": count,
        "null_correlation": null_correlation,
        "null_reliability": null_reliability,
        "null_comparisons": null_count,
        "top_share": top_share,
        "null_top_share": null_top_share,
    }
    found["is_repeated"] = reliability is not None and reliability >= REPEATED
    return {**found, "sentence": _in_words(found)}


def _of_mean(correlation: float, pairs: int) -> float:
    """The correlation of means over this many disjoint pairs, from that of single pairs."""
    single = max(correlation, 0.0)
    return pairs * single / (1 + (pairs - 1) * single)


def _agreement(
    parts: Mapping[tuple[str, str], Tensor], seeds: Mapping[str, int]
) -> tuple[Optional[float], Optional[float], int]:
    """Mean correlation between pairs without a common seed; the share of a pair's score that the top inputs of another such pair
    have, which selection does not inflate; and the number of comparisons."""
    of_pairs = [(frozenset(seeds[name] for name in key), each) for key, each in parts.items()]
    of_pairs = [(own, each) for own, each in of_pairs if len(own) == 2]
    if not of_pairs:
        return None, None, 0
    values = torch.stack([each for _, each in of_pairs])
    apart = torch.tensor([[not own & other for other, _ in of_pairs] for own, _ in of_pairs], device="cpu")
    count = int(apart.sum()) // 2
    if count == 0:
        return None, None, 0
    moved = values - values.mean(1, keepdim=True)
    norms = moved.norm(dim=1)
    correlations = moved @ moved.T / torch.where(norms > 0, norms, torch.inf).outer(norms.clamp(min=1e-300))
    top = values.argsort(1, descending=True)[:, : max(1, round(TOP * values.shape[1]))]
    of_top = torch.stack([values[:, chosen].sum(1) for chosen in top])  # (selecting pair, other pair)
    total = float((values.sum(1).expand_as(of_top) * apart).sum())
    share = float((of_top * apart).sum()) / total if total > 0 else None
    return float(correlations[apart].mean()), share, count


def _in_words(found: Mapping[str, Any]) -> str:
    start = "" if found["group_of_students"] is None else f"{found['group_of_students']}, "
    start += f"{found['layer']}, {found['score']}: "
    own, null = found["correlation"], found["null_correlation"]
    if own is None:
        return (
            f"{start}it is unknown whether another seed has the same inputs on top, since that needs two Students and two Bases "
            "of different seeds. Do not read the order of the inputs as a finding."
        )
    compared = "a null needs four Bases" if null is None else f"Bases given other Bases: {found['null_reliability']:.2f}"
    compared += f"; single pairs {own:.2f}" + ("" if null is None else f" and {null:.2f}")
    answer = f"these means over pairs would correlate about {found['reliability']:.2f} with those of other seeds ({compared})."
    if not found["is_repeated"]:
        answer += " Most of the differences between inputs come from the seeds."
    elif null is not None and own <= null:
        answer += " Bases given other Bases repeat their order as well, so this is no sign of distillation."
    if found["is_repeated"] and found["top_share"] is not None:
        answer += (
            f" The tenth of the inputs that is on top in one pair has {found['top_share']:.0%} of the score of another pair "
            "(a tenth at random: 10%)."
        )
    return start + answer
