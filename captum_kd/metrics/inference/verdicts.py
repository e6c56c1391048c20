"""Results of seed control, one sentence for each layer."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence, Union

from torch import Tensor

from captum_kd._utils.validation import check_bool, check_choice, check_float, check_int, check_mapping, check_str, short_repr
from captum_kd.metrics.inference.left_out_bases import LeftOutScores
from captum_kd.metrics.inference.seed_tests import (
    MOST_RELABELINGS,
    SeedTest,
    check_roles,
    has_every_score,
    holm,
    relabeling_count,
    seed_test,
)
from captum_kd.metrics.scores_table import (
    BY_NAME,
    EXPLANATIONS,
    OVER_PLACEBOS,
    PREDICTIONS,
    SCORES,
    TEACHERS_SHARE,
    Question,
)

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
        sentence (str): the result in words, followed by the caveats.
        caveats (list of str): other explanations of the answer, or the limits of these seeds.
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
    caveats: list[str]


def seed_control(
    scores: Mapping[str, Union[Tensor, LeftOutScores]],
    students: int,
    question: str,
    *,
    shared_seeds: Sequence[tuple[int, int]] = (),
    level: float = 0.05,
    likeness: Optional[Mapping[str, tuple[float, float]]] = None,
    has_placebos: bool = False,
    over: str = "layers",
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
        likeness (mapping of str to (float, float), optional): by layer, the mean similarity of Students and Teacher, and of
            Bases and Teacher: FSS, or the agreement that the question is about. The share can rise at equal likeness to the
            Teacher, so with a likeness "yes" also needs the first number to be larger. For questions about the Teacher.
        has_placebos (bool): True if the Teacher is also compared with placebo Teachers; caveats are then shorter.
        over (str): what the mapping's keys are, for the sentences; in reports also classes.

    Returns:
        list of SeedVerdict: one per layer, in the mapping's order. A layer cannot be decided if the smallest possible
        p-value exceeds the level after correction, or if a pair of models has no score. Layers without scores are left out
        of the correction, which does not depend on which models are called Students.

    Raises:
        ValueError: an unknown question, a layer without likeness, or an error of :func:`seed_test`.

    Source: docs/inference.md (seed control); Holm 1979.

    Example::

        >>> seed_control({"layer4": matrix}, 3, "rs_distilled")[0].sentence
        'layer4: the part that Students have and Bases lack follows the labels more closely than the part
        that one Base has and another lacks (by 0.032, p = 0.05). Differences ...'
    """
    check_choice(question, "question", list(QUESTIONS))
    check_mapping(scores, "scores", "a mapping from layers to square tensors")
    level = check_float(level, "level", "between 0 and 1 (say 0.05)", 0, 1)
    for layer in scores:
        check_str(layer, "Each layer in scores", or_none=False)
    has_placebos, likeness = check_bool(has_placebos, "has_placebos"), _checked(likeness, scores)
    asked, over = QUESTIONS[question], check_str(over, "over", or_none=False) or ""
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
        if layer not in tests:
            least = 1 / relabeling_count(students, bases, len(shared_seeds))
            sentence = f"{layer}: undecided whether {asked.yes}. {_NO_SCORE}"
            verdicts.append(SeedVerdict(question, layer, None, None, None, least, least, None, sentence, [_NO_SCORE]))
            continue
        test, p_value = tests[layer], adjusted[layer]
        # Holm multiplies the smallest p by the number of layers, and lets no other fall below it.
        smallest = min(1.0, test.smallest_p_value * len(tests))
        decision = None if smallest > level + _ROUNDING else p_value <= level + _ROUNDING
        corrected = f" after correction over {len(tests)} {over}" if len(tests) > 1 else ""
        numbers = f"difference {test.statistic:+.3f}, p = {short_p(p_value)}{corrected}"
        if decision is None:
            sentence = f"undecided whether {asked.yes} (difference {test.statistic:+.3f})."
            caveats = [_too_few(students, bases, len(shared_seeds), len(tests), level, smallest, over)]
        elif decision and likeness is not None and not likeness[layer][0] > likeness[layer][1]:
            decision, caveats = False, _caveats(question, False, has_placebos)
            sentence = _without_likeness(question, numbers, *likeness[layer])
        elif decision:
            sentence = f"{asked.yes} (by {test.statistic:.3f}, p = {short_p(p_value)}{corrected})."
            caveats = _caveats(question, True, has_placebos)
        else:
            sentence, caveats = f"{asked.no} ({numbers}).", _caveats(question, False, has_placebos)
        whole = " ".join([f"{layer}: {sentence}", *caveats])
        verdicts.append(
            SeedVerdict(
                question, layer, test.statistic, test.p_value, p_value,
                test.smallest_p_value, smallest, decision, whole, caveats,
            )
        )
    return verdicts


