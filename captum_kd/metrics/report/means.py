"""Scores of a report that are means over inputs: of predictions, which have no layer, and of explanations."""

from __future__ import annotations

from typing import Any, Optional, Protocol, Sequence

import torch
from torch import Tensor

from captum_kd.metrics.inference.means import MeanEstimate, mean_estimate
from captum_kd.metrics.report.models import Pair
from captum_kd.metrics.scores_table import ReportScore


class InputValues(Protocol):
    """Values of single inputs, whose means are scores of a report.

    Attributes:
        scores (sequence of ReportScore): the scores, in the order of the rows.
        layers (sequence of str): the layers in the rows.
    """

    @property
    def scores(self) -> Sequence[ReportScore]: ...

    @property
    def layers(self) -> Sequence[str]: ...

    def values(self, score: str, layer: str, student: str, base: str) -> Tensor:
        """(n,) float64 values of a Student and a Base, by their keys; NaN where undefined."""

    def gains(self, layer: str, student: str, base: str) -> Tensor:
        """(1 + placebos, n) agreement of the Student minus that of the Base, with the Teacher and with each placebo Teacher."""


def estimates_of(
    of: InputValues,
    score: ReportScore,
    layer: str,
    pair: Pair,
    confidence: Optional[float],
    selections: Sequence[Optional[Tensor]] = (None,),
) -> list[MeanEstimate]:
    """A score of a pair with one Base, over all inputs or over each selection of them, by their indices."""
    values = of.values(score.name, layer, pair.student.of.key, pair.bases[0].of.key)
    return [
        mean_estimate(values if rows is None else values[rows], confidence, score.bounds, tested=score.test is not None)
        for rows in selections
    ]


def mean_rows(of: InputValues, pair: Pair, confidence: Optional[float]) -> list[dict[str, Any]]:
    """The report's rows of a pair."""
    if pair.has_all_bases:
        return []
    found = []
    for layer in of.layers:
        for score in of.scores:
            names = {"student": pair.student.of.name, "base": pair.base_name, "layer": layer, "score": score.name}
            (estimate,) = estimates_of(of, score, layer, pair, confidence)
            found.append({**names, **estimate._asdict(), "unique_share": None})
    return found


def placebo_gains(of: InputValues, pairs: Sequence[Pair]) -> dict[tuple[str, str], list[Tensor]]:
    """By score and layer, the mean gains (1 + placebos,) of each pair with one Base; NaN if no input has all of them."""
    found = {}
    for score in of.scores:
        for layer in of.layers if score.share is not None else ():
            gains = [of.gains(layer, pair.student.of.key, pair.bases[0].of.key) for pair in pairs if not pair.has_all_bases]
            found[score.share, layer] = [each[:, each.isfinite().all(0)].mean(1) for each in gains]
    return found  # type: ignore[return-value]


def mean_matrices(
    of: InputValues, compared: Sequence[str], selections: Sequence[Optional[Tensor]] = (None,)
) -> dict[str, dict[str, list[Tensor]]]:
    """By question and layer, the scores of all ordered pairs of models that seed control compares: over all inputs, or over each
    selection of them, by their indices."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for score in of.scores if compared else ():
        for layer in of.layers if score.question is not None else ():
            matrices = torch.zeros(len(selections), len(compared), len(compared), dtype=torch.float64, device="cpu")
            for i, student in enumerate(compared):
                for j, base in enumerate(compared):
                    if i != j:
                        values = of.values(score.name, layer, student, base)
                        for place, rows in enumerate(selections):
                            own = values if rows is None else values[rows]
                            matrices[place, i, j] = own[own.isfinite()].mean()  # NaN without a defined value
            found.setdefault(score.name, {})[layer] = list(matrices)
    return found
