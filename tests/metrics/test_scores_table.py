"""The table of scores: what reports, figures and documentation take from it."""

import re
from pathlib import Path

import pytest

import captum_kd.metrics
from captum_kd.metrics.inference import QUESTIONS, transfer_scores
from captum_kd.metrics.scores_table import SCORES, placebo_shares_of, scores_of_pair

PAGE = (Path(__file__).parents[2] / "docs" / "scores.md").read_text("utf-8")


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_the_page_on_scores_has_a_row_for_each(score):
    formula = score.formula.replace("|", r"\|")
    assert f"| `{score.name}` | {formula} | {score.description} |" in PAGE


def test_each_table_of_the_page_comes_with_its_limits():
    for part in re.split("^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        if re.search(r"^\| (score|part).* \| formula \|", part, re.MULTILINE):
            found = re.findall(r"^- \*\*(.+?):\*\*", part, re.MULTILINE)
            assert found[:4] == ["Range", "Compare with", "Does not mean", "Source"], part.splitlines()[0]


def test_the_page_has_every_function_of_scores():
    functions = [name for name in captum_kd.metrics.__all__ if name.islower()]
    assert len(functions) > 10 and not [name for name in functions if f"`{name}" not in PAGE]


def test_the_page_names_no_score_that_there_is_not():
    names = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Checks of maps")[0], re.MULTILINE)
    assert sorted(names) == sorted(score.name for score in SCORES)


def test_names_are_used_once():
    assert len({score.name for score in SCORES}) == len(SCORES)


@pytest.mark.parametrize("has_teacher", [False, True])
def test_scores_of_a_pair_are_those_of_the_table(has_teacher):
    found = transfer_scores("s", "b", labels="l", teacher="t" if has_teacher else None)
    assert list(found) == [score.name for score in scores_of_pair(has_teacher)]
    assert len(found) == (12 if has_teacher else 5)
    assert found["rs_distilled"] == (("s", "b"), "l")
    several = transfer_scores("s", ["b", "c"], labels="l", teacher="t" if has_teacher else None)
    assert list(several) == [score.name for score in scores_of_pair(has_teacher, all_bases=True)]
    assert several["rs_distilled_all"] == (("s", "b", "c"), "l")
    if has_teacher:
        assert several["teacher_only_distilled_all"] == (("s", "b", "c"), ("t", "l"))
        assert found["teacher_only_residual"] == (("b", "s"), ("t", "l"))


def test_only_what_is_left_after_removal_is_tested_by_jackknife():
    assert {score.name for score in SCORES if score.test == "jackknife"} == {"rs_distilled", "rs_residual", "rs_distilled_all"}
    assert {score.name for score in SCORES if score.test == "permutation"} == {"rs_student", "rs_base", "rs_teacher"}
    shares = ["teacher_distilled", "teacher_only_distilled"]
    questions = ["fss", "rs_distilled", *shares, *(f"{share}_over_placebos" for share in shares)]
    questions += [f"{score}_all" for score in ("rs_distilled", *shares)]
    questions += ["accuracy_over_base", "agreement_over_base", "agreement_over_placebos", "shared_errors", "shared_right_answers"]
    assert list(QUESTIONS) == questions + ["kl_over_base", "js_over_base", "explanation_over_base", "explanation_over_placebos"]
    assert placebo_shares_of(has_labels=True) == shares