def _test(
    scores: Union[Tensor, LeftOutScores], students: int, larger: bool, shared_seeds: Sequence[tuple[int, int]]
) -> Optional[SeedTest]:
    """None if a pair of models has no score."""
    if isinstance(scores, LeftOutScores):
        return scores.test()
    return seed_test(scores, students, larger=larger, shared_seeds=shared_seeds) if has_every_score(scores) else None


LIKENESS = {
    **dict.fromkeys((TEACHERS_SHARE, OVER_PLACEBOS), "mean FSS"),
    PREDICTIONS: "mean agreement of predictions",
    EXPLANATIONS: "mean agreement of maps",
}
"""What is compared to say which models are more similar to the Teacher, by the kind of score."""
_NO_SCORE = "Some pairs of models have no score, because features are constant or one model's features are a copy of another's."
_SAME_RECIPE = "Students and Bases must share epochs, data, augmentation, first weights and pretraining."
_NO_TRANSFER = (
    "Differences in geometry and relevance are no evidence of transfer by themselves: nearly any change of recipe causes them, "
    "such as longer training or other data."
)
_OTHER_REASONS = (
    "A Teacher's share above that of other seeds can also come from longer training, other data, a recipe shared with the "
    "Teacher, or another Teacher. To exclude these, pass placebo_teachers=, or as Bases the Students of a second Teacher."
)
_BY_ACCURACY = "A gain in accuracy is no evidence of transfer by itself: any better recipe causes it."
_ANY_ACCURATE_TEACHER = (
    "Agreement with a Teacher, and right answers shared with it, grow with accuracy alone: networks that are right more often "
    "agree more often, with any accurate Teacher. Placebo Teachers (agreement over placebos) exclude that."
)
_ANY_TEACHERS_ERRORS = (
    "Networks that are wrong more often share more errors with any Teacher, and Students of another Teacher share some of its "
    "errors as well. Placebo Teachers (agreement over placebos) tell whether the agreement is with this Teacher."
)
_ANY_TEACHERS_MAPS = (
    "Maps of accurate networks show the same objects, so a gain in accuracy can bring them closer to those of any accurate "
    "Teacher. Placebo Teachers (explanations over placebos) show how much of it."
)
_SEE_PLACEBOS = "Any Teacher may raise the share; its difference from the placebo Teachers' tells whether it is more than theirs."
FIRST_WEIGHTS = (
    "Values above those of placebo Teachers also come without distillation if Students share their first weights with the "
    "Teacher."
)
_THESE_PLACEBOS = (
    "This test concerns these placebo Teachers only, and it says yes too often: with trained networks at 14 % of the places "
    "without transfer, not 5 %. The t test against the spread of at least 4 placebos keeps its level."
)


