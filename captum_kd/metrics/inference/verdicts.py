"""Results of seed control, one sentence for each layer."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence, Union

from torch import Tensor

from captum_kd._utils.validation import check_int, check_float, check_str, check_choice, check_mapping, short_repr
from captum_kd.metrics.inference.left_out_bases import LeftOutScores
from captum_kd.metrics.inference.seed_tests import SeedTest, check_roles, has_every_score, holm, relabeling_count, seed_test
from captum_kd.metrics.scores_table import BY_NAME, SCORES, Question

__all__ = ["QUESTIONS", "Question", "SeedVerdict", "seed_control", "single_pair_sentence"]


# p-values are fractions such as 6/120, which must count as .05 despite rounding.
_ROUNDING = 1e-12


QUESTIONS: dict[str, Question] = {score.name: score.question for score in SCORES if score.question is not None}
"""The questions of seed control, by the name of their score in the report."""


class SeedVerdict(NamedTuple):
    """The result of seed control for one score at one layer.

    Attributes:
        score (str): the question, a key of :data:`QUESTIONS`.
        layer (str): the layer.
        statistic (float): difference of mean scores, see :func:`seed_test`; None if a pair of models has no score.
        p_value (float): exact p-value before correction; None if there is no statistic.
        adjusted_p_value (float): p-value after Holm's correction over the layers that have one.
        smallest_p_value (float): the smallest possible p-value with these seeds, before correction.
        smallest_adjusted_p_value (float): the same after correction.
        decision (bool): the answer; None if it cannot be decided.
        sentence (str): the result in words.
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
    scores: Mapping[str, Union[Tensor, LeftOutScores]],
    students: int,
    question: str,
    *,
    shared_seeds: Sequence[tuple[int, int]] = (),
    level: float = 0.05,
) -> list[SeedVerdict]:
    """Answers one question at every layer by an exact test over seeds.

    Args:
        scores (mapping of str to Tensor or LeftOutScores): by layer, the (M + K, M + K) scores of all ordered pairs,
            Students first (:func:`~captum_kd.metrics.inference.pair_scores`); NaN if a pair has none. For questions about
            Students given several Bases, the results of :func:`~captum_kd.metrics.inference.left_out_scores`.
        students (int): M, the number of Students.
        question (str): a key of :data:`QUESTIONS`, the score that the matrices hold.
        shared_seeds (sequence of (int, int)): see :func:`seed_test`.
        level (float): the largest adjusted p-value for which the answer is yes.

    Returns:
        list of SeedVerdict: one per layer, in the mapping's order. A layer cannot be decided if the smallest possible
        p-value exceeds the level after correction, or if a pair of models has no score. Layers without scores are left out
        of the correction, which does not depend on which models are called Students.

    Raises:
        ValueError: an unknown question, or an error of :func:`seed_test`.

    Source: docs/inference.md (seed control); Holm 1979.

    Example::

        >>> seed_control({"layer4": matrix}, 3, "rs_distilled")[0].sentence
        'layer4: the part that Students have and Bases lack follows the labels more closely than the part
        that one Base has and another lacks (by 0.032, p = 0.05).'
    """
    check_choice(question, "question", list(QUESTIONS))
    check_mapping(scores, "scores", "a mapping from layers to square tensors")
    level = check_float(level, "level", "between 0 and 1 (say 0.05)", 0, 1)
    for layer in scores:
        check_str(layer, "Each layer in scores", or_none=False)
    asked = QUESTIONS[question]
    for each in scores.values():
        if isinstance(each, LeftOutScores) != BY_NAME[question].needs_all_bases:
            maker = "left_out_scores" if BY_NAME[question].needs_all_bases else "pair_scores"
            raise TypeError(f"For {question}, scores must hold results of {maker}(), got {short_repr(each)}.")
        if not isinstance(each, LeftOutScores):
            check_roles(each, students, shared_seeds)
    tests = {
        layer: test
        for layer, each in scores.items()
        if (test := _test(each, students, asked.larger, shared_seeds)) is not None
    }
    adjusted = dict(zip(tests, holm([test.p_value for test in tests.values()])))
    verdicts = []
    for layer, each in scores.items():
        bases = len(each.scores if isinstance(each, LeftOutScores) else each) - students
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
                f"cannot be decided whether {asked.yes}: some pairs of models have no score, because "
                "features are constant or one model's features are a copy of another's."
            )
            verdicts.append(
                SeedVerdict(question, layer, None, None, None, least, least, None, f"{layer}: {sentence}")
            )
    return verdicts


def _test(
    scores: Union[Tensor, LeftOutScores], students: int, larger: bool, shared_seeds: Sequence[tuple[int, int]]
) -> Optional[SeedTest]:
    """None if a pair of models has no score."""
    if isinstance(scores, LeftOutScores):
        return scores.test()
    return seed_test(scores, students, larger=larger, shared_seeds=shared_seeds) if has_every_score(scores) else None


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
            f"cannot be decided whether {asked.yes}: with {seeds} the smallest possible p is "
            f"{_short(smallest)}{corrected} (difference {statistic:+.3f})."
        )
    if decision:
        return f"{asked.yes} (by {statistic:.3f}, p = {_short(p_value)}{corrected})."
    return f"{asked.no} (difference {statistic:+.3f}, p = {_short(p_value)}{corrected})."


def single_pair_sentence(students: int, bases: int) -> str:
    """A sentence about the limits of scores without seed control.

    Args:
        students (int): number of Students.
        bases (int): number of Bases; :func:`seed_control` needs at least two.

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
