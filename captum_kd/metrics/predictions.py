r"""Agreement of a Student's predictions with those of its Teacher and of a Base.

Every score but the calibration error is a mean over inputs of a value of single inputs. So its interval is that of a mean, or of
a proportion.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Optional, Sequence

import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._models.hooks import run_model, same_random_state
from captum_kd._models.logits import OutputTransform, class_scores
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import as_forward_args, as_labels, check_batch_size, check_callable, check_model, take_rows
from captum_kd._utils.inputs import ROLES, Inputs, TokenMask, as_inputs_by_model
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_float
from captum_kd.distance.precision import widest
from captum_kd.metrics.inference.means import MeanEstimate, mean_estimate
from captum_kd.metrics.scores_table import BASE, STUDENT, TEACHER, prediction_scores

BINS = 15
"""Bins of confidence of the calibration error, as in Guo et al. 2017."""


@log_usage()
def prediction_agreement(
    forward_func: Callable[..., Any],
    teacher_func: Callable[..., Any],
    inputs: Inputs,
    additional_forward_args: Any = None,
    *,
    base_func: Optional[Callable[..., Any]] = None,
    target: Any = None,
    temperature: float = 1.0,
    confidence: Optional[float] = 0.95,
    output_transform: Optional[OutputTransform] = None,
    max_examples_per_batch: Optional[int] = None,
    token_mask: TokenMask = None,
) -> dict[str, MeanEstimate]:
    r"""
    How closely a Student's predictions follow its Teacher's: agreement of the predicted classes, and the Kullback-Leibler and
    Jensen-Shannon divergences of the predicted probabilities. With a Base, it also gives the Base's agreement and the difference.
    With labels, it gives accuracy, errors that Student and Teacher share where the Base is right (negative transfer), and
    right answers that they share where the Base is wrong.

    Models that are right more often agree more often, with any accurate Teacher. So compare the Student's agreement with that
    of a Base, and its excess over that with other seeds and placebo Teachers. ``compare_transfer(..., predictions=True)`` tests
    both.

    Source: Stanton et al., NeurIPS 2021 (agreement and KL of Student and Teacher); docs/scores.md has each formula.

    Args:

        forward_func (Callable): The Student; it returns logits (N, classes), or an output with ``logits``.
        teacher_func (Callable): The Teacher, of the same classes.
        inputs (Tensor, tuple[Tensor, ...] or mapping): Inputs of all models, n >= 2 examples first; a mapping as for
                    :meth:`captum_kd.UniCAM.attribute`, also {"student": inputs, "base": inputs, "teacher": inputs}.
        additional_forward_args (Any, optional): Further arguments of all models, as in Captum.
        base_func (Callable, optional): The Base.
        target (Tensor or list, optional): (N,) integer labels.
        temperature (float, optional): Logits are divided by it before the divergences are taken. Divergences are not multiplied
                    by its square, as they are in losses.
        confidence (float, optional): Coverage of the intervals.
                    Default: 0.95; None for no intervals
        output_transform (Callable, optional): From a model's output to logits (N, classes).
                    Default: the output's ``.logits`` if it has them, else the output
        max_examples_per_batch (int, optional): Inputs in one forward pass. Does not change the result.
        token_mask (Tensor, optional): (N, T), True for the tokens that count, as for :class:`captum_kd.UniCAM`.

    Returns:
        dict[str, MeanEstimate]: value, interval and, for differences, the p-value of a t test against 0, by the score's name:
        ``agreement_student_teacher``, ``kl_student_teacher``, ``js_student_teacher`` (divergences in nats; JS is at most log 2);
        with a Base also those of Base and Teacher and of Student and Base, and ``agreement_over_base``, ``kl_over_base`` and
        ``js_over_base`` (Student - Base); with labels ``accuracy_student``, ``accuracy_base``, ``accuracy_teacher``,
        ``accuracy_over_base``, ``shared_errors`` and ``shared_right_answers``. Intervals hold for these trained models.

    Raises:
        ValueError: models with other numbers of classes, labels without logits, non-finite logits, a temperature that is not
                    positive, fewer than 2 inputs.
        TypeError: models that cannot be called, outputs without logits.

    Examples::

        >>> found = prediction_agreement(student, teacher, images, base_func=base, target=labels)
        >>> found["agreement_over_base"]
        MeanEstimate(value=0.042, low=0.021, high=0.063, p_value=0.0001, n=1000)
    """
    models = {STUDENT: forward_func, **({} if base_func is None else {BASE: base_func}), TEACHER: teacher_func}
    arguments = {STUDENT: "forward_func", BASE: "base_func", TEACHER: "teacher_func"}
    for role, model in models.items():
        check_model(model, arguments[role])
    values = as_inputs_by_model(inputs, token_mask=token_mask)
    values.check_names(ROLES)
    n = len(values.student[0])
    if n < 2:
        raise ValueError(f"inputs must hold at least 2 examples, got {n}.")
    labels = as_labels(target, n)
    check_batch_size(max_examples_per_batch, "max_examples_per_batch")
    if output_transform is not None:
        check_callable(output_transform, "output_transform")
    if confidence is not None:
        confidence = check_float(confidence, "confidence", "between 0 and 1 (for example 0.95) or None", 0, 1)
    args = as_forward_args(additional_forward_args)
    base = BASE if base_func is not None else None
    found = PredictionValues([(STUDENT, base)], TEACHER, (), check_temperature(temperature))
    warn_of_modes(**{arguments[role]: model for role, model in models.items()})
    for start in range(0, n, max_examples_per_batch or n):
        rows = slice(start, min(start + (max_examples_per_batch or n), n))
        logits = {}
        for role, model in models.items():
            batch = values.of(role).rows(rows, n)
            with changed_state(torch.no_grad(), same_random_state(batch)), interruptible():
                output = run_model(model, batch, take_rows(args, rows, n))
            of_batch = None if labels is None else labels[rows]
            logits[role] = class_scores(output, output_transform, of_batch, arguments[role])
        found.add(logits, None if labels is None else labels[rows])
    estimates = {}
    for score in prediction_scores(base is not None, has_labels=labels is not None):
        if not score.name.startswith("ece_"):
            of_inputs = found.values(score.name, STUDENT, base)
            estimates[score.name] = mean_estimate(of_inputs, confidence, score.bounds, tested=score.test is not None)
    return estimates


def check_temperature(temperature: float) -> float:
    """Raises unless the temperature is a positive number."""
    return check_float(temperature, "temperature", "above 0", 0, math.inf)


def check_same_classes(logits: Mapping[str, Tensor], consequence: str) -> None:
    """Raises a ValueError for logits (N, classes) of other numbers of classes, by the models' keys."""
    counts = {key: values.shape[1] for key, values in logits.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{key}: {count}" for key, count in counts.items())
        raise ValueError(f"The models predict other numbers of classes ({shown}), {consequence}")


class PredictionValues:
    """Values of single inputs, of which the scores of predictions are means. Batches are added one after another.

    Args:
        pairs (sequence of (str, str or None)): keys of a Student and of a Base, or None for a Student alone.
        teacher (str, optional): key of the Teacher.
        placebos (sequence of str): keys of the placebo Teachers.
        temperature (float): of the divergences.

    Attributes:
        n (int): the number of inputs so far.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, Optional[str]]],
        teacher: Optional[str],
        placebos: Sequence[str],
        temperature: float,
    ) -> None:
        self._temperature = temperature
        self._teacher = teacher
        self._placebos = placebos
        of_pairs = [(student, base) for student, base in pairs if base is not None]
        models = dict.fromkeys(key for pair in pairs for key in pair if key is not None)
        # Divergences of the first model's predictions from the second one's.
        self._compared = [*of_pairs, *((key, teacher) for key in models if teacher is not None)]
        self._pieces: dict[tuple[str, ...], list[Tensor]] = {}
        self.n = 0

    def add(self, logits: Mapping[str, Tensor], labels: Optional[Tensor]) -> None:
        """Adds logits (N, classes) of one batch by the model's key, and labels (N,).

        Raises:
            ValueError: models with other numbers of classes.
        """
        check_same_classes(
            logits,
            "so their predictions cannot be compared. Pass an output_transform that returns the logits of the same classes, or "
            "leave predictions out: geometry needs no common classes.",
        )
        precise = {key: values.detach().to(widest(values.device)).cpu().double() for key, values in logits.items()}
        for key, values in precise.items():
            self._append(("classes", key), values.argmax(1))
            self._append(("confidence", key), values.softmax(1).amax(1))
        self.n += len(next(iter(precise.values())))
        logs = {key: (values / self._temperature).log_softmax(1) for key, values in precise.items()}
        for key, other in self._compared:
            self._append(("kl", key, other), kl_divergence(logs[other], logs[key]))
            self._append(("js", key, other), js_divergence(logs[other], logs[key]))
        if labels is not None:
            self._append(("labels",), labels.cpu())

    def gather(self, gathered: Callable[[Any], list[Any]]) -> None:
        """Joins the values of all ranks by a function that returns every rank's value of an object."""
        of_ranks = gathered((self.n, {key: torch.cat(pieces) for key, pieces in self._pieces.items()}))
        self.n, self._pieces = 0, {}
        for n, values in of_ranks:
            self.n += n
            for key, of_rank in values.items():
                self._append(key, of_rank)

    def values(self, score: str, student: str, base: Optional[str]) -> Tensor:
        """(n,) float64 values of single inputs, whose mean is the score of a Student and a Base."""
        teacher = self._teacher
        models = {STUDENT: student, BASE: base, TEACHER: teacher}
        name, _, rest = score.partition("_")
        if score in ("shared_errors", "shared_right_answers"):
            of_student, of_base, of_teacher = (self._read("classes", models[role]) for role in (STUDENT, BASE, TEACHER))
            labels = self._read("labels")
            is_right, base_is_right = of_teacher == labels, of_base == labels
            wanted = ~is_right & base_is_right if score == "shared_errors" else is_right & ~base_is_right
            return ((of_student == of_teacher) & wanted).double()
        if rest == "over_base":
            own = f"{name}_{{}}" if name == "accuracy" else f"{name}_{{}}_teacher"
            of_student, of_base = (self.values(own.format(role), student, base) for role in (STUDENT, BASE))
            return of_student - of_base
        if rest == "over_placebos":
            gains = self.gains(student, base)
            return gains[0] - gains[1:].mean(0)
        first, _, second = (rest or "student_base").partition("_")
        if name == "accuracy":
            return (self._read("classes", models[first]) == self._read("labels")).double()
        if name == "agreement":
            return (self._read("classes", models[first]) == self._read("classes", models[second])).double()
        return self._read(name, models[first], models[second])

    def gains(self, student: str, base: Optional[str]) -> Tensor:
        """(1 + placebos, n) agreement of the Student minus that of the Base, with the Teacher and with each placebo Teacher."""
        teachers = torch.stack([self._read("classes", key) for key in (self._teacher, *self._placebos)])
        of_student, of_base = ((self._read("classes", key) == teachers).double() for key in (student, base))
        return of_student - of_base

    def calibration_error(self, key: str) -> float:
        """The expected calibration error of a model, by torchmetrics.

        Raises:
            ImportError: torchmetrics is not installed.
        """
        from torchmetrics.functional.classification import binary_calibration_error  # an optional package

        is_right = self._read("classes", key) == self._read("labels")
        return float(binary_calibration_error(self._read("confidence", key).float(), is_right.long(), n_bins=BINS, norm="l1"))

    def calibration_error_by_chance(self, key: str) -> float:
        """About the expected calibration error of calibrated predictions of the same confidences.

        The number of right answers in a bin is then a sum of independent draws with these probabilities. Its mean absolute error
        is about that of a normal distribution, sqrt(2 / pi) times its standard deviation.
        """
        confidence = self._read("confidence", key)
        variances = torch.zeros(BINS, dtype=torch.float64, device="cpu")
        variances.index_add_(0, (confidence * BINS).ceil().long().clamp(1, BINS) - 1, confidence * (1 - confidence))
        return float(variances.sqrt().sum()) * math.sqrt(2 / math.pi) / len(confidence)

    def _append(self, key: tuple[str, ...], values: Tensor) -> None:
        self._pieces.setdefault(key, []).append(values)

    def _read(self, *key: Optional[str]) -> Tensor:
        pieces = self._pieces[key]  # type: ignore[index]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces)]
        return pieces[0]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(N,) KL(p || q) in nats, from log-probabilities (N, classes)."""
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1).clamp(min=0)


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(N,) Jensen-Shannon divergence in nats, at most log 2."""
    mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_divergence(log_p, mixture) + kl_divergence(log_q, mixture)) / 2
