"""Scores of predictions in a report, from the logits of the passes that also give the features."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence, Union

from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd._utils.validation import check_bool, short_repr
from captum_kd.metrics.predictions import BINS, PredictionValues, check_temperature
from captum_kd.metrics.report.models import TEACHER_KEY, ComparedModel, Pair
from captum_kd.metrics.scores_table import (
    BASE,
    PLACEBO,
    PREDICTIONS_LAYER,
    STUDENT,
    TEACHER,
    ReportScore,
    prediction_scores,
)

_ECE = "ece_"


@dataclass(frozen=True)
class Predictions:
    """Options for the scores of predictions in a report.

    Args:
        temperature (float, optional): Logits are divided by it before the divergences (KL, JS) are taken.

    Raises:
        ValueError: a temperature that is not positive.

    Example::

        >>> report = compare_transfer(student, base, ["layer4"], loader, teacher=teacher, predictions=Predictions(4.0))
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", check_temperature(self.temperature))


def as_predictions(predictions: Union[bool, Predictions]) -> Optional[Predictions]:
    """The argument ``predictions`` as :class:`Predictions`, or None for False."""
    if isinstance(predictions, Predictions):
        return predictions
    if not isinstance(predictions, bool):
        raise TypeError(f"predictions must be True, False or a captum_kd.metrics.Predictions, got {short_repr(predictions)}.")
    return Predictions() if check_bool(predictions, "predictions") else None


class PredictionScores:
    """The predictions of all models of a report.

    Attributes:
        scores (list of ReportScore): means of values of single inputs.
        layers (tuple of str): the layer in their rows.

    Raises:
        ValueError: one of the report's layers has the same label.
    """

    layers = (PREDICTIONS_LAYER,)

    def __init__(
        self, models: Sequence[ComparedModel], options: Predictions, has_labels: bool, layers: Sequence[str] = ()
    ) -> None:
        if PREDICTIONS_LAYER in layers:
            raise ValueError(
                f"The rows of predictions have the layer {PREDICTIONS_LAYER!r}, but layers names one {PREDICTIONS_LAYER!r} too; "
                f"give that one another label, for example layers={{'last': {PREDICTIONS_LAYER!r}}}."
            )
        students, bases, placebos = ([each.key for each in models if each.role == role] for role in (STUDENT, BASE, PLACEBO))
        has_teacher = any(each.role == TEACHER for each in models)
        pairs = [(student, base) for student in students for base in bases]
        self.options = options
        self._models = [*students, *bases, *[TEACHER_KEY] * has_teacher]
        self._values = PredictionValues(pairs, TEACHER_KEY if has_teacher else None, placebos, options.temperature)
        every = prediction_scores(True, has_teacher, bool(placebos), has_labels)
        self.scores: list[ReportScore] = [score for score in every if not score.name.startswith(_ECE)]
        self._errors = [score.name for score in every if score.name.startswith(_ECE)]

    @property
    def lacks_torchmetrics(self) -> bool:
        """Whether calibration errors are left out, because torchmetrics is not installed."""
        return bool(self._errors) and importlib.util.find_spec("torchmetrics") is None

    def add(self, logits: Mapping[str, Tensor], labels: Optional[Tensor]) -> None:
        """Adds the logits (N, classes) of one batch, by the model's key, and labels (N,)."""
        self._values.add(logits, labels)

    def gather(self, group: ProcessGroup) -> None:
        """Joins the values of all ranks."""
        self._values.gather(group.gather)

    def values(self, score: str, layer: str, student: str, base: str) -> Tensor:
        return self._values.values(score, student, base)

    def gains(self, layer: str, student: str, base: str) -> Tensor:
        return self._values.gains(student, base)

    def notes(self) -> list[str]:
        """Advice for reading these scores."""
        found = [
            f"Divergences (KL, JS) are in nats, at temperature {self.options.temperature:g}. KL weighs each class by the "
            "Teacher's probability, or by the Base's if it compares Student and Base."
        ]
        if any(score.name == "agreement_over_base" for score in self.scores):
            found.append(
                "Networks that are right more often agree more often, and share more right answers, with any accurate Teacher; "
                "networks that are wrong more often share more errors. So these scores alone are no evidence of transfer. "
                'Compare them with those of a Base given another Base (row "null") and with agreement over placebo Teachers.'
            )
        if self._errors and self.lacks_torchmetrics:
            found.append(
                "There is no calibration error, because torchmetrics is missing: pip install 'captum_kd[distributed]'."
            )
        elif self._errors:
            by_chance = sorted(map(self._values.calibration_error_by_chance, self._models))
            about = " to ".join(dict.fromkeys(f"{each:.3f}" for each in (by_chance[0], by_chance[-1])))
            found.append(
                f"The calibration error (ECE, {BINS} bins, temperature 1, torchmetrics) of calibrated networks of these "
                f"confidences would be about {about} on {self._values.n} inputs, not 0."
            )
        return found

    def calibration_rows(self, pair: Pair) -> list[dict[str, Any]]:
        """The rows of the calibration errors of a pair and the Teacher."""
        if pair.has_all_bases or self.lacks_torchmetrics:
            return []
        keys = {STUDENT: pair.student.of.key, BASE: pair.bases[0].of.key, TEACHER: TEACHER_KEY}
        names = {"student": pair.student.of.name, "base": pair.base_name, "layer": PREDICTIONS_LAYER}
        nothing = dict.fromkeys(("low", "high", "p_value", "unique_share"))
        return [
            {
                **names,
                "score": score,
                "value": self._values.calibration_error(keys[score.removeprefix(_ECE)]),
                "n": self._values.n,
                **nothing,
            }
            for score in self._errors
        ]