def _caveats(question: str, is_yes: bool, has_placebos: bool) -> list[str]:
    """Other explanations of an answer."""
    score = BY_NAME[question]
    if score.share is not None:
        reasons = f"{_THESE_PLACEBOS} {FIRST_WEIGHTS}"
    elif not score.is_geometric:
        any_teacher = _ANY_TEACHERS_MAPS if score.kind == EXPLANATIONS else _ANY_ACCURATE_TEACHER
        any_teacher = _ANY_TEACHERS_ERRORS if question == "shared_errors" else any_teacher
        reasons = any_teacher if score.needs_teacher else _BY_ACCURACY
    elif not score.needs_teacher:
        reasons = _NO_TRANSFER
    else:
        reasons = _SEE_PLACEBOS if has_placebos else _OTHER_REASONS
    return [reasons] * is_yes + [_SAME_RECIPE] * (not has_placebos)


def _too_few(students: int, bases: int, shared: int, layers: int, level: float, smallest: float, over: str) -> str:
    """The limit of these seeds, and the number of seeds that could decide."""
    pairs = f" ({shared} pair{'s' * (shared > 1)} of one seed)" if shared else ""
    corrected = f" after correction over {layers} {over}" if layers > 1 else ""
    enough = enough_seeds(students, bases, shared, layers, level)
    more = f"there are too many {over} for any number of seeds" if enough is None else f"{enough[0]} and {enough[1]} could decide"
    models = f"{students} Student{'s' * (students > 1)} and {bases} Bases{pairs}"
    return f"With {models} no p-value can be below {short_p(smallest)}{corrected}; {more}."


def enough_seeds(students: int, bases: int, shared: int, layers: int, level: float) -> Optional[tuple[int, int]]:
    """The least numbers of Students and Bases, as equal as possible, with which the smallest p-value is within the level."""
    all_shared = shared and shared == students == bases
    for number in range(min(students, bases) + 1, 64):
        wanted = max(students, number), max(bases, number)
        relabelings = relabeling_count(*wanted, number if all_shared else shared)
        if layers / relabelings <= level + _ROUNDING:
            return wanted if relabelings <= MOST_RELABELINGS else None
    return None


def _without_likeness(question: str, numbers: str, of_students: float, of_bases: float) -> str:
    score = BY_NAME[question]
    larger = "difference" if score.share is not None else "share"
    return (
        f"{QUESTIONS[question].no}: the {larger} is larger than between Bases ({numbers}), but Students are not more similar to "
        f"the Teacher than Bases are ({LIKENESS[score.kind]} {of_students:.3f} and {of_bases:.3f})."
    )


def _checked(
    likeness: Optional[Mapping[str, tuple[float, float]]], scores: Mapping[str, Union[Tensor, LeftOutScores]]
) -> Optional[dict[str, tuple[float, float]]]:
    if likeness is None:
        return None
    check_mapping(likeness, "likeness", "a mapping from layers to pairs of numbers")
    found = {}
    for layer, pair in likeness.items():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"likeness[{short_repr(layer)}] must be a pair of numbers, got {short_repr(pair)}.")
        name = f"likeness[{short_repr(layer)}]"
        first, second = (check_float(each, name, "between -1 and 1", -1, 1, closed=True) for each in pair)
        found[layer] = first, second
    absent = [layer for layer in scores if layer not in found]
    if absent:
        raise ValueError(f"likeness must have a pair of numbers for each layer in scores, but {absent[0]!r} has none.")
    return found


def single_pair_sentence(students: int, bases: int) -> str:
    """A sentence about the limits of scores without seed control.

    Args:
        students (int): number of Students.
        bases (int): number of Bases; :func:`seed_control` needs at least two.

    Returns:
        str: the sentence.
    """
    students, bases = check_int(students, "students"), check_int(bases, "bases")
    models = f"{'One' if students == 1 else students} Student{'s' * (students > 1)} and one Base"
    return (
        f"{models}: these rows hold for these trained models; they do not show that the difference comes "
        "from distillation, since another seed of the Base may differ from this one as much (train a "
        "second Base, and further Students, to find out)."
        if bases == 1
        else "Seed control compares Students with Bases: at least one Student and two Bases are needed."
    )


def short_p(p_value: float) -> str:
    """A p-value with three decimals, or one digit below .001."""
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1g}"
