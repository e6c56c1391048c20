"""Seed control in words."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from captum_kd.metrics.inference.left_out_bases import LeftOutScores
from captum_kd.metrics.inference.seed_tests import relabeling_count
from captum_kd.metrics.inference.verdicts import QUESTIONS, SeedVerdict, seed_control, single_pair_sentence
from captum_kd.metrics.scores_table import BY_NAME


def separated(students: int, bases: int, gap: float = 0.2) -> Tensor:
    scores = torch.full((students + bases, students + bases), 0.1)
    scores[:students, students:] += gap
    return scores


def test_yes_with_difference_and_p() -> None:
    verdict = seed_control({"layer4": separated(5, 5)}, 5, "rs_distilled")[0]
    assert verdict.decision is True
    assert verdict.sentence == (
        "layer4: the part that Students have and Bases lack follows the labels more closely than the part that one Base has "
        "and another lacks (by 0.200, p = 0.004). Differences in geometry and relevance are no evidence of transfer by "
        "themselves: nearly any change of recipe causes them, such as longer training or other data. Students and Bases must "
        "share epochs, data, augmentation, first weights and pretraining."
    )


def test_no_evidence_is_not_called_a_no() -> None:
    verdict = seed_control({"layer1": separated(5, 5, gap=0.0)}, 5, "teacher_distilled")[0]
    assert verdict.decision is False
    no_evidence = "layer1: no evidence that the part that Students have and Bases lack is arranged as the Teacher"
    assert verdict.sentence.startswith(no_evidence)
    assert verdict.caveats == ["Students and Bases must share epochs, data, augmentation, first weights and pretraining."]
    assert "p = 1.000" in verdict.sentence


def test_three_and_three_seeds_decide_one_layer_but_not_two() -> None:
    one = seed_control({"a": separated(3, 3)}, 3, "rs_distilled")
    assert [v.decision for v in one] == [True]
    two = seed_control({"a": separated(3, 3), "b": separated(3, 3)}, 3, "rs_distilled")
    assert [v.decision for v in two] == [None, None]
    assert two[0].smallest_p_value == pytest.approx(0.05)
    assert two[0].smallest_adjusted_p_value == pytest.approx(0.1)
    assert two[0].sentence.startswith("a: undecided whether ") and two[0].sentence.endswith(f"). {two[0].caveats[0]}")
    assert two[0].caveats == [
        "With 3 Students and 3 Bases no p-value can be below 0.100 after correction over 2 layers; 4 and 4 could decide."
    ]


def test_holm_runs_over_the_layers() -> None:
    weak = separated(5, 5, gap=0.0)
    verdicts = seed_control({"a": separated(5, 5), "b": weak, "c": separated(5, 5)}, 5, "rs_distilled")
    assert [v.layer for v in verdicts] == ["a", "b", "c"]
    assert [v.adjusted_p_value for v in verdicts] == pytest.approx([3 / 252, 1.0, 3 / 252])
    assert [v.decision for v in verdicts] == [True, False, True]


def test_shared_seeds_need_five_pairs() -> None:
    """2^4 swaps reach .0625 at best, 2^5 .031."""
    for pairs, decided in ((4, None), (5, True)):
        shared = [(i, i) for i in range(pairs)]
        verdict = seed_control({"a": separated(pairs, pairs)}, pairs, "rs_distilled", shared_seeds=shared)[0]
        assert verdict.decision is decided


def test_similarity_asks_for_smaller_scores() -> None:
    scores = separated(4, 4, gap=-0.05)
    scores[4:, :4] = scores[:4, 4:].T
    verdict = seed_control({"a": scores}, 4, "fss")[0]
    assert verdict.statistic == pytest.approx(0.05) and verdict.decision is True
    assert "more than a Base differs from a Base of another seed" in verdict.sentence


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("has_placebos", [False, True])
def test_every_verdict_is_one_plain_sentence_and_its_caveats(question: str, has_placebos: bool) -> None:
    for gap, students in ((0.3, 5), (-0.3, 5), (0.3, 2)):
        scores: Any = separated(students, students, gap)
        if BY_NAME[question].needs_all_bases:
            statistics = torch.linspace(gap, 0, relabeling_count(students, students)).double()
            scores = LeftOutScores(scores[:, students:], statistics)
        verdict = seed_control({"x": scores}, students, question, has_placebos=has_placebos)[0]
        alone = verdict.sentence.removesuffix(" " + " ".join(verdict.caveats))
        assert alone.endswith(".") and alone.count(". ") == 0 and alone.startswith("x: ")
        same_recipe = "Students and Bases must share epochs, data, augmentation, first weights and pretraining."
        if verdict.decision is not None:
            assert (same_recipe in verdict.caveats) is not has_placebos
            assert len(verdict.caveats) == verdict.decision + (not has_placebos)


def test_other_explanations_of_a_share_are_named_until_placebos_were_given() -> None:
    (alone,) = seed_control({"x": separated(5, 5)}, 5, "teacher_distilled")
    assert all(reason in alone.sentence for reason in ("longer training", "other data", "recipe shared", "another Teacher"))
    assert "placebo_teachers=" in alone.sentence and "Students of a second Teacher" in alone.sentence
    (beside,) = seed_control({"x": separated(5, 5)}, 5, "teacher_distilled", has_placebos=True)
    assert "longer training" not in beside.sentence and "its difference from the placebo Teachers'" in beside.sentence
    (over,) = seed_control({"x": separated(5, 5)}, 5, "teacher_distilled_over_placebos", has_placebos=True)
    assert "as this Teacher, rather than these placebo Teachers, arranges it" in over.sentence
    assert "share their first weights with the Teacher" in over.sentence


@pytest.mark.parametrize(("of_students", "of_bases", "decision"), [(0.5, 0.4, True), (0.4, 0.4, False), (0.3, 0.4, False)])
def test_a_yes_needs_students_more_similar_to_the_teacher_than_bases(of_students, of_bases, decision) -> None:
    likeness = {"x": (of_students, of_bases)}
    (verdict,) = seed_control({"x": separated(5, 5)}, 5, "teacher_distilled", likeness=likeness)
    assert verdict.decision is decision and verdict.p_value == pytest.approx(1 / 252)
    said = f"Students are not more similar to the Teacher than Bases are (mean FSS {of_students:.3f} and 0.400)"
    assert (said in verdict.sentence) is not decision
    assert verdict.sentence.startswith("x: no evidence that ") is not decision
    (undecided,) = seed_control({"x": separated(2, 2)}, 2, "teacher_distilled", likeness=likeness)
    assert undecided.decision is None


@pytest.mark.parametrize(("of_students", "decision"), [(0.9, True), (0.3, False)])
def test_agreement_over_placebos_needs_more_agreement_than_that_of_bases(of_students, decision) -> None:
    likeness = {"predictions": (of_students, 0.8)}
    (verdict,) = seed_control({"predictions": separated(5, 5)}, 5, "agreement_over_placebos", likeness=likeness)
    assert verdict.decision is decision
    assert ("(mean agreement of predictions 0.300 and 0.800)" in verdict.sentence) is not decision


@pytest.mark.parametrize(
    ("likeness", "error", "words"),
    [
        (0.5, TypeError, "likeness must be a mapping"),
        ({"x": 0.5}, TypeError, "must be a pair of numbers"),
        ({"x": (0.5, 2.0)}, ValueError, "between -1 and 1"),
        ({"y": (0.5, 0.5)}, ValueError, "'x' has none"),
    ],
)
def test_likeness_that_cannot_be(likeness, error, words) -> None:
    with pytest.raises(error, match=words):
        seed_control({"x": separated(3, 3)}, 3, "teacher_distilled", likeness=likeness)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize(("students", "bases", "shared"), [(2, 2, 0), (1, 2, 0), (1, 5, 0), (2, 2, 2), (3, 3, 1), (2, 4, 2)])
def test_the_number_of_seeds_that_would_decide_is_the_least(students, bases, shared, layers) -> None:
    def decision(m: int, k: int, pairs: int) -> SeedVerdict:
        scores = {str(place): separated(m, k) for place in range(layers)}
        return seed_control(scores, m, "rs_distilled", shared_seeds=[(i, i) for i in range(pairs)])[0]

    verdict = decision(students, bases, shared)
    if verdict.decision is not None:
        return
    more = re.search(r"; (\d+) and (\d+) could decide", verdict.caveats[0])
    assert more is not None
    enough = int(more[1]), int(more[2])
    paired = shared == students == bases
    assert decision(*enough, enough[0] if paired else shared).decision is True
    fewer = max(students, min(enough) - 1), max(bases, min(enough) - 1)
    assert decision(*fewer, fewer[0] if paired else shared).decision is None


def test_layers_may_be_too_many_for_any_number_of_seeds() -> None:
    scores = {str(place): separated(2, 2) for place in range(600)}
    verdict = seed_control(scores, 2, "rs_distilled", level=1e-4)[0]
    assert "too many layers for any number of seeds" in verdict.sentence


def test_levels_are_reached_whatever_the_last_digit() -> None:
    """7 Students and 3 Bases have 120 relabelings: 6 layers at 1/120 each are .05 and not more."""
    layers = {str(place): separated(7, 3) for place in range(6)}
    assert [v.decision for v in seed_control(layers, 7, "rs_distilled")] == [True] * 6
    layers["6"] = separated(7, 3)
    assert [v.decision for v in seed_control(layers, 7, "rs_distilled")] == [None] * 7


def test_a_layer_where_a_pair_has_no_score_cannot_be_decided_and_does_not_cost_the_others() -> None:
    without = separated(3, 3)
    without[4, 5] = float("nan")
    copied, decided = seed_control({"a": without, "b": separated(3, 3)}, 3, "rs_distilled")
    assert (copied.statistic, copied.p_value, copied.adjusted_p_value, copied.decision) == (None,) * 4
    assert "undecided" in copied.sentence and "a copy of another's" in copied.sentence
    assert decided.decision is True and decided.adjusted_p_value == pytest.approx(0.05)


def test_shared_seeds_are_named_where_they_make_the_answer_impossible() -> None:
    verdict = seed_control({"a": separated(3, 3)}, 3, "rs_distilled", shared_seeds=[(0, 0), (1, 1), (2, 2)])[0]
    said = "With 3 Students and 3 Bases (3 pairs of one seed) no p-value can be below 0.125; 5 and 5 could decide."
    assert verdict.decision is None and said in verdict.sentence


def test_arguments_are_checked_where_no_pair_has_a_score() -> None:
    with pytest.raises(ValueError, match="Train a Base with another seed"):
        seed_control({"a": torch.full((2, 2), float("nan"))}, 1, "rs_distilled")


@pytest.mark.parametrize(
    ("question", "scores", "said"),
    [
        ("rs_distilled_all", separated(3, 3), "left_out_scores"),
        ("rs_distilled", LeftOutScores(separated(3, 3)[:, 3:], torch.zeros(20)), "pair_scores"),
    ],
)
def test_scores_of_pairs_and_of_several_bases_answer_their_own_questions(question: str, scores: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"results of {said}"):
        seed_control({"a": scores}, 3, question)


def test_an_unknown_question() -> None:
    with pytest.raises(ValueError, match="question must be 'fss'.* or .*, got 'rs'"):
        seed_control({"a": separated(3, 3)}, 3, "rs")


def test_a_single_pair_is_told_what_it_does_not_show() -> None:
    one = "One Student and one Base: these rows hold for these trained models"
    assert single_pair_sentence(1, 1).startswith(one)
    assert single_pair_sentence(3, 1).startswith("3 Students and one Base")
