"""Seed control in words."""

from typing import Any

import pytest
import torch
from torch import Tensor

from captum_kd.metrics.inference.left_out_bases import LeftOutScores
from captum_kd.metrics.inference.seed_tests import relabeling_count
from captum_kd.metrics.inference.verdicts import QUESTIONS, seed_control, single_pair_sentence
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
        "and another lacks (by 0.200, p = 0.004)."
    )


def test_no_evidence_is_not_called_a_no() -> None:
    verdict = seed_control({"layer1": separated(5, 5, gap=0.0)}, 5, "teacher_distilled")[0]
    assert verdict.decision is False
    no_evidence = "layer1: no evidence that the part that Students have and Bases lack follows the Teacher"
    assert verdict.sentence.startswith(no_evidence)
    assert "p = 1.000" in verdict.sentence


def test_three_and_three_seeds_decide_one_layer_but_not_two() -> None:
    one = seed_control({"a": separated(3, 3)}, 3, "rs_distilled")
    assert [v.decision for v in one] == [True]
    two = seed_control({"a": separated(3, 3), "b": separated(3, 3)}, 3, "rs_distilled")
    assert [v.decision for v in two] == [None, None]
    assert two[0].smallest_p_value == pytest.approx(0.05)
    assert two[0].smallest_adjusted_p_value == pytest.approx(0.1)
    assert "cannot be decided" in two[0].sentence
    assert "0.100 after correction over 2 layers" in two[0].sentence


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
def test_every_verdict_is_one_plain_sentence(question: str) -> None:
    for gap, students in ((0.3, 5), (-0.3, 5), (0.3, 2)):
        scores = separated(students, students, gap)
        if BY_NAME[question].needs_all_bases:
            statistics = torch.linspace(gap, 0, relabeling_count(students, students)).double()
            scores = LeftOutScores(scores[:, students:], statistics)
        sentence = seed_control({"x": scores}, students, question)[0].sentence
        assert sentence.endswith(".") and sentence.count(". ") == 0 and sentence.startswith("x: ")


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
    assert "cannot be decided" in copied.sentence and "a copy of another's" in copied.sentence
    assert decided.decision is True and decided.adjusted_p_value == pytest.approx(0.05)


def test_shared_seeds_are_named_where_they_make_the_answer_impossible() -> None:
    verdict = seed_control({"a": separated(3, 3)}, 3, "rs_distilled", shared_seeds=[(0, 0), (1, 1), (2, 2)])[0]
    said = "with 3 Students and 3 Bases (3 pairs of one seed) the smallest possible p is 0.125"
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
    one = "one Student and one Base: these rows hold for these trained models"
    assert single_pair_sentence(1, 1).startswith(one)
    assert single_pair_sentence(3, 1).startswith("3 Students and one Base")
