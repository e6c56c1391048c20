"""The rows of a report, from the summaries of its layers."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from torch import Tensor

from captum_kd.metrics.inference import QUESTIONS, transfer_scores
from captum_kd.metrics.report.aggregation import LayerSummary, Population, Question
from captum_kd.metrics.report.collect import Pair, FeatureSet
from captum_kd.metrics.report.models import BASE, STUDENT, TEACHER
from captum_kd.metrics.report.scores import Estimate, is_of_a_remainder

__all__ = ["report_rows"]


def report_rows(
    question: Question, aggregator: Population
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Tensor]], list[str]]:
    """The report's records, the score matrices of seed control by question and layer, and what was not defined."""
    summaries = dict(zip(question.labels, aggregator.layers(question)))
    n = sum(aggregator.counts.values())
    has_teacher = any(view.subject.role == TEACHER for view in question.views)
    names = list(transfer_scores(teacher=TEACHER if has_teacher else None))
    rows: list[dict[str, Any]] = []
    undefined: list[str] = []
    for place, pair in enumerate(question.pairs):
        for label, summary in summaries.items():
            found: dict[str, Optional[Estimate]] = {name: summary.estimates[place].get(name) for name in names}
            found |= _progressions(summary, pair, question.views)
            for score, estimate in found.items():
                rows.append(
                    {
                        "student": pair.student.subject.name,
                        "base": pair.base.subject.name,
                        "layer": label,
                        "score": score,
                        "value": None if estimate is None else estimate.value,
                        "low": None if estimate is None else estimate.low,
                        "high": None if estimate is None else estimate.high,
                        "p_value": None if estimate is None else estimate.p_value,
                        "n": n if estimate is None or estimate.n is None else estimate.n,
                        "unique_share": summary.unique_shares[place] if is_of_a_remainder(score) else None,
                    }
                )
                if estimate is not None and not estimate.is_defined:
                    undefined.append(f"{score} at {label}{_of_models(score, pair)}")
    matrices = {
        name: {label: summary.matrices[name] for label, summary in summaries.items() if name in summary.matrices}
        for name in QUESTIONS
    }
    return rows, {name: by_layer for name, by_layer in matrices.items() if by_layer}, list(dict.fromkeys(undefined))


def _of_models(score: str, pair: Pair) -> str:
    """The models that a score is of, in words: every pair of a model repeats the model's own scores."""
    student, base = pair.student.subject.name, pair.base.subject.name
    if score in ("rs_student", "fss_student_teacher", "progression_student"):
        return f" ({student})"
    if score in ("rs_base", "fss_base_teacher", "progression_base"):
        return f" ({base})"
    return "" if score in ("rs_teacher", "progression_teacher") else f" ({student}, {base})"


def _progressions(summary: LayerSummary, pair: Pair, views: Sequence[FeatureSet]) -> dict[str, Optional[Estimate]]:
    if not summary.progressions:
        return {}
    keys = {STUDENT: pair.student.key, BASE: pair.base.key}
    keys |= {TEACHER: view.key for view in views if view.subject.role == TEACHER}
    return {f"progression_{role}": summary.progressions[key] for role, key in keys.items()}
