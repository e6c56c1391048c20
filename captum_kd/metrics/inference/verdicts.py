"""Results of seed control as sentences, one for each layer."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence

from torch import Tensor

from captum_kd._utils.validation import check_int, check_float, check_str, check_choice, check_mapping
from captum_kd.metrics.inference.seed_tests import check_roles, has_every_score, holm, relabeling_count, seed_test
from captum_kd.metrics.scores_table import SCORES, Question

__all__ = ["QUESTIONS", "Question", "SeedVerdict", "seed_control", "single_pair_sentence"]


# p-values are shares of whole numbers: a p of 6/120 is at the level .05 whatever its last digit.
_ROUNDING = 1e-12


QUESTIONS: dict[str, Question] = {score.name: score.question for score in SCORES if score.question is not None}
"""The questions, by the name that the score of the pairs has in the report."""


class SeedVerdict(NamedTuple):
    """What the seeds say of one score at one layer.

    Attributes:
        score (str): the question, a key of :data:`QUESTIONS`.
        layer (str): the layer.
        statistic (float): difference of mean scores, see :func:`seed_test`; None where a pair of
            models has no score.
        p_value (float): exact, before correction; None where there is no statistic.
        adjusted_p_value (float): by Holm over the layers that have one.
        smallest_p_value (float): least attainable with these seeds, before correction.
        smallest_adjusted_p_value (float): and after it.
        decision (bool): yes or no; None where it cannot be decided.
        sentence (str): all of this in words.
    """

    score: str
    layer: str
    statistic: Optional[float]
    p_value: Optional[float]
    adjusted_p_value: Optional[float]
    smallest_p_value: float
    smallest_adjusted_p_value: float
    decision: Optional[bool]
    sentence: str


def seed_control(
    scores: Mapping[str, Tensor],
    students: int,
    question: str,
    *,
    shared_seeds: Sequence[tuple[int, int]] = (),
    level: float = 0.05,
) -> list[SeedVerdict]:
    """Puts one question to the seeds at every layer.

    Args:
        scores (mapping of str to Tensor): by layer, the (M + K, M + K) scores of all ordered pairs,
            Students first (:func:`~captum_kd.metrics.inference.pair_scores`); NaN where a pair
            has none.
        students (int): M.
        question (str): a key of :data:`QUESTIONS`, the score that the matrices hold.
        shared_seeds (sequence of (int, int)): see :func:`seed_test`.
        level (float): at which the answer is yes.

    Returns:
        list of SeedVerdict: one per layer, in the mapping's order. No layer can be decided where even
        the most extreme relabeling would not reach the level after correction; nor one where a pair
        of models has no score, which is then left out of the correction (whether a layer is left out
        does not depend on which models are called Students).

    Raises:
        ValueError: an unknown question; what :func:`seed_test` refuses.

    Source: docs/inference.md (seed control); Holm 1979.

    Example::

        >>> seed_control({"layer4": matrix}, 3, "rs_distilled")[0].sentence
        'layer4: what Students have and Bases lack follows the labels more closely than what one Base
        has and another lacks (by 0.032, p = 0.05).'
    """
    check_choice(question, "question", list(QUESTIONS))
    check_mapping(scores, "scores", "a mapping from layers to square tensors")
    level = check_float(level, "level", "between 0 and 1 (say 0.05)", 0, 1)
    for layer in scores:
        check_str(layer, "Each layer in scores", or_none=False)
    asked = QUESTIONS[question]
    for matrix in scores.values():
        check_roles(matrix, students, shared_seeds)
    tests = {
        layer: seed_test(matrix, students, larger=asked.larger, shared_seeds=shared_seeds)
        for layer, matrix in scores.items()
        if has_every_score(matrix)
    }
    adjusted = dict(zip(tests, holm([test.p_value for test in tests.values()])))
    verdicts = []
    for layer, matrix in scores.items():
        bases = matrix.shape[0] - students
        if layer in tests:
            test, p_value = tests[layer], adjusted[layer]
            # Holm multiplies the smallest p by the number of layers, and lets no other fall below it.
            smallest = min(1.0, test.smallest_p_value * len(tests))
            decision = None if smallest > level + _ROUNDING else p_value <= level + _ROUNDING
            seeds = _seeds(students, bases, len(shared_seeds))
            sentence = _sentence(asked, test.statistic, decision, p_value, smallest, seeds, len(tests))
            verdicts.append(
                SeedVerdict(
                    question, layer, test.statistic, test.p_value, p_value,
                    test.smallest_p_value, smallest, decision, f"{layer}: {sentence}",
                )
            )
        else:
            least = 1 / relabeling_count(students, bases, len(shared_seeds))
            sentence = (
                f"cannot be decided whether {asked.yes}: some pairs of models have no score here, because "
                "features are constant or one model's are a copy of another's."
            )
            verdicts.append(
                SeedVerdict(question, layer, None, None, None, least, least, None, f"{layer}: {sentence}")
            )
    return verdicts


def _seeds(students: int, bases: int, shared: int) -> str:
    pairs = f" ({shared} pair{'s' * (shared > 1)} of one seed)" if shared else ""
    return f"{students} Student{'s' * (students > 1)} and {bases} Bases{pairs}"


def _sentence(
    asked: Question,
    statistic: float,
    decision: Optional[bool],
    p_value: float,
    smallest: float,
    seeds: str,
    layers: int,
) -> str:
    corrected = f" after correction over {layers} layers" if layers > 1 else ""
    if decision is None:
        return (
            f"cannot be decided whether {asked.yes}: with {seeds} the smallest p attainable is "
            f"{_short(smallest)}{corrected} (difference {statistic:+.3f})."
        )
    if decision:
        return f"{asked.yes} (by {statistic:.3f}, p = {_short(p_value)}{corrected})."
    return f"{asked.no} (difference {statistic:+.3f}, p = {_short(p_value)}{corrected})."


def single_pair_sentence(students: int, bases: int) -> str:
    """What scores without further seeds do not show, in one sentence.

    Args:
        students (int): number of Students that there are.
        bases (int): number of Bases; with two of them :func:`seed_control` has an answer.

    Returns:
        str: the sentence.
    """
    students, bases = check_int(students, "students"), check_int(bases, "bases")
    models = f"{'one' if students == 1 else students} Student{'s' * (students > 1)} and one Base"
    return (
        f"{models}: these rows hold for these trained models; they do not show that the difference comes "
        "from distillation, since another seed of the Base may differ from this one as much (train a "
        "second Base, and further Students, to find out)."
        if bases == 1
        else "Seed control compares Students with Bases: at least one Student and two Bases are needed."
    )


def _short(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1g}"
