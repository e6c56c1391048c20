"""The rows of a report, from the summaries of its layers."""

from __future__ import annotations

from math import isnan
from typing import Any, Mapping, NamedTuple, Optional

from torch import Tensor

from captum_kd.metrics.inference import QUESTIONS
from captum_kd.metrics.report.aggregation import Aggregator, LayerSummary, ReportPlan
from captum_kd.metrics.report.classes import class_report
from captum_kd.metrics.report.inputs import input_report
from captum_kd.metrics.report.explanation_scores import ExplanationScores
from captum_kd.metrics.report.means import mean_matrices, mean_rows, placebo_gains
from captum_kd.metrics.report.models import TEACHER_KEY, Pair
from captum_kd.metrics.report.predictions import PredictionScores
from captum_kd.metrics.report.scores import Estimate
from captum_kd.metrics.report.seed_groups import SeedScores
from captum_kd.metrics.scores_table import (
    BASE,
    BASES,
    PLACEBO,
    PROGRESSION,
    SCORES,
    STUDENT,
    TEACHER,
    ReportScore,
    scores_of_pair,
)


class ReportRows(NamedTuple):
    """The contents of a report.

    Attributes:
        rows (list of dict): the records.
        matrices (dict): the scores of seed control, by question and layer.
        undefined (list of str): the undefined scores.
        placebo_shares (dict): by layer, the shares of the Teacher and of placebo Teachers for each pair with one Base, see
            :meth:`LayerScores.placebo_shares`.
        placebo_gains (dict): by score and layer, the gains in agreement with each of them, see :func:`placebo_gains`.
        classes, inputs (dict, optional): the parts on groups of inputs and on single inputs.
        similarities (dict, optional): see :class:`TransferReport`.
    """

    rows: list[dict[str, Any]]
    matrices: dict[str, dict[str, SeedScores]]
    undefined: list[str]
    placebo_shares: dict[str, list[Tensor]]
    placebo_gains: dict[tuple[str, str], list[Tensor]]
    classes: Optional[dict[str, Any]]
    inputs: Optional[dict[str, Any]]
    similarities: Optional[dict[str, Any]]


def report_rows(
    plan: ReportPlan,
    aggregator: Aggregator,
    predictions: Optional[PredictionScores] = None,
    explained: Optional[ExplanationScores] = None,
) -> ReportRows:
    """The report's contents from its layers' summaries, its predictions and the agreement of explanations."""
    summaries = dict(zip(plan.labels, aggregator.layers()))
    n, has_labels = aggregator.n, plan.settings.comparisons.labels
    has_teacher, has_placebos = (any(each.of.role == role for each in plan.sets) for role in (TEACHER, PLACEBO))
    of_pair = scores_of_pair(has_teacher, has_placebos, has_labels=has_labels)
    if plan.progression:
        of_pair += [each for each in SCORES if each.kind == PROGRESSION and (has_teacher or not each.needs_teacher)]
    given_all = scores_of_pair(has_teacher, all_bases=True, has_labels=has_labels)
    rows: list[dict[str, Any]] = []
    undefined: list[str] = []
    for place, pair in enumerate(plan.pairs):
        scores = given_all if pair.has_all_bases else of_pair
        for label, summary in summaries.items():
            for score in scores:
                estimate = _estimate(summary, place, pair, score)
                rows.append(
                    {
                        "student": pair.student.of.name,
                        "base": pair.base_name,
                        "layer": label,
                        "score": score.name,
                        "value": None if estimate is None else estimate.value,
                        "low": None if estimate is None else estimate.low,
                        "high": None if estimate is None else estimate.high,
                        "p_value": None if estimate is None else estimate.p_value,
                        "n": n if estimate is None or estimate.n is None else estimate.n,
                        "unique_share": summary.unique_shares[place] if score.has_removal else None,
                    }
                )
                if estimate is not None and not estimate.is_defined:
                    undefined.append(f"{score.name} at {label}{_of_models(score, pair)}")
        if predictions is not None:
            rows += mean_rows(predictions, pair, plan.settings.confidence) + predictions.calibration_rows(pair)
        if explained is not None:
            rows += mean_rows(explained, pair, plan.settings.confidence)
    matrices: dict[str, dict[str, SeedScores]] = {
        name: {label: summary.matrices[name] for label, summary in summaries.items() if name in summary.matrices}
        for name in QUESTIONS
    }
    matrices = {name: by_layer for name, by_layer in matrices.items() if by_layer}
    gains: dict[tuple[str, str], list[Tensor]] = {}
    for of_inputs in (predictions, explained):
        if of_inputs is not None:
            gains |= placebo_gains(of_inputs, plan.pairs) if has_placebos else {}
            for name, by_layer in mean_matrices(of_inputs, plan.compared).items():
                matrices[name] = {layer: of_all for layer, (of_all,) in by_layer.items()}
    shares = {label: summary.placebo_shares for label, summary in summaries.items()}
    classes = inputs = None
    if aggregator.input_groups is not None:
        of_layers = {label: summary.groups for label, summary in summaries.items()}
        classes = class_report(
            aggregator.input_groups,
            of_layers,
            [each for each in (predictions, explained) if each is not None],
            plan.of_one_base,
            plan.seed_groups,
            plan.compared,
            plan.settings.confidence,
            has_teacher,
            has_placebos,
        )
    if plan.settings.by_input:
        parts, comparisons = {label: summary.parts for label, summary in summaries.items()}, plan.settings.comparisons
        inputs = input_report(
            parts, plan.of_one_base, comparisons.groups, comparisons.shared_seeds, aggregator.labels, aggregator.n
        )
    similarities = _similarities(plan, summaries)
    return ReportRows(rows, matrices, list(dict.fromkeys(undefined)), shares, gains, classes, inputs, similarities)


def _similarities(plan: ReportPlan, summaries: Mapping[str, LayerSummary]) -> Optional[dict[str, Any]]:
    if not plan.models:
        return None
    layers = {
        label: [[None if isnan(value) else value for value in row] for row in each.similarities.tolist()]
        for label, each in summaries.items()
        if each.similarities is not None
    }
    return {"models": [each.name for each in plan.models], "roles": [each.role for each in plan.models], "layers": layers}


def _estimate(summary: LayerSummary, place: int, pair: Pair, score: ReportScore) -> Optional[Estimate]:
    """None for a score that is defined in no mini-batch."""
    if score.kind != PROGRESSION:
        return summary.estimates[place].get(score.name)
    keys = {STUDENT: pair.student.key, BASE: pair.bases[0].key, TEACHER: TEACHER_KEY}
    return summary.progressions[keys[score.x[0]]]


def _of_models(score: ReportScore, pair: Pair) -> str:
    """The Student and the Base in parentheses, or only the model that the score describes."""
    names = {STUDENT: pair.student.of.name, BASE: pair.base_name, BASES: pair.base_name}
    models = [name for role, name in names.items() if role in score.x + score.y]
    return f" ({', '.join(models)})" if models else ""
